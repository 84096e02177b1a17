"""expiMap as scArches documents it: Lotfollahi et al. 2023, doi 10.1038/s41556-022-01072-x.

Where the numbers differ on purpose from scArches 0.6.1: genes of an AnnData are matched by name; categories are sorted
instead of in order of appearance; the training split is seeded and stratified; surgery trains the rows of new
conditions and new terms, and leaves the reference's terms bit-identical; ``new_n_ext`` and ``new_n_ext_m`` are how many
terms are added, as it documents, and not how many there are then; ``alpha_l1`` can be annealed; the best
epoch's weights are restored; what is drawn is seeded; names of terms are saved with the model.

The caller's AnnData is never written to, but for ``uns`` of those methods that are there to fill it:
:meth:`EXPIMAP.latent_directions`, :meth:`EXPIMAP.latent_enrich` and :meth:`EXPIMAP.update_terms` with a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from hub_client import errors
from hub_client.compat import _groups, _plans, _programs
from hub_client.compat._base import SAMPLE_SEED, Expression, normalization, setting
from hub_client.compat._groups import REST, Values
from hub_client.compat._one_hot import OneHotModel, overrides
from hub_client.compat._programs import TERMS
from hub_client.data.genes import Panel
from hub_client.manifest.configs import ExpiMapConfig as Config
from hub_client.manifest.v1 import Term
from hub_client.models.architectures.expimap import ExpiMap
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions
from hub_client.programs.terms import active_terms, term_directions, term_genes

CHANGEABLE = {"dr_rate": "dropout", "use_hsic": "hsic", "hsic_one_vs_all": "hsic_one_vs_all"}
"""Constructor arguments that surgery may change, and what they are called here."""


class EXPIMAP(OneHotModel):
    """A trainable expiMap on one AnnData, with scArches' parameters and defaults.

    Parameters
    ----------
    adata
        Cells to train on, ``(cells, genes)``: counts for nb, log1p values for mse. Names of the terms are read from
        ``adata.uns["terms"]`` where there is one for each; otherwise terms are numbered.
    condition_key
        The obs column with batches or other conditions; None: one condition for all.
    conditions
        Its ordered categories; None: the sorted ones of ``adata``.
    hidden_layer_sizes
        Widths of the encoder's hidden layers.
    dr_rate
        Dropout.
    recon_loss
        ``nb`` or ``mse``.
    use_l_encoder
        Infer each cell's library size; where the last layer is the softmax.
    use_bn, use_ln
        Batch or layer normalisation.
    mask
        1 where a gene is in a program, ``(terms, genes)``.
    mask_key
        The key of ``adata.varm`` that holds the mask, ``(genes, terms)``, if it is not given.
    decoder_last_layer
        ``softmax``, ``softplus``, ``exp``, ``relu`` or ``identity``; None: softmax for nb, identity for mse.
    soft_mask
        Let genes outside a program have weights, under the penalty ``alpha_l1``.
    n_ext, n_ext_m
        How many unconstrained and constrained terms there are beyond the mask's.
    use_hsic, hsic_one_vs_all
        Keep unconstrained terms independent of the others: all at once, or one by one.
    ext_mask
        As ``mask``, for the constrained terms, ``(n_ext_m, genes)``.
    soft_ext_mask
        As ``soft_mask``, for the constrained terms.

    Raises
    ------
    InvalidInput
        If there is no mask, or one does not have the sizes it should.
    Unsupported
        For another ``recon_loss``.
    ManifestError
        If the arguments contradict each other, such as ``identity`` for nb.
    VocabularyError
        If there is no such obs column, or it has gaps.
    """

    kind: ClassVar[str] = "expimap"
    likelihoods: ClassVar[tuple[str, ...]] = ("nb", "mse")

    def __init__(
        self,
        adata: AnnData,
        condition_key: str | None = None,
        conditions: list[str] | None = None,
        hidden_layer_sizes: Sequence[int] = (256, 256),
        dr_rate: float = 0.05,
        recon_loss: Literal["nb", "mse"] = "nb",
        use_l_encoder: bool = False,
        use_bn: bool = False,
        use_ln: bool = True,
        mask: ArrayLike | None = None,
        mask_key: str = "I",
        decoder_last_layer: Literal["softmax", "softplus", "exp", "relu", "identity"] | None = None,
        soft_mask: bool = False,
        n_ext: int = 0,
        n_ext_m: int = 0,
        use_hsic: bool = False,
        hsic_one_vs_all: bool = False,
        ext_mask: ArrayLike | None = None,
        soft_ext_mask: bool = False,
    ) -> None:
        programs = _programs.of_shape(_programs.mask_of(adata, mask, mask_key), genes=adata.n_vars, argument="mask")
        constrained = _programs.extension_mask(ext_mask, n_ext_m, genes=adata.n_vars)
        softmax = (decoder_last_layer or {"nb": "softmax"}.get(recon_loss)) == "softmax"
        architecture = {
            "kind": self.kind,
            "hidden": tuple(hidden_layer_sizes),
            "dropout": dr_rate,
            "likelihood": recon_loss,
            "normalization": normalization(use_bn, use_ln),
            "last_layer": decoder_last_layer,
            "library_encoder": use_l_encoder and softmax,
            "soft_mask": soft_mask,
            "constrained_extensions": n_ext_m,
            "unconstrained_extensions": n_ext,
            "soft_extension_mask": soft_ext_mask,
            "hsic": use_hsic,
            "hsic_one_vs_all": hsic_one_vs_all,
        }
        genes = list(map(str, adata.var_names))
        terms = [
            *_programs.terms(_programs.names_of(adata, len(programs)), programs, "annotated", genes=genes),
            *_programs.terms(_programs.numbered("constrained", n_ext_m), constrained, "constrained", genes=genes),
            *_programs.terms(_programs.numbered("unconstrained", n_ext), [()] * n_ext, "unconstrained", genes=genes),
        ]
        self._begin(adata, condition_key, conditions, what="expiMap", architecture=architecture, terms=terms)

    # --- what scArches keeps as attributes ---------------------------------------------------------------------------

    @property
    def _expimap(self) -> ExpiMap:
        return cast(ExpiMap, self._network)

    @property
    def _settings(self) -> Config:
        return cast(Config, self._config)

    @property
    def latent_dim_(self) -> int:
        """Number of annotated terms; the latent has a column for each extension besides."""
        return len(self._of_kind("annotated"))

    @property
    def mask_(self) -> list[list[int]]:
        """1 where a gene is in an annotated program, ``(terms, genes)``."""
        return self._masks("annotated")

    @property
    def ext_mask_(self) -> list[list[int]] | None:
        """1 where a gene is in a constrained extension's program, ``(terms, genes)``; None where there are none."""
        return self._masks("constrained") or None

    n_ext_: int = setting("unconstrained_extensions", "Number of unconstrained extensions.")
    n_ext_m_: int = setting("constrained_extensions", "Number of constrained extensions.")
    soft_mask_: bool = setting("soft_mask", "Whether genes outside an annotated program may have weights.")
    soft_ext_mask_: bool = setting(
        "soft_extension_mask", "Whether genes outside a constrained extension's program may have weights."
    )

    @property
    def use_hsic_(self) -> bool:
        """Whether unconstrained extensions are kept independent."""
        return self._settings.hsic and self.n_ext_ > 0

    hsic_one_vs_all_: bool = setting("hsic_one_vs_all", "Whether they are compared one by one.")
    use_l_encoder_: bool = setting("library_encoder", "Whether library sizes are inferred.")
    decoder_last_layer_: str = setting("mean_layer", "The last layer.")

    def _of_kind(self, kind: str) -> list[Term]:
        return [term for term in self.model.manifest.terms if term.kind == kind]

    def _masks(self, kind: str) -> list[list[int]]:
        genes, members = self.model.manifest.genes.names, ({*term.genes} for term in self._of_kind(kind))
        return [[int(gene in program) for gene in genes] for program in members]

    # --- training and surgery ----------------------------------------------------------------------------------------

    def train(
        self,
        n_epochs: int = 400,
        lr: float = 0.001,
        eps: float = 0.01,
        alpha: float | None = None,
        omega: Any = None,
        **kwargs: Any,
    ) -> None:
        """Train on the AnnData the model was made with.

        Parameters
        ----------
        n_epochs
            Epochs.
        lr, eps
            Adam's learning rate and epsilon. scArches' epsilon of 0.01 undertrains; 1e-8 does not.
        alpha
            Group lasso of the annotated terms, which empties whole terms; None: none.
        omega
            Multiplies ``alpha`` term by term, ``(terms,)``.
        **kwargs
            ``alpha_kl`` (0.35 if it is not given) and ``alpha_epoch_anneal`` (``min(130, n_epochs)``; None: the full
            weight at once); ``alpha_l1`` (L1 of genes outside soft masks), ``alpha_l1_epoch_anneal`` and
            ``alpha_l1_anneal_each``; ``gamma_ext`` (L1 of unconstrained terms), ``gamma_epoch_anneal`` and
            ``gamma_anneal_each``; ``beta`` (weight of dependence). What scArches' trainer takes besides:
            ``weight_decay``, ``batch_size``, ``train_frac``, ``use_early_stopping``, ``early_stopping_kwargs``,
            ``reload_best``, ``alpha_iter_anneal``, ``clip_value``, ``seed``, ``use_stratified_sampling``, ``monitor``;
            ``monitor_only_val``, ``print_stats`` and ``n_workers`` (have no use here: the bar shows training's terms,
            :meth:`nonzero_terms` and :meth:`term_genes` return what is left, and minibatches are gathered in the
            process).

        Raises
        ------
        InvalidInput
            For an unknown keyword, an ``omega`` of another length, or a model loaded without an AnnData.
        """
        given = kwargs if kwargs.get("alpha_iter_anneal") else {"alpha_epoch_anneal": min(130, n_epochs)} | kwargs
        arguments = _plans.training_arguments(given, defaults=_plans.EXPIMAP)
        scale = () if omega is None else tuple(np.asarray(omega, dtype=float).reshape(-1).tolist())
        penalties = _plans.penalties(arguments) | {"group_lasso": alpha or 0.0, "group_lasso_scale": scale}
        self._train(arguments, epochs=n_epochs, learning_rate=lr, adam_epsilon=eps, **penalties)

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | Path | Self | Model,
        freeze: bool = True,
        freeze_expression: bool = True,
        unfreeze_ext: bool = True,
        remove_dropout: bool = True,
        new_n_ext: int | None = None,
        new_n_ext_m: int | None = None,
        new_ext_mask: ArrayLike | None = None,
        new_soft_ext_mask: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Return a model with room for the conditions and new terms of a query: architecture surgery.

        The scores of reference cells in annotated terms stay bit-identical. Those in extensions that the reference has
        stay too, unless ``unfreeze_ext`` trains these again.

        Parameters
        ----------
        adata, reference_model, freeze_expression, remove_dropout
            As for :meth:`hub_client.compat.TRVAE.load_query_data`.
        freeze
            Train the rows of new conditions, and extensions, only. False trains everything, and moves the reference.
        unfreeze_ext
            Train extension terms, new ones and those the reference has. False leaves new ones as they start, at random.
        new_n_ext, new_n_ext_m
            How many unconstrained and constrained terms to add.
        new_ext_mask
            1 where a gene is in a new constrained term's program, ``(new_n_ext_m, genes)``: in the order of the query's
            genes, or of the model's where these are not as many.
        new_soft_ext_mask
            Let genes outside these programs have weights, under the penalty ``alpha_l1``.
        **kwargs
            Constructor arguments to change: ``use_hsic``, ``hsic_one_vs_all``, ``dr_rate``.

        Raises
        ------
        InvalidInput
            If ``new_n_ext_m`` comes without a mask of as many rows.
        Unsupported
            For a constructor argument that the reference's weights settle.
        """
        changes = overrides(kwargs, CHANGEABLE)
        reference = cls._reference(reference_model)
        made = cls._grown(
            adata,
            reference,
            freeze=freeze,
            freeze_expression=freeze_expression,
            remove_dropout=remove_dropout,
            changes=changes,
            extensions=Extensions(
                constrained=reference._new_terms(adata, new_ext_mask, new_n_ext_m or 0),
                unconstrained=new_n_ext or 0,
                soft=new_soft_ext_mask,
                hsic=changes.get("hsic", reference._settings.hsic),
                hsic_one_vs_all=changes.get("hsic_one_vs_all", reference._settings.hsic_one_vs_all),
                retrain=unfreeze_ext and reference.n_ext_ + reference.n_ext_m_ > 0,
            ),
        )
        if freeze and not unfreeze_ext:
            made._expimap.freeze_extensions()
        return made

    def _new_terms(self, adata: AnnData, mask: ArrayLike | None, number: int) -> list[Term]:
        """Return the constrained terms that a query brings, by this model's genes."""
        columns = adata.n_vars if mask is not None and np.shape(mask)[-1] == adata.n_vars else self.input_dim_
        rows = _programs.extension_mask(mask, number, genes=columns)
        panel = Panel.of(self.model.manifest)
        genes = list(adata.var_names) if columns == adata.n_vars else list(self.model.manifest.genes.names)
        places = [found and found[0] for found in map(panel.find, map(str, genes))]
        own = [sorted({place for index in row if (place := places[index]) is not None}) for row in rows]
        names = _programs.numbered("constrained", self.n_ext_m_ + number)[self.n_ext_m_ :]
        terms = _programs.terms(names, own, "constrained", genes=panel.names)
        return [Term.model_validate(fields) for fields in terms]

    # --- inference ---------------------------------------------------------------------------------------------------

    def get_latent(
        self,
        x: Expression | None = None,
        c: ArrayLike | None = None,
        only_active: bool = False,
        mean: bool = False,
        mean_var: bool = False,
    ) -> Values | tuple[Values, Values]:
        """Return the scores of cells, ``(cells, terms)``: a seeded sample of the posterior, or its mean.

        Parameters
        ----------
        x, c, mean, mean_var
            As for :meth:`hub_client.compat.TRVAE.get_latent`.
        only_active
            Return the columns of :meth:`nonzero_terms` only.
        """
        cells = self._cells(x, c)
        chosen = self.nonzero_terms() if only_active else np.ones(len(self.model.manifest.terms), dtype=bool)
        if mean:
            return embed(self.model, cells)[:, chosen]
        if mean_var:
            centre, variance = self._expimap.posterior(cells)
            return centre[:, chosen], variance[:, chosen]
        return self._sampled(cells)[:, chosen]

    # --- terms -------------------------------------------------------------------------------------------------------

    def nonzero_terms(self) -> NDArray[np.bool_]:
        """Return which terms are active, ``(terms,)``: those the group lasso left weights, and all extensions.

        :func:`hub_client.programs.terms.active_terms` checks extensions for remaining weights, too.
        """
        extension = np.array([term.kind != "annotated" for term in self.model.manifest.terms])
        active: NDArray[np.bool_] = active_terms(self.model) | extension
        return active

    def update_terms(self, terms: str | Sequence[str] = TERMS, adata: AnnData | None = None) -> list[str] | None:
        """Name all terms, also extensions, which are numbered.

        Parameters
        ----------
        terms
            The key of ``adata.uns`` with the names, which gets the longer list; or the names, and the list is returned.
        adata
            Whose ``uns``; None: the model's own cells.

        Raises
        ------
        InvalidInput
            If there are not as many names as terms.
        """
        if not isinstance(terms, str):
            return self._all_names(terms)
        target = self._target(adata)
        target.uns[terms] = self._all_names(_programs.in_uns(target, terms))
        return None

    def mask_genes(self, terms: str | Sequence[str] = TERMS) -> dict[str, list[str]]:
        """Return the genes of each program by the name of its term; unconstrained terms have none.

        Parameters
        ----------
        terms
            The key of ``adata.uns`` with the names, or the names. Where ``uns`` has no ``terms``, the model's own.
        """
        position = self.model.manifest.genes.positions()
        named = zip(self._names(terms), self.model.manifest.terms, strict=True)
        return {
            name: sorted(term.genes, key=position.__getitem__) for name, term in named if term.kind != "unconstrained"
        }

    def term_genes(self, term: str | int, terms: str | Sequence[str] = TERMS) -> pd.DataFrame:
        """Return the genes that weigh in a term, the heaviest first: ``genes``, ``weights``, ``in_mask``.

        Parameters
        ----------
        term
            Its name, or its position.
        terms
            As for :meth:`mask_genes`.

        Raises
        ------
        VocabularyError
            If there is no such term.
        """
        names = self._names(terms)
        return term_genes(self.model, names.index(term) if isinstance(term, str) and term in names else term)

    def latent_directions(
        self,
        method: Literal["sum", "counts"] = "sum",
        get_confidence: bool = False,
        adata: AnnData | None = None,
        key_added: str = "directions",
    ) -> None:
        """Write each term's direction into ``adata.uns[key_added]``, ``(terms,)``: 1 up, -1 down, 0 neither.

        Parameters
        ----------
        method
            By the sign of the ``sum`` of its weights, or by whether more are positive than negative (``counts``).
        get_confidence
            For ``counts``: also write the confidence in [0, 1] into ``adata.uns[key_added + "_confindence"]``, which is
            how scArches spells it.
        adata
            Whose ``uns``; None: the model's own cells.
        key_added
            The key of ``uns``.

        Raises
        ------
        InvalidInput
            If there is no such method.
        """
        directions = term_directions(self.model, method=method)
        target = self._target(adata)
        target.uns[key_added] = directions.signs
        if get_confidence and directions.confidence is not None:
            target.uns[f"{key_added}_confindence"] = directions.confidence

    def latent_enrich(
        self,
        groups: str | Mapping[str, Sequence[str]],
        comparison: str | Sequence[str] = REST,
        n_sample: int = 5000,
        use_directions: bool = False,
        directions_key: str = "directions",
        select_terms: ArrayLike | None = None,
        adata: AnnData | None = None,
        exact: bool = True,
        key_added: str = "bf_scores",
    ) -> None:
        """Write into ``adata.uns[key_added]`` how likely each term scores higher in a group than elsewhere.

        That is, for each group, ``p_h0`` (the probability), ``p_h1`` (its complement) and ``bf`` (the logarithm of
        their ratio), ``(terms,)`` each. :func:`hub_client.enrichment.enrichment` gives a table instead.

        Parameters
        ----------
        groups
            An obs column, or group to names of its cells.
        comparison
            The groups to compare with; ``rest``: all others.
        n_sample
            How many pairs of cells are drawn, with replacement, seeded.
        use_directions
            Multiply scores by the directions in ``adata.uns[directions_key]``, which :meth:`latent_directions` writes.
        directions_key
            Their key.
        select_terms
            Positions of the terms to compare; None: all.
        adata
            The cells, whose ``uns`` is written to; None: the model's own.
        exact
            Take probabilities from the posteriors' means and variances; False: compare a sample of them.
        key_added
            The key of ``uns``.

        Raises
        ------
        VocabularyError
            If there is no such column, group or cell.
        InvalidInput
            If ``use_directions`` finds none in ``uns``.
        """
        target = self._target(adata)
        rows = _groups.grouped(target, groups)
        chosen = slice(None) if select_terms is None else np.asarray(select_terms)
        number = len(self.model.manifest.terms)
        if use_directions and len(target.uns.get(directions_key, ())) != number:
            raise errors.InvalidInput(
                f"adata.uns has no {directions_key!r} with a direction for each of the {number:,} terms; "
                "write it with latent_directions().",
                facts={"directions_key": directions_key},
            )
        signs = np.asarray(target.uns[directions_key] if use_directions else np.ones(number), dtype=np.float32)
        mean, variance = self._expimap.posterior(self._cells(target, None))
        posterior = _groups.Posterior(mean, variance, signs, chosen)
        draw = np.random.default_rng(SAMPLE_SEED)
        target.uns[key_added] = {
            group: posterior.compared(draw.choice(one, n_sample), draw.choice(other, n_sample), exact, draw)._asdict()
            for group, one, other in _groups.comparisons(rows, comparison)
        }

    def _target(self, adata: AnnData | None) -> AnnData:
        target = self.adata if adata is None else adata
        if target is None:
            raise errors.InvalidInput("this model was loaded without its AnnData: pass adata.")
        return target

    def _names(self, terms: str | Sequence[str]) -> list[str]:
        """Return the name of every term: given, in ``uns``, or the model's own."""
        if not isinstance(terms, str):
            return self._all_names(terms)
        if terms == TERMS and (self.adata is None or TERMS not in self.adata.uns):
            return [term.name for term in self.model.manifest.terms]
        return self._all_names(_programs.in_uns(self._target(None), terms))

    def _all_names(self, given: Sequence[str]) -> list[str]:
        """Return names of all terms from those of all, or of the annotated ones."""
        annotated, terms = self.latent_dim_, self.model.manifest.terms
        if len(given) not in (annotated, len(terms)):
            raise errors.InvalidInput(
                f"there are {len(given):,} names for {annotated:,} terms of the mask and {len(terms) - annotated:,} "
                "extensions; give one for each, with or without the extensions.",
                facts={"names": len(given), "terms": annotated, "extensions": len(terms) - annotated},
            )
        return [*map(str, given), *(term.name for term in terms[len(given) :])]
