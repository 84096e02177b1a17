"""What scArches' classes with one one-hot condition share: TRVAE and EXPIMAP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from hub_client import errors
from hub_client.compat import _manifests, _plans
from hub_client.compat._base import Expression, ScArchesModel, drawn, reconfigured
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.interop import import_legacy
from hub_client.interop.scarches_files import Saved
from hub_client.interop.scarches_vaes import described, genes_of
from hub_client.manifest.configs import ExpiMapConfig, TrVAEConfig
from hub_client.manifest.scalars import key_of
from hub_client.models.architectures._vae import OneHotVae
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, retraining, surgery


class OneHotModel(ScArchesModel):
    """A model with its training cells, by scArches' names. What a subclass adds is what it documents beyond this."""

    kind: ClassVar[str]
    likelihoods: ClassVar[tuple[str, ...]]

    def _hold(self, model: Model, adata: AnnData | None, column: str | None) -> None:
        self.model, self.adata, self.condition_key_ = model, adata, column
        self.history, self.trainer, self.is_trained_ = None, None, False

    def _begin(
        self, adata: AnnData, condition_key: str | None, conditions: list[str] | None, *, what: str, **fields: Any
    ) -> None:
        """Build a model for an AnnData; ``fields`` are those of the manifest that are the kind's own."""
        likelihood = fields["architecture"]["likelihood"]
        if likelihood not in self.likelihoods:
            raise errors.Unsupported(
                f"recon_loss is {likelihood!r}; {what} trains with {errors.names(self.likelihoods)}.",
                kind=self.kind,
                verb="recon_loss",
            )
        shared = {
            "name": self.kind,
            "genes": genes_of(adata.var_names),
            "input": {"kind": "log1p" if likelihood == "mse" else "counts"},
            "conditions": _manifests.one_hot(adata.obs, condition_key, conditions),
        }
        self._hold(drawn(described(shared | fields, what=what)), adata, condition_key)

    @classmethod
    def _around(cls, model: Model, adata: AnnData | None, column: str | None = None) -> Self:
        """Return the class around a model; the obs column is called like the condition's key by default."""
        if model.network.kind != cls.kind:
            raise errors.Unsupported(
                f"this is a model of kind {model.network.kind}; {cls.__name__} is for {cls.kind}.",
                kind=model.network.kind,
                verb=f"compat.{cls.__name__}",
            )
        made = cls.__new__(cls)
        keys = [condition.key for condition in model.manifest.conditions]
        made._hold(model, adata, column or (keys[0] if keys else None))
        return made

    # --- what scArches keeps as attributes ---------------------------------------------------------------------------

    @property
    def _network(self) -> OneHotVae:
        return cast(OneHotVae, self.model.network)

    @property
    def _config(self) -> TrVAEConfig | ExpiMapConfig:
        return cast("TrVAEConfig | ExpiMapConfig", self.model.manifest.architecture)

    @property
    def conditions_(self) -> list[str]:
        """Ordered conditions."""
        return [name for condition in self.model.manifest.conditions for name in condition.categories]

    @classmethod
    def _from_scarches(cls, saved: Saved, adata: AnnData | None) -> Self:
        model = import_legacy.from_scarches(saved, kind=cls.kind)
        return cls._around(model, adata, saved.attributes.get("condition_key_"))

    # --- what the documented methods do ------------------------------------------------------------------------------

    def _train(self, arguments: dict[str, Any], **plan: Any) -> None:
        """Train on the AnnData the model was made with, by the arguments of scArches' trainer."""
        cells = self._cells(None, None)
        chosen = _plans.plan(arguments, cells=len(cells), keep_best=arguments["reload_best"], **plan)
        self._fit(cells, plan=chosen, arguments=arguments)

    @classmethod
    def _grown(
        cls,
        adata: AnnData,
        reference_model: str | Path | Self | Model,
        *,
        freeze: bool,
        freeze_expression: bool,
        remove_dropout: bool,
        changes: Mapping[str, Any],
        extensions: Extensions | None = None,
    ) -> Self:
        """Return a model with room for a query's conditions: architecture surgery on a reference.

        ``changes`` are fields of the config that have nothing to do with the weights; ``extensions`` are terms to add.
        """
        reference = cls._reference(reference_model)
        made = cls._around(reconfigured(reference.model, changes), adata, reference.condition_key_)
        made.model = surgery(made.model, made._cells(None, None), start="random", extensions=extensions)
        if not (freeze and freeze_expression):
            kept = {"dropout": 0.0} if remove_dropout and "dropout" not in changes else {}
            grown = reconfigured(made.model, kept)
            made.model = retraining(grown, parts="all" if not freeze else "expression")
        made._network.keep_dropout = not remove_dropout or "dropout" in changes
        return made

    def get_y(self, x: Expression | None = None, c: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return a decoder's layer at a seeded sample of the latent.

        In trVAE it is the first one, ``(cells, width)``; in expiMap the outputs before the last, ``(cells, genes)``.

        Parameters
        ----------
        x, c
            As for ``get_latent``.
        """
        cells = self._cells(x, c)
        return self._network.decoder_layer(cells, self._sampled(cells))

    # --- cells -------------------------------------------------------------------------------------------------------

    def _cells(self, x: Expression | None, c: ArrayLike | None) -> Cells:
        """Return cells as the model reads them: the model's own, an AnnData's, or an array's in the order of its genes.

        ``c`` is the condition of each cell; None where the AnnData has it.
        """
        column = self.condition_key_
        adata = self._given(x)
        if column is not None and c is not None:
            names = _manifests.names(pd.Series(np.asarray(c).reshape(-1)))
            if len(names) != adata.n_obs:
                raise errors.InvalidInput(
                    f"c has {len(names):,} conditions for {adata.n_obs:,} cells; give one for each.",
                    facts={"c": len(names), "cells": adata.n_obs},
                )
            adata = AnnData(adata.X, obs=adata.obs.assign(**{column: names}), var=adata.var)
        if column is not None and column not in adata.obs:
            raise errors.InvalidInput(
                f"x comes without conditions: pass c, the {column} of each of its {adata.n_obs:,} cells.",
                facts={"condition_key": column},
            )
        return align(adata, self.model, conditions={} if column is None else {key_of(column): column})


def overrides(given: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Return constructor arguments that surgery may change, by the config's names.

    Raises
    ------
    Unsupported
        For an argument that the reference's weights settle.
    """
    if strangers := sorted(set(given) - set(known)):
        raise errors.Unsupported(
            f"load_query_data() cannot change {errors.names(strangers)}: the reference settles it. It can change "
            f"{errors.names(known, shown=len(known))}.",
            kind="surgery",
            verb="load_query_data",
        )
    return {known[name]: value for name, value in given.items()}
