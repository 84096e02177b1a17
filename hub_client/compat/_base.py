"""What scArches' classes share: a model with its training cells, and the settings of its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from numpy.typing import NDArray
from scipy.sparse import spmatrix

from hub_client import errors
from hub_client.compat import _plans, _trainer
from hub_client.compat._trainer import Trainer
from hub_client.data.cells import Cells
from hub_client.files import atomic
from hub_client.interop import scarches_files
from hub_client.manifest.configs import Normalization
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._vae import ConditionalVae, Config
from hub_client.models.model import Model
from hub_client.models.train import train
from hub_client.nn.training import History
from hub_client.release import folder as release_folder

Expression: TypeAlias = NDArray[Any] | spmatrix | AnnData
CELLS = scarches_files.CELLS
"""What scArches calls the file of a model's AnnData, in the model's folder."""
SAMPLE_SEED = 0
"""Seed of the latent that is sampled."""


def drawn(manifest: Manifest) -> Model:
    """Return a new model whose weights are drawn as PyTorch's generator stands, as scArches' are.

    ``torch.manual_seed`` decides on them; ``seed`` of ``train`` is that of training.
    """
    return Model.build(manifest, seed=int(torch.randint(2**31 - 1, ())))


def setting(field: str, doc: str) -> Any:
    """Return the property that reads a field of the config, for an attribute that is annotated with its type."""
    return property(attrgetter(f"_config.{field}"), doc=doc)


class ScArchesModel(ABC):
    """A model with its training cells, by scArches' names."""

    model: Model
    adata: AnnData | None
    history: History | None
    trainer: Trainer | None
    """How the last training went, by scArches' names; None before it, and in a model that was loaded."""
    is_trained_: bool
    recon_loss_: str = setting("likelihood", "Likelihood.")

    @property
    @abstractmethod
    def _network(self) -> ConditionalVae:
        """The network."""

    @property
    @abstractmethod
    def _config(self) -> Config:
        """Its hyperparameters."""

    @property
    def hidden_layer_sizes_(self) -> list[int]:
        """Widths of the encoder's hidden layers."""
        return list(self._config.hidden)

    @property
    def dr_rate_(self) -> float:
        """Dropout; 0 where surgery removed it."""
        network = self._network
        return 0.0 if network.grown_by_surgery and not network.keep_dropout else self._config.dropout

    @property
    def use_bn_(self) -> bool:
        """Whether there is batch normalisation."""
        return self._config.normalization == "batch"

    @property
    def use_ln_(self) -> bool:
        """Whether there is layer normalisation."""
        return self._config.normalization == "layer"

    @property
    def input_dim_(self) -> int:
        """Number of genes."""
        return len(self.model.manifest.genes.panel)

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | None = None, map_location: object = None) -> Self:
        """Return the model :meth:`save` or scArches wrote, with ``adata`` or the AnnData saved with it.

        ``map_location`` is accepted for scArches' sake: weights are read to the CPU, and training chooses the device.
        Nothing in a folder of scArches' is executed; see :func:`hub_client.import_legacy`.
        """
        if scarches_files.is_saved(Path(dir_path)):
            saved = scarches_files.read(dir_path)
            cells = read_h5ad(saved.cells) if adata is None and saved.cells is not None else adata
            made = cls._from_scarches(saved, cells)
            made.is_trained_ = bool(saved.attributes.get("is_trained_", True))
        else:
            found = _saved_cells(Path(dir_path))
            cells = read_h5ad(found) if adata is None and found is not None else adata
            made = cls._around(Model.of(release_folder.read(dir_path, beside={CELLS})), cells)
            made.is_trained_ = made.model.manifest.training.plan is not None
        return made

    @classmethod
    @abstractmethod
    def _around(cls, model: Model, adata: AnnData | None) -> Self:
        """Return the class around a model of ours."""

    @classmethod
    @abstractmethod
    def _from_scarches(cls, saved: scarches_files.Saved, adata: AnnData | None) -> Self:
        """Return the class around a model that scArches saved, with what scArches keeps beside it."""

    def save(
        self, dir_path: str, overwrite: bool = False, save_anndata: bool = False, **anndata_write_kwargs: Any
    ) -> None:
        """Write the model to ``dir_path`` as a release folder (no pickle), and its AnnData into it if asked to.

        The AnnData goes to ``<dir_path>/adata.h5ad``, as in scArches. With it the folder is :meth:`load`'s alone: a
        release holds no cells, so that such a folder is not pushed before the file is moved out of it. ``overwrite``
        replaces the model, and the AnnData if one is saved. Text columns are written as text unless
        ``anndata_write_kwargs`` ask otherwise: anndata would turn them into categories in the caller's AnnData too.
        """
        self.model.save(dir_path, overwrite=overwrite, beside={CELLS})
        if save_anndata and self.adata is not None:
            _write_cells(self.adata, Path(dir_path), {"convert_strings_to_categoricals": False} | anndata_write_kwargs)

    @classmethod
    def _reference(cls, given: str | Path | Self | Model) -> Self:
        """Return the model that surgery starts from: itself, around a model of ours, or loaded from a folder."""
        if isinstance(given, cls):
            return given
        return cls._around(given, None) if isinstance(given, Model) else cls.load(str(given))

    def _fit(self, cells: Cells, *, plan: Plan, arguments: Mapping[str, Any]) -> None:
        """Train the model on cells by a plan and what else the arguments of scArches' trainer say."""
        judge = _trainer.judge(self.model, plan, **_plans.judged(arguments))
        self.history = train(
            self.model, cells, plan=plan, seed=arguments["seed"], progress=arguments["monitor"], judge=judge
        )
        self.trainer, self.is_trained_ = Trainer.of(self.history, self.model, plan), True

    def _given(self, x: Expression | None) -> AnnData:
        """Return expression as an AnnData: an array has the model's genes, None is the model's own cells."""
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

    def _sampled(self, cells: Cells) -> NDArray[np.float32]:
        """Return a seeded sample of each cell's posterior, ``(cells, latent)``."""
        mean, variance = self._network.posterior(cells)
        noise = np.random.default_rng(SAMPLE_SEED).standard_normal(mean.shape, dtype=np.float32)
        sample: NDArray[np.float32] = (mean + np.sqrt(variance) * noise).astype(np.float32)
        return sample


