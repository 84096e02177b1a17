"""Model: a manifest and the network it describes."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor, nn

from hub_client import errors
from hub_client.data import obs
from hub_client.data.align import align
from hub_client.data.open_query import Needed, Query, opened
from hub_client.data.proteins import protein_keys
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.provenance import Training
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures import Network, architecture
from hub_client.nn.processes import is_first
from hub_client.release import atlas_file
from hub_client.release import folder as release_folder
from hub_client.release.store import Ref

GENE_MEANS = "gene_means"
"""The tensor with the mean of each gene over the reference's cells."""


@dataclass(eq=False)
class Model:
    """What is pulled and pushed: a manifest, the network it describes, and where it came from.

    Attributes
    ----------
    manifest
        The contract: architecture, genes, conditions, labels, lineage.
    network
        The weights and what they compute.
    ref
        The pinned release this model was read from or grown from; None for one that was never released.
    extras
        Tensors of the release that are not the network's, such as test vectors and the means of genes.
    atlas
        The reference's cells in the latent with labels and conditions, ``(cells, 0)`` with ``obsm["X_latent"]``, if
        the release has them: what labels are transferred from by nearest neighbours.
    """

    manifest: Manifest
    network: Network
    ref: Ref | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    atlas: AnnData | None = None
    card: bytes = b""
    """The card of the release it was read from, which :meth:`save` writes again while nothing has changed: another
    archzoo would render another."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's named axes."""
        return Vocabulary.of(self.manifest)

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Model:
        """Return an untrained model of what the manifest describes.

        Raises
        ------
        Unsupported
            If this version of archzoo cannot run the architecture.
        """
        return cls(manifest, architecture(manifest.architecture.kind).build(manifest, seed=seed))

    @classmethod
    def load(cls, folder: str | Path, *, ref: Ref | None = None) -> Model:
        """Return the model in a release folder, every hash and shape checked.

        Raises
        ------
        ManifestError
            If the manifest cannot be read.
        IntegrityError
            If a file is not the one the manifest names, or the tensors are not those of such a network.
        """
        return cls.of(release_folder.read(Path(folder)), ref=ref)

    @classmethod
    def of(cls, release: release_folder.Release, *, ref: Ref | None = None) -> Model:
        """Return the model of a release that was read; IntegrityError if the tensors are not those of its network."""
        model = cls(release.manifest, architecture(release.manifest.architecture.kind).blank(release.manifest))
        _check_tensors(model, release.tensors)
        model.network.load(release.tensors)
        known = model.network.shapes()
        extras = {name: tensor for name, tensor in release.tensors.items() if name not in known}
        atlas = None if release.atlas is None else atlas_file.load(release.atlas)
        return cls(release.manifest, model.network, ref, extras, atlas, bytes(release.contents[release_folder.CARD]))

    def save(self, folder: str | Path, *, overwrite: bool = False, beside: Container[str] = ()) -> Path:
        """Write a release folder, atomically, and return it; of several processes that train together, the first does.

        ``beside`` names files that are no part of a release, and stay where ``overwrite`` replaces one beside them.

        Raises
        ------
        InvalidInput
            If the folder exists and ``overwrite`` is False.
        """
        if not is_first():
            return Path(folder)
        self.describe()
        extra = {} if self.atlas is None else {release_folder.REFERENCE: atlas_file.dump(self.atlas)}
        if self.card and self.manifest.as_read:
            extra[release_folder.CARD] = self.card
        tensors = self.network.shared_tensors() | dict(self.extras)
        return release_folder.write(
            Path(folder), self.manifest, tensors, extra=extra, overwrite=overwrite, beside=beside
        )

    # --- as torch's modules have it ----------------------------------------------------------------------------------

    def eval(self) -> Self:
        """Put the network into inference mode, in which verbs run anyway, and return the model."""
        self.network.eval()
        return self

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device as :meth:`on` does, and return the model; training brings it back to the CPU.

        Raises
        ------
        InvalidInput
            If it cannot be moved there.
        """
        try:
            self.network.to(device_of(str(device)))
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            raise errors.InvalidInput(
                f"the network cannot run on {str(device)!r} ({str(error).splitlines()[0]}). Pass device='auto' or "
                "'cpu'.",
                facts={"device": device},
            ) from error
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the network's parameters, those that are frozen included."""
        return self.network.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's tensors by torch's names; :meth:`tensors` returns them as a release holds them."""
        return dict(self.network.state_dict())

    @contextmanager
    def on(self, device: str) -> Iterator[None]:
        """Keep the network on a device for a while: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

        Raises
        ------
        InvalidInput
            If it cannot be moved there.
        """
        home = next(self.network.parameters()).device
        self.to(device)
        try:
            yield
        finally:
            self.network.to(home)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of a release of this model."""
        return self.network.tensors() | dict(self.extras)

    def gene_means(self) -> NDArray[np.float32] | None:
        """Return each gene's mean over the reference's cells, ``(genes,)``; None for a model without.

        :func:`hub_client.data.missing_genes.gene_means` has the unit.

        Raises
        ------
        IntegrityError
            If one is negative.
        """
        if GENE_MEANS not in self.extras:
            return None
        means: NDArray[np.float32] = self.extras[GENE_MEANS].numpy()
        if (means < 0).any():
            raise errors.IntegrityError(
                f"{release_folder.WEIGHTS} of {self.manifest.name} has negative means of genes in the tensor "
                f"{GENE_MEANS}. Ask the release's maker for an intact one.",
                file=release_folder.WEIGHTS,
                actual=float(means.min()),
            )
        return means

    def describe(self) -> None:
        """Bring the manifest's list of tensors in step with the network."""
        ours = self.network.specs()
        names = {spec.name for spec in ours}
        theirs = tuple(spec for spec in self.manifest.tensors if spec.name in self.extras and spec.name not in names)
        self._update(tensors=(*ours, *theirs), **self.network.facts())

    def to_scvi(
        self,
        adata: Query | None = None,
        *,
        conditions: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        layer: str | None = None,
        min_coverage: float | None = None,
        proteins: str | None = None,
    ) -> Any:
        """Return this model as scvi-tools' own: a trained ``scvi.model.SCVI``, ``SCANVI`` or ``TOTALVI``.

        Its weights are copies, and its surgery is scvi-tools', which moves the reference.

        Parameters
        ----------
        adata
            Cells whose conditions the model knows. They are aligned, and become the model's ``adata`` with the model's
            genes, ``(cells, genes)``, and the obs they have; nothing is written to them. None: the model has a few
            cells without counts, which hold its registry, and takes other AnnData in its methods.
        conditions, labels, layer, min_coverage, proteins
            As for :func:`hub_client.align`; conditions and labels that are left out are in the columns that are named
            like their keys, also where blanks and ``. / + *`` stand for a key's underscores.

        Raises
        ------
        Unsupported
            If the architecture is not scvi-tools', or the installed scvi-tools is one this archzoo does not know.
        AlignmentError, VocabularyError, InvalidInput
            As :func:`hub_client.align`; also if the cells have none of a totalVI's proteins, or the model has a
            dispersion for each label and cells have none.
        """
        if adata is None or self.manifest.architecture.package is None:
            return self.network.to_scvi()
        manifest = self.manifest
        query = opened(adata, needed=Needed(proteins=protein_keys(manifest, proteins)))
        keys = [*(key.key for key in manifest.categorical), *manifest.covariates.continuous]
        cells = align(
            query,
            self,
            conditions=conditions or obs.named_like(query.obs, keys),
            labels=obs.named_like(query.obs, [level.key for level in manifest.labels]) if labels is None else labels,
            layer=layer,
            min_coverage=min_coverage,
            proteins=proteins,
        )
        if manifest.proteins is not None and cells.proteins is None:
            raise errors.AlignmentError(
                f"the cells have none of the model's {len(manifest.proteins.panel)} proteins, which scvi-tools reads: "
                "name their key of obsm, or their modality, with proteins=. If they were not measured, put a DataFrame "
                "of zeros with the proteins' names into obsm."
            )
        return self.network.to_scvi(cells, obs=query.obs)

    def record(self, training: Training) -> None:
        """Replace the manifest's training record."""
        self._update(training=training)
        self.describe()

    def _update(self, **fields: object) -> None:
        self.manifest = self.manifest.model_copy(update=fields)


def device_of(name: str) -> str:
    """Return the device that a name stands for: ``auto`` is a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _check_tensors(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that agree with a manifest, but not with the network it describes."""
    for spec in model.network.specs():
        expected = model.manifest.shape(spec)
        actual = tuple(tensors[spec.name].shape) if spec.name in tensors else None
        if actual != expected:
            found = f"shape {actual}" if actual else "nothing"
            raise errors.IntegrityError(
                f"{release_folder.WEIGHTS} has {found} for the tensor {spec.name}, which has shape {expected} in a "
                f"network of kind {model.manifest.architecture.kind}. Ask the release's maker for an intact one.",
                file=release_folder.WEIGHTS,
                expected=expected,
                actual=actual,
            )
