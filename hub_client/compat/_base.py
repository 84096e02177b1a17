"""What all of scArches' classes have in common: a model with its training cells, and what is kept of its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from hub_client.compat._saving import write_beside
from hub_client.data.cells import Cells
from hub_client.manifest.configs import Normalization
from hub_client.models.architectures._vae import ConditionalVae, Config
from hub_client.models.model import Model
from hub_client.nn.training import History

SAMPLE_SEED = 0
"""Seed of the latent that is sampled."""


class Coat(ABC):
    """A model with its training cells, by scArches' names."""

    model: Model
    adata: AnnData | None
    history: History | None
    is_trained_: bool

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
    def recon_loss_(self) -> str:
        """Likelihood."""
        return self._config.likelihood

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

    def save(
        self, dir_path: str, overwrite: bool = False, save_anndata: bool = False, **anndata_write_kwargs: Any
    ) -> None:
        """Write the model to ``dir_path`` as a release folder (no pickle), and its AnnData beside it if asked to.

        The AnnData goes to ``<dir_path>.h5ad``: nothing but a model belongs in a release.
        """
        self.model.save(dir_path, overwrite=overwrite)
        if save_anndata and self.adata is not None:
            write_beside(dir_path, self.adata, **anndata_write_kwargs)

    def _sampled(self, cells: Cells) -> NDArray[np.float32]:
        """Return a seeded sample of each cell's posterior, ``(cells, latent)``."""
        mean, variance = self._network.posterior(cells)
        noise = np.random.default_rng(SAMPLE_SEED).standard_normal(mean.shape, dtype=np.float32)
        found: NDArray[np.float32] = (mean + np.sqrt(variance) * noise).astype(np.float32)
        return found


def normalization(use_bn: bool, use_ln: bool) -> Normalization:
    """Return which normalisation scArches' two switches mean."""
    return "batch" if use_bn else "layer" if use_ln else "none"
