"""What a network reads: the gene panel, the protein panel, and in which unit."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hub_client.manifest._frozen import Frozen
from hub_client.manifest.scalars import Text, UnitInterval, check_unique


class GeneAnnotation(Frozen):
    """The genome annotation the gene ids belong to."""

    assembly: Text
    source: Text
    release: Text


class Gene(Frozen):
    """One gene by Ensembl id, symbol, or both."""

    id: Annotated[str, Field(pattern=r"^ENS[A-Z]*G\d{11}$")] | None = None
    symbol: Text | None = None


class Genes(Frozen):
    """The ordered gene panel. Order is the contract; matching is by name."""

    id_type: Literal["ensembl", "symbol"]
    panel: Annotated[tuple[Gene, ...], Field(min_length=1)]
    coverage_warn: UnitInterval = 0.8
    coverage_refuse: UnitInterval = 0.5
    missing: Literal["zero", "mean"] = "zero"
    """What a gene the query did not measure counts as: zero, or the reference's mean (tensor ``gene_means``).

    For input of counts the tensor holds the mean over the reference's cells of each gene's share of the cell's counts.
    A query's cell is given, for each gene it lacks, the counts that this share makes at the cell's own depth: its
    counts in the genes that were measured, over the sum of their shares. For log1p input it holds the mean log1p value,
    and that is what the cell is given.

    Encoders that read centred expression read such a gene at their centre either way; the counts decide its loss."""
    duplicates: Literal["error", "sum", "first"] = "error"
    """What happens when two of the query's genes are the same gene of the panel."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each gene under ``id_type``, in panel order."""
        return tuple(str(gene.id if self.id_type == "ensembl" else gene.symbol) for gene in self.panel)

    def positions(self) -> dict[str, int]:
        """Return where in the panel each gene is, by its name; made anew by every call."""
        return {name: position for position, name in enumerate(self.names)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "None" in self.names:
            raise ValueError(f"every gene needs its {self.id_type} name: id_type is {self.id_type!r}")
        check_unique("gene names", self.names)
        if self.coverage_refuse > self.coverage_warn:
            raise ValueError("coverage_refuse must not exceed coverage_warn")
        return self


class Proteins(Frozen):
    """The ordered protein panel (totalVI)."""

    panel: Annotated[tuple[Text, ...], Field(min_length=1)]
    measured: dict[str, tuple[Text, ...]] = {}
    """Batch name to the names of the proteins measured in it; a batch not named measured all."""
    source: Text | None = None
    """The key of obsm, or the modality, that the reference's protein counts were in: a hint for finding the query's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unique("proteins", self.panel)
        if lost := {name for names in self.measured.values() for name in names} - {*self.panel}:
            raise ValueError(f"proteins.measured names proteins that are not of the panel: {sorted(lost)[:5]}")
        return self


class InputSpec(Frozen):
    """What the network reads."""

    kind: Literal["counts", "log1p"] = "counts"
    target_sum: Annotated[float, Field(gt=0)] | None = None
    """log1p input: the total each cell was scaled to before log1p; None when it was not scaled."""
    layer: str | None = None
    """The layer the reference's counts were in: a hint for finding the query's."""
    size_factor: Text | None = None
    """The obs column that holds each cell's size factor; None is the sum over the model's genes."""
