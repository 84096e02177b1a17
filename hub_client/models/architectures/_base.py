"""The protocol all architectures satisfy, and the records they answer with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hub_client.data.cells import Cells
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest, TensorSpec

if TYPE_CHECKING:
    from hub_client.nn.training import History, Runtime

Start = Literal["random", "mean", "best"]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """One label level's evidence.

    Attributes
    ----------
    labels
        The level's categories, in manifest order.
    values
        ``(cells, labels)``: distances in the latent (smaller is closer) or probabilities.
    kind
        Which of the two ``values`` holds.
    mahalanobis_squared
        ``(cells, labels)``: squared Mahalanobis distances to the labels' prototypes, under the covariance their cells
        share; None where there is none.
    label_frequencies
        ``(labels,)``: each label's share of the labelled reference cells; None where it is not known.
    """

    labels: tuple[str, ...]
    values: Array
    kind: Literal["distance", "probability"]
    mahalanobis_squared: Array | None = None
    label_frequencies: Array | None = None


class Architecture(Protocol):
    """A network that a manifest describes. Everything beyond the manifest is in its tensors."""

    kind: ClassVar[str]
    manifest: Manifest

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Self:
        """Return a freshly initialised network with the manifest's axes."""
        ...

    def specs(self) -> tuple[TensorSpec, ...]:
        """Return name, dtype and axis names of every tensor a release of this network holds."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of :meth:`specs`, on the CPU; reference and query rows as one."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over tensors as :meth:`tensors` returned them."""
        ...

    def grown(self, manifest: Manifest, *, start: Start, cells: Cells, seed: int) -> tuple[Self, dict[str, str]]:
        """Return the same function on old conditions with room for the manifest's new ones.

        Rows of old conditions are frozen; only the rows that were added can be trained. The second value says, for
        ``start="best"``, which reference condition each new one was started from.
        """
        ...

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move, and say how it went."""
        ...

    def embed(self, cells: Cells, *, batch_size: int = 512) -> Array:
        """Return the posterior mean of every cell, ``(cells, latent)``."""
        ...

    def score(self, latent: Array) -> dict[str, Scores]:
        """Return the evidence for every label of every level at points in the latent; empty without a classifier."""
        ...

    def facts(self) -> dict[str, object]:
        """Return the manifest's fields that training can change."""
        ...

    def labelled(self, manifest: Manifest, *, level: str, clusters: Sequence[int], cells: Cells) -> Self:
        """Return the same function with a label more, the last of ``level``, made of unlabelled prototypes."""
        ...

    def restrict(self, parts: Literal["all", "expression"]) -> None:
        """Let only some parts of a whole network train: all, or the condition rows and first expression weights."""
        ...

    def gene_usage(self) -> Array:
        """Return how much the encoder uses each gene: the L2 norm of its first-layer weights, ``(genes,)``."""
        ...
