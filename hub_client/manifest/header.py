"""What a manifest states of its files and its origin: all that can be read of a delta without its parent at hand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from hub_client.manifest._frozen import Frozen
from hub_client.manifest.provenance import Lineage, Training
from hub_client.manifest.scalars import RelativePath, Sha256, Text

INHERITED = "inherited.json"
"""The manifest that a delta's inherits from: in the whole release a file of its own, which hubs do not keep again."""
Inherited = Literal["genes", "tensors", "terms"]
"""A part of a manifest that a delta's may leave to an earlier release."""


class FileSpec(Frozen):
    """One file of the release."""

    path: RelativePath
    size: NonNegativeInt
    sha256: Sha256
    role: Literal["weights", "reference", "card", "inherited"]


class Delta(Frozen):
    """How hubs keep a release that surgery grew: what it adds to its parent, from which the rest is taken.

    ``files`` of the manifest describe the whole release, which is what is pulled, checked and cited.
    """

    path: Literal["delta.safetensors"] = "delta.safetensors"
    size: NonNegativeInt
    sha256: Sha256
    inherited: tuple[RelativePath, ...] = ()
    """Files that are the parent's, byte for byte, and are not kept a second time."""
    inherits: dict[Inherited, PositiveInt] = {}
    """How many entries of the gene panel, the tensors and the terms are those of ``inherited.json``, which is the
    manifest of the parent, or of the one that the parent inherits from. The document states the entries behind these;
    of the genes, which no surgery changes, it states nothing."""

    @model_validator(mode="after")
    def _check(self) -> Delta:
        if bool(self.inherits) != (INHERITED in self.inherited):
            raise ValueError(f"delta.inherits is for a release that inherits the file {INHERITED}, and it needs that")
        return self


class Signature(Frozen):
    """An ed25519 signature of the manifest's canonical JSON without this field."""

    publisher: Text
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The public key, in hexadecimal digits; whether it is the publisher's is said by whoever trusts it."""
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Header(BaseModel):
    """Name, files, training and origin of a release; the rest of its manifest is not looked at."""

    model_config = ConfigDict(frozen=True)

    name: Text
    created: AwareDatetime | None = None
    files: tuple[FileSpec, ...] = ()
    training: Training = Training()
    lineage: Lineage | None = None
    delta: Delta | None = None
    signature: Signature | None = None

    @property
    def inherited(self) -> FileSpec | None:
        """The earlier manifest that this one inherits from; None for a manifest that states everything itself."""
        return next((file for file in self.files if file.path == INHERITED), None)
