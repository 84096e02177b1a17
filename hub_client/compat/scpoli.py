"""scPoli as scArches documents it: De Donno 2023, doi 10.1038/s41592-023-02035-2.

Where the numbers differ on purpose from scArches 0.6.1: genes are matched by name; categories are sorted instead of in
order of appearance; surgery trains the rows of new conditions and leaves the reference bit-identical; prototypes and
``classify`` use the posterior mean; unlabelled prototypes are made on first use; saved models hold no rows
of ``obs``; the caller's AnnData is never written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray

from hub_client import errors
from hub_client.compat import _manifests, _plans
from hub_client.compat._base import Expression, drawn, normalization, reconfigured
from hub_client.compat._cells import (
    Conditions,
    cell_labels,
    check_combined,
    constant_columns,
    nearest_label,
    one_row_each,
    recoded,
    subsample_groups,
    with_combined,
    with_conditions,
)
from hub_client.compat._scpoli_attributes import ScPoliAttributes
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.interop import import_legacy
from hub_client.interop.scarches_files import Saved
from hub_client.interop.scarches_vaes import genes_of
from hub_client.manifest.configs import ScPoliConfig as Config
from hub_client.manifest.inputs import Genes, InputSpec
from hub_client.manifest.v1 import Manifest, PrototypeLevel, Prototypes
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import add_label, retraining, surgery


class scPoli(ScPoliAttributes):
    """A trainable scPoli on one AnnData, with scArches' parameters and defaults.

    Parameters
    ----------
    adata
        Cells to train on, ``(cells, genes)``: counts for nb, zinb and poisson, log1p values for mse.
    share_metadata
        Whether :meth:`get_conditional_embeddings` adds the ``obs`` columns that are constant in each condition. Kept in
        memory only.
    obs_metadata
        That table, if it should not be read from ``adata.obs``: one row per condition.
    condition_keys
        obs columns with batches or other conditions.
    conditions
        Condition key to its ordered categories; None: the sorted ones of ``adata``.
    conditions_combined
        Ordered combinations of several keys' categories, joined by ``_``; None: those of ``adata``.
    inject_condition
        Which networks see the condition embeddings: ``encoder``, ``decoder``.
    cell_type_keys
        obs columns with labels, one per level.
    cell_types
        Label to the cell type keys it occurs in; None: the sorted ones of ``adata``.
    unknown_ct_names
        Labels that mean a cell is not labelled.
    labeled_indices
        Positions of the cells whose labels are used; None: all.
    prototypes_labeled, prototypes_unlabeled
        Prototypes to start from: ``{"mean": (labels, latent), "cov": (labels, latent, latent)}``.
    hidden_layer_sizes
        Widths of the encoder's hidden layers; None: one of ``ceil(sqrt(genes))``.
    latent_dim, embedding_dims, embedding_max_norm
        Sizes of the latent and of each key's condition embeddings, and the longest embedding.
    dr_rate
        Dropout.
    use_mmd, mmd_on, mmd_boundary, beta
        scArches accepts these for scPoli and ignores them; here ``use_mmd=True`` is refused.
    recon_loss
        ``nb``, ``zinb``, ``mse`` or ``poisson``.
    use_bn, use_ln
        Batch or layer normalisation.

    Raises
    ------
    Unsupported
        For ``use_mmd=True``, and for a ``recon_loss`` that scArches names but cannot train.
    VocabularyError
        If an obs column is missing or has gaps.
    """

    def __init__(
        self,
        adata: AnnData,
        share_metadata: bool = True,
        obs_metadata: pd.DataFrame | None = None,
        condition_keys: str | list[str] | None = None,
        conditions: dict[str, list[str]] | None = None,
        conditions_combined: list[str] | None = None,
        inject_condition: Sequence[Literal["encoder", "decoder"]] = ("encoder", "decoder"),
        cell_type_keys: str | list[str] | None = None,
        cell_types: dict[str, list[str]] | None = None,
        unknown_ct_names: list[str] | None = None,
        labeled_indices: Sequence[int] | None = None,
        prototypes_labeled: dict[str, Any] | None = None,
        prototypes_unlabeled: dict[str, Any] | None = None,
        hidden_layer_sizes: list[int] | None = None,
        latent_dim: int = 10,
        embedding_dims: int | list[int] = 10,
        embedding_max_norm: float = 1.0,
        dr_rate: float = 0.05,
        use_mmd: bool = False,
        mmd_on: Literal["z", "y"] = "z",
        mmd_boundary: int | None = None,
        recon_loss: Literal["nb", "zinb", "mse", "poisson"] = "nb",
        beta: float = 1,
        use_bn: bool = False,
        use_ln: bool = True,
    ) -> None:
        _refuse(use_mmd=use_mmd, recon_loss=recon_loss)
        keys = _manifests.as_list(cell_type_keys)
        named = cell_labels(adata, keys, labeled_indices, unknown_ct_names)
        levels = _manifests.levels(adata.obs, keys, cell_types, named)
        described = _manifests.conditions(
            adata.obs, _manifests.as_list(condition_keys), conditions, embedding_dims, embedding_max_norm
        )
        config = Config(
            hidden=tuple(hidden_layer_sizes or [math.ceil(math.sqrt(adata.n_vars))]),
            latent=latent_dim,
            dropout=dr_rate,
            likelihood=recon_loss,
            normalization=normalization(use_bn, use_ln),
            inject=tuple(inject_condition),
        )
        manifest = Manifest(
            name="scpoli",
            architecture=config,
            genes=Genes.model_validate(genes_of(adata.var_names)),
            input=InputSpec(kind="log1p" if recon_loss == "mse" else "counts"),
            conditions=described,
            combinations=_manifests.combinations(adata.obs, [c.key for c in described], conditions_combined),
            labels=levels,
            prototypes=Prototypes(
                levels=tuple(PrototypeLevel.of(position, level.key) for position, level in enumerate(levels)),
                unlabelled=len(prototypes_unlabeled["mean"]) if prototypes_unlabeled else 0,
            ),
        )
        model = drawn(manifest)
        self._hold(model, adata, labeled_indices, unknown_ct_names, share=share_metadata, metadata=obs_metadata)
        self.mmd_on_, self.mmd_boundary_, self.beta_ = mmd_on, mmd_boundary, beta
        if prototypes_labeled:
            self._network.place_prototypes(_tensor(prototypes_labeled["mean"]), _tensor(prototypes_labeled["cov"]))
        if prototypes_unlabeled:
            self._network.unlabelled = _tensor(prototypes_unlabeled["mean"])

    def _hold(
        self,
        model: Model,
        adata: AnnData | None,
        labeled: Sequence[int] | None = None,
        unknown: list[str] | None = None,
        *,
        share: bool = True,
        metadata: pd.DataFrame | None = None,
    ) -> None:
        self.model, self.labeled_indices_, self.unknown_ct_names_ = model, labeled, unknown
        self.adata = None if adata is None else with_combined(adata, self.condition_keys_)
        if labeled is None and adata is not None:
            self.labeled_indices_ = range(adata.n_obs)
        self.share_metadata_, self._metadata = share, metadata
        self.history, self.trainer, self.is_trained_ = None, None, False

    @classmethod
    def _around(cls, model: Model, adata: AnnData | None, **kept: Any) -> Self:
        made = cls.__new__(cls)
        made._hold(model, adata, **kept)
        return made

    # --- the documented methods --------------------------------------------------------------------------------------

    def train(
        self,
        n_epochs: int = 100,
        pretraining_epochs: int | None = None,
        eta: float = 1,
        lr: float = 0.001,
        eps: float = 0.01,
        alpha_epoch_anneal: float | None = 1e2,
        reload_best: bool = False,
        prototype_training: bool = True,
        unlabeled_prototype_training: bool = True,
        **kwargs: Any,
    ) -> None:
        """Train on the AnnData the model was made with.

        Parameters
        ----------
        n_epochs, pretraining_epochs
            Epochs in all, and those before prototypes join the loss; None: nine tenths, or all without labels.
        eta
            Weight of the prototype loss.
        lr, eps
            Adam's learning rate and epsilon. scArches' epsilon of 0.01 undertrains; 1e-8 does not.
        alpha_epoch_anneal
            Epochs over which the KL weight rises.
        reload_best
            Whether to keep the weights of the best validation epoch.
        prototype_training, unlabeled_prototype_training
            Whether prototypes are trained, and whether unlabelled ones are made after training if ``unlabeled_weight``
            is not 0 (otherwise they are made by :meth:`get_prototypes_info` or :meth:`add_new_cell_type`).
        **kwargs
            What scArches' trainer takes: ``weight_decay``, ``batch_size``, ``train_frac``, ``use_early_stopping``,
            ``early_stopping_kwargs``, ``alpha_kl``, ``alpha_iter_anneal``, ``clip_value``, ``seed``,
            ``use_stratified_sampling``, ``unlabeled_weight``, ``clustering``, ``clustering_res``, ``n_clusters``,
            ``monitor``, ``n_workers`` (has no use here: minibatches are gathered in the process).

        Raises
        ------
        InvalidInput
            For an unknown keyword, or a model loaded without an AnnData.
        """
        arguments = _plans.training_arguments(kwargs | {"alpha_epoch_anneal": alpha_epoch_anneal})
        if not unlabeled_prototype_training:
            arguments["unlabeled_weight"] = 0.0
        cells = self._training_cells()
        silent = not (prototype_training and cells.labels)
        chosen = _plans.plan(
            arguments,
            cells=len(cells),
            epochs=n_epochs,
            pretraining_epochs=n_epochs if silent else pretraining_epochs,
            prototype_weight=eta,
            learning_rate=lr,
            adam_epsilon=eps,
            keep_best=reload_best,
        )
        self._fit(cells, plan=chosen, arguments=arguments)

    def get_latent(self, adata: AnnData, mean: bool = False) -> NDArray[np.float32]:
        """Return the latent of cells, ``(cells, latent)``: a seeded sample of the posterior, or its mean."""
        cells = self._cells(adata)
        return embed(self.model, cells) if mean else self._sampled(cells)

    def classify(
        self,
        adata: AnnData | NDArray[np.float32],
        prototype: bool = False,
        p: int = 2,
        get_prob: bool = False,
        log_distance: bool = True,
        scale_uncertainties: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """Return labels by the nearest prototype, from the posterior mean.

        Parameters
        ----------
        adata
            Cells, or with ``prototype=True`` points of the latent, ``(points, latent)``.
        prototype
            Whether ``adata`` holds points of the latent.
        p
            The order of the norm that measures distances.
        get_prob
            Return the softmax of negative distances and, as ``uncert``, the best label's probability (a confidence).
        log_distance
            Without effect, as in scArches.
        scale_uncertainties
            Scale ``uncert`` to [0, 1] over the given cells.

        Returns
        -------
        dict
            Per level: ``preds`` ``(cells,)``, ``uncert`` ``(cells,)`` (the distance to the nearest prototype), and
            ``weighted_distances`` ``(cells, labels)`` in the level's order of labels. For an uncertainty in [0, 1]
            that means the same for every architecture see :func:`hub_client.predict`.
        """
        points = np.asarray(adata) if prototype else embed(self.model, self._cells(adata))
        scores = self._network.distances(points, power=float(p))
        return {
            key: nearest_label(found.labels, np.asarray(found.values), get_prob, scale_uncertainties)
            for key, found in scores.items()
        }

    def get_conditional_embeddings(self) -> AnnData | dict[str, AnnData]:
        """Return condition embeddings, ``(conditions, embedding)`` AnnData; a dict by key for several keys."""
        tables = self._network.embedding_rows()
        embeddings = {key: self._embeddings(key, rows) for key, rows in tables.items()}
        return next(iter(embeddings.values())) if len(embeddings) == 1 else embeddings

    def _embeddings(self, key: str, rows: torch.Tensor) -> AnnData:
        names = self.conditions_[key]
        obs = pd.DataFrame(index=pd.Index(names, name=key))
        if self.share_metadata_:  # the obs columns that have one value per condition
            if self._metadata is not None:
                obs = self._metadata.reindex(names)
            elif self.adata is not None and key in self.adata.obs:
                obs = constant_columns(self.adata.obs, key).reindex(names)
        return AnnData(rows.cpu().numpy(), obs=obs)

    def get_prototypes_info(self, prototype_set: Literal["labeled", "unlabeled"] = "labeled") -> AnnData:
        """Return prototypes as AnnData, ``(prototypes, latent)``, with names and labels by :meth:`classify`."""
        sets = {"labeled": self._labelled_points, "unlabeled": self._unlabelled_points}
        if prototype_set not in sets:
            raise errors.InvalidInput(
                f"prototype_set is {prototype_set!r}; it is 'labeled' or 'unlabeled'.",
                facts={"prototype_set": prototype_set},
            )
        points, names = sets[prototype_set]()
        obs: dict[str, Any] = {"batch": f"prototype-Set {prototype_set.capitalize()}"}
        for key, found in self.classify(points, prototype=True).items():
            obs |= {key: names, f"{key}_pred": found["preds"], f"{key}_uncert": found["uncert"]}
        return AnnData(points, obs=pd.DataFrame(obs, index=[str(i) for i in range(len(points))]))

    def _labelled_points(self) -> tuple[NDArray[np.float32], list[str]]:
        names = [name for level in self.model.manifest.labels for name in level.categories]
        return self.prototypes_labeled_["mean"], names

    def _unlabelled_points(self) -> tuple[NDArray[np.float32], list[str]]:
        if not len(self._network.unlabelled):
            plan = self.model.manifest.training.plan or _plans.plan(_plans.DEFAULTS, cells=1)
            self._network.cluster_unlabelled(self._training_cells(), plan)
        points = self.prototypes_unlabeled_["mean"]
        return points, [str(number) for number in range(len(points))]

    def add_new_cell_type(
        self,
        cell_type_name: str,
        obs_key: str,
        prototypes: list[int],
        x: Expression | None = None,
        c: Conditions | None = None,
    ) -> None:
        """Name unlabelled prototypes: their mean becomes the prototype of a new label.

        Parameters
        ----------
        cell_type_name
            The new label.
        obs_key
            The level it belongs to.
        prototypes
            Numbers of the unlabelled prototypes.
        x
            The cells the new prototype's covariance is measured on: ``(cells, genes)`` in the order of the model's
            genes, or an AnnData, whose genes are matched by name; None: the model's.
        c
            Their conditions: a dict by condition key, or an array where there is one key; None: those of the AnnData.

        Raises
        ------
        VocabularyError
            If the label is known, or there is no such level, prototype or condition.
        InvalidInput
            If ``c`` does not have a condition for each cell and key.
        """
        self._unlabelled_points()
        cells = self._cells(with_conditions(self._given(x), c, self.condition_keys_))
        self.model = add_label(self.model, obs_key, label=cell_type_name, clusters=prototypes, cells=cells)

    def get_recon_loss(
        self,
        adata: AnnData,
        batch_size: int = 128,
        condition_encoders: dict[str, dict[str, int]] | None = None,
        conditions_combined_encoder: dict[str, int] | None = None,
    ) -> float:
        """Return the mean reconstruction loss of cells (nats; squared error for mse), from the posterior mean.

        Parameters
        ----------
        adata
            Cells.
        batch_size
            Cells at a time.
        condition_encoders
            Condition key to a code for each category: the codes of known categories, to try cells under other
            conditions than their own.
        conditions_combined_encoder
            The same for combinations. It must agree with ``condition_encoders``, and is needed for nothing else.
        """
        obs = recoded(adata.obs, self.conditions_, condition_encoders or {})
        cells = self._cells(AnnData(adata.X, obs=obs, var=adata.var))
        check_combined(adata.obs, cells, self.conditions_combined_, conditions_combined_encoder)
        return float(self._network.reconstruction_losses(cells, batch_size=batch_size).mean())

    @classmethod
    def _from_scarches(cls, saved: Saved, adata: AnnData | None) -> Self:
        kept = saved.attributes
        return cls._around(
            import_legacy.from_scarches(saved, kind="scpoli"),
            adata,
            labeled=kept.get("labeled_indices_"),
            unknown=kept.get("unknown_ct_names_"),
            share=bool(kept.get("share_metadata_", True)),
            metadata=one_row_each(kept.get("obs_metadata_")),
        )

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | Path | Self | Model,
        labeled_indices: Sequence[int] | None = None,
        unknown_ct_names: list[str] | None = None,
        freeze: bool = True,
        freeze_expression: bool = True,
        remove_dropout: bool = True,
        return_new_conditions: bool = False,
        map_location: object = None,
    ) -> Any:
        """Return a model with room for the conditions and labels of a query: architecture surgery.

        Parameters
        ----------
        adata
            The query.
        reference_model
            A model, or where one is saved.
        labeled_indices
            Positions of the cells whose labels are used; ``[]`` for an unlabelled query, None for all.
        unknown_ct_names
            Labels that mean a cell is not labelled.
        freeze
            Train the rows of new conditions only. False trains everything, and moves the reference.
        freeze_expression
            False also trains the encoder's first expression weights, and moves the reference.
        remove_dropout
            Whether the query trains without dropout.
        return_new_conditions
            Also return the new categories of each condition key.
        map_location
            Accepted for scArches' sake.
        """
        made = cls._query(adata, cls._reference(reference_model), labeled=labeled_indices, unknown=unknown_ct_names)
        grown = surgery(made.model, made._training_cells(), start="random")
        if not (freeze and freeze_expression):
            grown = reconfigured(grown, {"dropout": 0.0} if remove_dropout else {})
            grown = retraining(grown, parts="all" if not freeze else "expression")
        made.model = grown
        made._network.keep_dropout = not remove_dropout
        if not return_new_conditions:
            return made
        return made, {key: list(axis.new) for key, axis in grown.vocabulary.conditions.items()}

    @classmethod
    def _query(
        cls, adata: AnnData, reference: Self, *, labeled: Sequence[int] | None, unknown: list[str] | None
    ) -> Self:
        """Return a reference's model around a query's cells."""
        made = cls._around(reference.model, adata, labeled=labeled, unknown=unknown, share=reference.share_metadata_)
        made.mmd_on_, made.mmd_boundary_, made.beta_ = reference.mmd_on_, reference.mmd_boundary_, reference.beta_
        return made

    @classmethod
    def shot_surgery(
        cls,
        adata: AnnData,
        reference_model: str | Path | Self | Model,
        labeled_indices: Sequence[int] | None = None,
        unknown_ct_names: list[str] | None = None,
        train_epochs: int = 0,
        batch_size: int = 128,
        subsample: float = 1.0,
        force_cuda: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Return a model whose new conditions start as the known ones that reconstruct their cells best.

        Parameters
        ----------
        adata, reference_model, labeled_indices, unknown_ct_names
            As for :meth:`load_query_data`.
        train_epochs
            Epochs to train afterwards; 0 is zero-shot.
        batch_size
            Cells at a time.
        subsample
            Share of each condition's cells that is tried.
        force_cuda
            Use a GPU where there is one.
        **kwargs
            As for :meth:`train`.
        """
        made = cls._query(adata, cls._reference(reference_model), labeled=labeled_indices, unknown=unknown_ct_names)
        cells = made._training_cells()
        tried = cells.rows(subsample_groups(cells, subsample)) if subsample < 1 else cells
        made.model = surgery(made.model, tried, start="best", device="auto" if force_cuda else "cpu")
        if train_epochs:
            made.train(n_epochs=train_epochs, batch_size=batch_size, **kwargs)
        return made

    # --- cells -------------------------------------------------------------------------------------------------------

    def _cells(self, adata: AnnData) -> Cells:
        return align(adata, self.model, conditions={key: key for key in self.condition_keys_})

    def _training_cells(self) -> Cells:
        if self.adata is None:
            raise errors.InvalidInput("this model was loaded without its AnnData: pass adata= to load().")
        keys = [key for key in self.cell_type_keys_ if key in self.adata.obs]
        labels = cell_labels(self.adata, keys, self.labeled_indices_, self.unknown_ct_names_)
        return self._cells(self.adata).relabelled({key: names for key, names in labels.items() if (names != "").any()})


def _refuse(*, use_mmd: bool, recon_loss: str) -> None:
    if use_mmd:
        message = "scPoli has no MMD penalty; leave use_mmd at False, or use trVAE."
        raise errors.Unsupported(message, kind="scpoli", verb="use_mmd")
    if recon_loss not in ("nb", "zinb", "mse", "poisson"):
        message = f"recon_loss is {recon_loss!r}; scPoli trains with 'nb', 'zinb', 'mse' or 'poisson'."
        raise errors.Unsupported(message, kind="scpoli", verb="recon_loss")


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)
