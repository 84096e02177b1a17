"""What scArches keeps as attributes of its scPoli: read from the model, or as they were given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.compat._base import ScArchesModel, setting
from hub_client.compat._cells import metadata_of
from hub_client.manifest.configs import ScPoliConfig as Config
from hub_client.manifest.v1 import Embedding
from hub_client.models.architectures.scpoli import ScPoli


class ScPoliAttributes(ScArchesModel):
    """A scPoli with its training cells, by scArches' names; its methods are in the subclass."""

    labeled_indices_: Sequence[int] | None
    unknown_ct_names_: list[str] | None
    share_metadata_: bool
    _metadata: pd.DataFrame | None
    mmd_on_: str = "z"
    """What was asked for; scPoli has no discrepancy, as in scArches, and so for the two that follow."""
    mmd_boundary_: int | None = None
    beta_: float = 1

    @property
    def _network(self) -> ScPoli:
        network = self.model.network
        if not isinstance(network, ScPoli):
            raise errors.Unsupported(f"{network.kind} is not scPoli.", kind=network.kind, verb="compat.scPoli")
        return network

    @property
    def _config(self) -> Config:
        return self._network.config

    @property
    def condition_keys_(self) -> list[str]:
        """Condition keys."""
        return [condition.key for condition in self.model.manifest.conditions]

    @property
    def conditions_(self) -> dict[str, list[str]]:
        """Condition key to its ordered categories."""
        return {condition.key: list(condition.categories) for condition in self.model.manifest.conditions}

    @property
    def conditions_combined_(self) -> list[str]:
        """Ordered combinations of conditions, joined by ``_``."""
        return ["_".join(row) for row in self.model.vocabulary.combinations]

    @property
    def cell_type_keys_(self) -> list[str]:
        """Label levels."""
        return [level.key for level in self.model.manifest.labels]

    @property
    def cell_types_(self) -> dict[str, list[str]]:
        """Label to the levels it occurs in."""
        levels: dict[str, list[str]] = {}
        for level in self.model.manifest.labels:
            for name in level.categories:
                levels.setdefault(name, []).append(level.key)
        return levels

    @property
    def model_cell_types(self) -> list[str]:
        """Labels of all levels, in the order of prototypes."""
        return list(self.cell_types_)

    @property
    def obs_metadata_(self) -> pd.DataFrame:
        """One row for each condition: what was given, or the first value of every obs column; empty if not shared."""
        if self._metadata is not None:
            return self._metadata
        return metadata_of(self.adata if self.share_metadata_ else None, self.condition_keys_)

    @obs_metadata_.setter
    def obs_metadata_(self, table: pd.DataFrame | None) -> None:
        self._metadata = table

    latent_dim_: int = setting("latent", "Size of the latent.")

    @property
    def inject_condition_(self) -> list[str]:
        """Which networks see the condition embeddings."""
        return list(self._config.inject)

    @property
    def embedding_dims_(self) -> list[int]:
        """Sizes of the condition embeddings of each key."""
        return [encoding.dim for encoding in self._embeddings_of_keys()]

    @property
    def embedding_max_norm_(self) -> float | None:
        """The longest condition embedding; None without conditions."""
        return next((encoding.max_norm for encoding in self._embeddings_of_keys()), None)

    @property
    def use_mmd_(self) -> bool:
        """Whether conditions are pulled together: never."""
        return False

    def _embeddings_of_keys(self) -> list[Embedding]:
        encodings = [condition.encoding for condition in self.model.manifest.conditions]
        return [encoding for encoding in encodings if isinstance(encoding, Embedding)]

    @property
    def prototypes_labeled_(self) -> dict[str, NDArray[np.float32]]:
        """Means ``(labels, latent)`` and covariances ``(labels, latent, latent)``, level after level."""
        mean, cov = self._network.labelled_prototypes()
        return {"mean": mean.numpy(), "cov": cov.numpy()}

    @property
    def prototypes_unlabeled_(self) -> dict[str, NDArray[np.float32]]:
        """Means of the unlabelled prototypes, ``(prototypes, latent)``."""
        return {"mean": self._network.unlabelled.cpu().numpy()}
