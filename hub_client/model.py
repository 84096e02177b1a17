"""Model: a manifest and the network it describes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hub_client.architectures import Architecture, architecture
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.v1 import Manifest
from hub_client.store import bundle
from hub_client.store.ref import Ref


@dataclass(frozen=True)
class Model:
    """What is pulled and pushed: a manifest, the network it describes, and where it came from.

    Attributes
    ----------
    manifest
        The contract: architecture, genes, conditions, labels, lineage.
    network
        The weights and what they compute.
    ref
        The pinned release this model was read from; None for one that was never released.
    """

    manifest: Manifest
    network: Architecture
    ref: Ref | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's named axes."""
        return Vocabulary.of(self.manifest)

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Model:
        """Return an untrained model of what the manifest describes."""
        return cls(manifest, architecture(manifest.architecture.kind).build(manifest, seed=seed))

    @classmethod
    def load(cls, folder: str | Path, *, ref: Ref | None = None) -> Model:
        """Return the model in a release folder, every hash and shape checked.

        Raises
        ------
        ManifestError
            If the manifest cannot be read.
        IntegrityError
            If a file is not the one the manifest names.
        """
        release = bundle.read(Path(folder))
        network = architecture(release.manifest.architecture.kind).build(release.manifest)
        network.load(release.tensors)
        return cls(release.manifest, network, ref)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a release folder, atomically.

        Raises
        ------
        InvalidInput
            If the folder holds something already and ``overwrite`` is False.
        """
        return bundle.write(Path(folder), self.manifest, self.network.tensors(), overwrite=overwrite)