def _saved_cells(folder: Path) -> Path | None:
    """Return the AnnData that was saved with a model: in its folder, or beside it as earlier versions saved it."""
    places = (folder / CELLS, Path(f"{folder}.h5ad"))
    return next((place for place in places if place.exists()), None)


def _write_cells(cells: AnnData, folder: Path, options: Mapping[str, Any]) -> None:
    """Put an AnnData into a model's folder, whole or not at all; what a killed process leaves is outside of it."""
    place = folder.resolve()
    with (
        atomic.writing(str(place / CELLS), otherwise="choose another folder"),
        TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as stage,
    ):
        cells.write_h5ad(Path(stage) / CELLS, **options)
        atomic.publish(Path(stage) / CELLS, place / CELLS)


def reconfigured(model: Model, changes: Mapping[str, Any]) -> Model:
    """Return the same weights under a config with other values, which must not change any tensor's size."""
    if not changes:
        return model
    config = model.manifest.architecture.model_dump() | dict(changes)
    manifest = model.manifest.changed(architecture=config)
    network = type(model.network).build(manifest)
    network.load(model.network.tensors())
    return Model(manifest, network, model.ref, extras=model.extras, atlas=model.atlas)


def normalization(use_bn: bool, use_ln: bool) -> Normalization:
    """Return which normalisation scArches' two switches mean."""
    return "batch" if use_bn else "layer" if use_ln else "none"
