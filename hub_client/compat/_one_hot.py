"""What scArches' classes with one one-hot condition have in common: TRVAE and EXPIMAP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata import read_h5ad as read_anndata
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import spmatrix

from hub_client import errors
from hub_client.compat import _plans
from hub_client.compat._base import Coat
from hub_client.compat._saving import read_beside
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.interop import import_legacy
from hub_client.interop.scarches_files import Saved, is_saved
from hub_client.interop.vaes import key_of
from hub_client.manifest.configs import ExpiMapConfig, TrVAEConfig
from hub_client.models.architectures._vae import OneHotVae
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, retraining, surgery
from hub_client.models.train import train

Expression: TypeAlias = NDArray[Any] | spmatrix | AnnData


class OneHotCoat(Coat):
    """A model with its training cells, by scArches' names. What a subclass adds is what it documents beyond this."""

    kind: ClassVar[str]

    def _coat(self, model: Model, adata: AnnData | None, column: str | None) -> None:
        self.model, self.adata, self.condition_key_ = model, adata, column
        self.history, self.is_trained_ = None, False

    @classmethod
    def _around(cls, model: Model, adata: AnnData | None, column: str | None = None) -> Self:
        """Return the class around a model; the obs column is called like the condition's key unless it is said."""
        if model.network.kind != cls.kind:
            raise errors.Unsupported(
                f"this is a model of kind {model.network.kind}; {cls.__name__} is for {cls.kind}.",
                kind=model.network.kind,
                verb=f"compat.{cls.__name__}",
            )
        made = cls.__new__(cls)
        keys = [condition.key for condition in model.manifest.conditions]
        made._coat(model, adata, column or (keys[0] if keys else None))
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

    # --- documented of both ------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | None = None, map_location: object = None) -> Self:
        """Return the model :meth:`save` or scArches wrote, with ``adata`` or the AnnData saved beside it.

        ``map_location`` is accepted for scArches' sake: weights are read to the CPU, and training chooses the device.
        Nothing in a folder of scArches' is executed; see :func:`hub_client.import_legacy`.
        """
        if is_saved(Path(dir_path)):
            return cls._from_scarches(import_legacy.read(dir_path), adata)
        adata = read_beside(dir_path) if adata is None else adata
        made = cls._around(Model.load(dir_path), adata)
        made.is_trained_ = made.model.manifest.training.plan is not None
        return made

    @classmethod
    def _from_scarches(cls, saved: Saved, adata: AnnData | None) -> Self:
        if adata is None and saved.cells is not None:
            adata = read_anndata(saved.cells)
        made = cls._around(import_legacy.imported(saved, kind=cls.kind), adata, saved.attributes.get("condition_key_"))
        made.is_trained_ = bool(saved.attributes.get("is_trained_", True))
        return made

    # --- what the documented methods do ------------------------------------------------------------------------------

    def _train(self, arguments: dict[str, Any], **plan: Any) -> None:
        """Train on the AnnData the model was made with, by the arguments of scArches' trainer."""
        cells = self._cells(None, None)
        chosen = _plans.plan(arguments, cells=len(cells), keep_best=arguments["reload_best"], **plan)
        self.history = train(self.model, cells, plan=chosen, seed=arguments["seed"], progress=arguments["monitor"])
        self.is_trained_ = True

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

    @classmethod
    def _reference(cls, given: str | Path | Self | Model) -> Self:
        if isinstance(given, cls):
            return given
        return cls._around(given, None) if isinstance(given, Model) else cls.load(str(given))

    # --- cells -------------------------------------------------------------------------------------------------------

    def _cells(self, x: Expression | None, c: ArrayLike | None) -> Cells:
        """Return cells as the model reads them: the model's own, an AnnData's, or an array's in the order of its genes.

        ``c`` is the condition of each cell; None where the AnnData says it.
        """
        column = self.condition_key_
        adata = self._given(x)
        if column is not None and c is not None:
            adata = AnnData(adata.X, obs=adata.obs.assign(**{column: self._of_each(c, adata)}), var=adata.var)
        if column is not None and column not in adata.obs:
            raise errors.InvalidInput(
                f"x comes without conditions: pass c, the {column} of each of its {adata.n_obs:,} cells.",
                facts={"condition_key": column},
            )
        return align(adata, self.model, conditions={} if column is None else {key_of(column): column})

    def _given(self, x: Expression | None) -> AnnData:
        x = self.adata if x is None else x
        if x is None:
            raise errors.InvalidInput("this model was loaded without its AnnData: pass adata= to load(), or pass x.")
        if isinstance(x, AnnData):
            return x
        if x.ndim != 2 or x.shape[1] != self.input_dim_:
            raise errors.InvalidInput(
                f"x has shape {x.shape}; it has one row for each cell and a column for each of the model's "
                f"{self.input_dim_:,} genes, in their order. An AnnData is matched by gene names.",
                facts={"shape": x.shape, "genes": self.input_dim_},
            )
        return AnnData(x, var=pd.DataFrame(index=list(self.model.manifest.genes.names)))

    @staticmethod
    def _of_each(c: ArrayLike, adata: AnnData) -> NDArray[np.str_]:
        names = np.asarray(c, dtype=str).reshape(-1)
        if len(names) != adata.n_obs:
            raise errors.InvalidInput(
                f"c has {len(names):,} conditions for {adata.n_obs:,} cells; give one for each.",
                facts={"c": len(names), "cells": adata.n_obs},
            )
        return names


def reconfigured(model: Model, changes: Mapping[str, Any]) -> Model:
    """Return the same weights under a config with other values, which must not change any tensor's size."""
    if not changes:
        return model
    config = model.manifest.architecture.model_dump() | dict(changes)
    manifest = model.manifest.changed(architecture=config)
    network = type(model.network).build(manifest)
    network.load(model.network.tensors())
    return Model(manifest, network, model.ref, extras=model.extras, reference=model.reference)


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
