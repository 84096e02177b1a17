"""trVAE as scArches documents it: Lotfollahi 2020, doi 10.1093/bioinformatics/btaa800.

Where the numbers differ on purpose from scArches 0.6.1: genes of an AnnData are matched by name; categories are sorted
instead of in order of appearance; the training split is seeded and stratified; surgery trains the rows of new
conditions and leaves the reference bit-identical; the best epoch's weights are restored; what is sampled is seeded; the
caller's AnnData is never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from hub_client.compat import _plans
from hub_client.compat._base import Expression, normalization, setting
from hub_client.compat._one_hot import OneHotModel, overrides
from hub_client.models.embed import embed
from hub_client.models.model import Model

CHANGEABLE = {
    "dr_rate": "dropout",
    "use_mmd": "mmd",
    "mmd_on": "mmd_on",
    "mmd_boundary": "mmd_boundary",
    "beta": "mmd_weight",
}
"""Constructor arguments that surgery may change, and what they are called here."""


class TRVAE(OneHotModel):
    """A trainable trVAE on one AnnData, with scArches' parameters and defaults.

    Parameters
    ----------
    adata
        Cells to train on, ``(cells, genes)``: counts for nb and zinb, log1p values for mse.
    condition_key
        The obs column with batches or other conditions; None: one condition for all.
    conditions
        Its ordered categories; None: the sorted ones of ``adata``.
    hidden_layer_sizes
        Widths of the encoder's hidden layers.
    latent_dim
        Size of the latent.
    dr_rate
        Dropout.
    use_mmd
        Whether conditions are pulled together by their maximum mean discrepancy.
    mmd_on
        Where: ``z``, the latent, or ``y``, the decoder's first layer.
    mmd_boundary
        Compare only conditions before this position with those from it on; None: all pairs.
    recon_loss
        ``nb``, ``zinb`` or ``mse``.
    beta
        Weight of the discrepancy.
    use_bn, use_ln
        Batch or layer normalisation.

    Raises
    ------
    Unsupported
        For another ``recon_loss``.
    VocabularyError
        If there is no such obs column, or it has gaps.
    """

    kind: ClassVar[str] = "trvae"
    likelihoods: ClassVar[tuple[str, ...]] = ("nb", "zinb", "mse")

    def __init__(
        self,
        adata: AnnData,
        condition_key: str | None = None,
        conditions: list[str] | None = None,
        hidden_layer_sizes: Sequence[int] = (256, 64),
        latent_dim: int = 10,
        dr_rate: float = 0.05,
        use_mmd: bool = True,
        mmd_on: Literal["z", "y"] = "z",
        mmd_boundary: int | None = None,
        recon_loss: Literal["nb", "zinb", "mse"] = "nb",
        beta: float = 1,
        use_bn: bool = False,
        use_ln: bool = True,
    ) -> None:
        architecture = {
            "kind": self.kind,
            "hidden": tuple(hidden_layer_sizes),
            "latent": latent_dim,
            "dropout": dr_rate,
            "likelihood": recon_loss,
            "normalization": normalization(use_bn, use_ln),
            "mmd": use_mmd,
            "mmd_on": mmd_on,
            "mmd_boundary": mmd_boundary,
            "mmd_weight": beta,
        }
        self._begin(adata, condition_key, conditions, what="trVAE", architecture=architecture)

    # --- what scArches keeps as attributes ---------------------------------------------------------------------------

    latent_dim_: int = setting("latent", "Size of the latent.")
    use_mmd_: bool = setting("mmd", "Whether conditions are pulled together.")
    mmd_on_: str = setting("mmd_on", "Where: ``z`` or ``y``.")
    mmd_boundary_: int | None = setting("mmd_boundary", "The position that parts the conditions that are compared.")
    beta_: float = setting("mmd_weight", "Weight of the discrepancy.")
    # --- the documented methods --------------------------------------------------------------------------------------

    def train(self, n_epochs: int = 400, lr: float = 0.001, eps: float = 0.01, **kwargs: Any) -> None:
        """Train on the AnnData the model was made with.

        Parameters
        ----------
        n_epochs
            Epochs.
        lr, eps
            Adam's learning rate and epsilon. scArches' epsilon of 0.01 undertrains; 1e-8 does not.
        **kwargs
            What scArches' trainer takes: ``weight_decay``, ``batch_size``, ``train_frac``, ``use_early_stopping``,
            ``early_stopping_kwargs``, ``reload_best``, ``alpha_kl``, ``alpha_epoch_anneal``, ``alpha_iter_anneal``,
            ``clip_value``, ``seed``, ``use_stratified_sampling``, ``monitor``; ``monitor_only_val`` and ``n_workers``
            (have no use here: the bar shows training's terms, and minibatches are gathered in the process).

        Raises
        ------
        InvalidInput
            For an unknown keyword, or a model loaded without an AnnData.
        """
        arguments = _plans.training_arguments(kwargs, defaults=_plans.ONE_HOT)
        self._train(arguments, epochs=n_epochs, learning_rate=lr, adam_epsilon=eps)

    def get_latent(
        self, x: Expression | None = None, c: ArrayLike | None = None, mean: bool = False, mean_var: bool = False
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the latent of cells, ``(cells, latent)``: a seeded sample of the posterior, or its mean.

        Parameters
        ----------
        x
            ``(cells, genes)`` in the order of the model's genes, or an AnnData, whose genes are matched by name; None:
            the model's own cells.
        c
            The condition of each cell, by name; None takes those of the AnnData.
        mean
            Return the mean.
        mean_var
            Return mean and variance, a tuple, unless ``mean`` is asked for.
        """
        cells = self._cells(x, c)
        if mean:
            return embed(self.model, cells)
        return self._network.posterior(cells) if mean_var else self._sampled(cells)

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | Path | Self | Model,
        freeze: bool = True,
        freeze_expression: bool = True,
        remove_dropout: bool = True,
        map_location: object = None,
        **kwargs: Any,
    ) -> Self:
        """Return a model with room for the conditions of a query: architecture surgery.

        Parameters
        ----------
        adata
            The query.
        reference_model
            A model, or where one is saved.
        freeze
            Train the rows of new conditions only. False trains everything, and moves the reference.
        freeze_expression
            False also trains the first layers of encoder and decoder, and moves the reference.
        remove_dropout
            Whether the query trains without dropout.
        map_location
            Accepted for scArches' sake.
        **kwargs
            Constructor arguments to change: ``use_mmd``, ``mmd_on``, ``mmd_boundary``, ``beta``, ``dr_rate``.

        Raises
        ------
        Unsupported
            For a constructor argument that the reference's weights settle.
        """
        return cls._grown(
            adata,
            reference_model,
            freeze=freeze,
            freeze_expression=freeze_expression,
            remove_dropout=remove_dropout,
            changes=overrides(kwargs, CHANGEABLE),
        )
