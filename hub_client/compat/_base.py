"""What scArches' classes share: a model with its training cells, and the settings of its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
from anndata import AnnData, read_h5ad
from numpy.typing import NDArray

from hub_client.data.cells import Cells
from hub_client.interop import scarches_files
from hub_client.manifest.configs import Normalization
from hub_client.models.architectures._vae import ConditionalVae, Config
from hub_client.models.model import Model
from hub_client.nn.training import History

SAMPLE_SEED = 0
"""Seed of the latent that is sampled."""


def setting(field: str, doc: str) -> Any:
    """Return the property that reads a field of the config, for an attribute that is annotated with its type."""
    return property(attrgetter(f"_config.{field}"), doc=doc)


class ScArchesModel(ABC):
    """A model with its training cells, by scArches' names."""

    model: Model
    adata: AnnData | None
    history: History | None
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
        """Return the model :meth:`save` or scArches wrote, with ``adata`` or the AnnData saved beside it.

        ``map_location`` is accepted for scArches' sake: weights are read to the CPU, and training chooses the device.
        Nothing in a folder of scArches' is executed; see :func:`hub_client.import_legacy`.
        """
        if scarches_files.is_saved(Path(dir_path)):
            saved = scarches_files.read(dir_path)
            cells = read_h5ad(saved.cells) if adata is None and saved.cells is not None else adata
            made = cls._from_scarches(saved, cells)
            made.is_trained_ = bool(saved.attributes.get("is_trained_", True))
        else:
            beside = _beside(dir_path)
            cells = read_h5ad(beside) if adata is None and beside.exists() else adata
            made = cls._around(Model.load(dir_path), cells)
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
        """Write the model to ``dir_path`` as a release folder (no pickle), and its AnnData beside it if asked to.

        The AnnData goes to ``<dir_path>.h5ad``: nothing but a model belongs in a release. Text columns are written as
        text unless ``anndata_write_kwargs`` ask otherwise: anndata would turn them into categories in the caller's
        AnnData too.
        """
        self.model.save(dir_path, overwrite=overwrite)
        if save_anndata and self.adata is not None:
            options = {"convert_strings_to_categoricals": False} | anndata_write_kwargs
            self.adata.write_h5ad(_beside(dir_path), **options)

    @classmethod
    def _reference(cls, given: str | Path | Self | Model) -> Self:
        """Return the model that surgery starts from: itself, around a model of ours, or loaded from a folder."""
        if isinstance(given, cls):
            return given
        return cls._around(given, None) if isinstance(given, Model) else cls.load(str(given))

    def _sampled(self, cells: Cells) -> NDArray[np.float32]:
        """Return a seeded sample of each cell's posterior, ``(cells, latent)``."""
        mean, variance = self._network.posterior(cells)
        noise = np.random.default_rng(SAMPLE_SEED).standard_normal(mean.shape, dtype=np.float32)
        sample: NDArray[np.float32] = (mean + np.sqrt(variance) * noise).astype(np.float32)
        return sample


def _beside(dir_path: str) -> Path:
    return Path(f"{Path(dir_path)}.h5ad")


def normalization(use_bn: bool, use_ln: bool) -> Normalization:
    """Return which normalisation scArches' two switches mean."""
    return "batch" if use_bn else "layer" if use_ln else "none"
