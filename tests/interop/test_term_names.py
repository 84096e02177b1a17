"""Names for gene programs: in order, by their genes, from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client import errors
from hub_client.interop.term_names import named, read
from hub_client.manifest.configs import ExpiMapConfig
from hub_client.manifest.inputs import Gene, Genes
from hub_client.manifest.v1 import Condition, Manifest, OneHot, Term
from hub_client.programs.programs import Program
from tests import simulated

GENES = ["Cd3e", "Cd4", "Cd8a", "Lyz2"]
ANNOTATED = (
    Term(id="term-0", name="term 0", genes=("Cd3e", "Cd4")),
    Term(id="term-1", name="term 1", genes=("Lyz2",)),
    Term(id="term-2", name="term 2", genes=("Cd3e", "Cd4")),
)
EXTENSION = Term(id="new-0", name="unconstrained 0", kind="unconstrained", added_in="1.0.0")


def manifest(*terms: Term) -> Manifest:
    return Manifest(
        name="programs",
        architecture=ExpiMapConfig(
            hidden=(4,), unconstrained_extensions=sum(term.kind == "unconstrained" for term in terms)
        ),
        genes=Genes(id_type="symbol", panel=tuple(Gene(symbol=gene) for gene in GENES)),
        conditions=(Condition(key="batch", categories=("b0",), encoding=OneHot()),),
        terms=terms,
    )


def test_names_in_order() -> None:
    found = named(manifest(*ANNOTATED, EXTENSION), ["T cells", "Myeloid", "T cells again"])
    assert [term.name for term in found] == ["T cells", "Myeloid", "T cells again", "unconstrained 0"]
    assert [term.id for term in found] == ["T cells", "Myeloid", "T cells again", "new-0"]
    assert [term.genes for term in found] == [("Cd3e", "Cd4"), ("Lyz2",), ("Cd3e", "Cd4"), ()]
    assert named(manifest(*ANNOTATED, EXTENSION), ["a", "b", "c", "d"])[3].name == "d"


def program(name: str, *genes: str, id: str | None = None) -> Program:
    return Program(id or name, name, genes)


def test_names_by_genes() -> None:
    """The programs are in another order, some are no term, and they have genes that the model does not read."""
    programs = (
        program("other", "CD8A"),
        program("Myeloid", "LYZ2", "CSF1R", id="R-HSA-1"),
        program("T cells", "CD4", "CD3E", "CD2", id="GO:1"),
        program("T cells", "Cd3e", "cd4", id="GO:2"),
    )
    found = named(manifest(*ANNOTATED), programs)
    assert [term.name for term in found] == ["T cells (GO:1)", "Myeloid", "T cells (GO:2)"]
    assert [term.id for term in found] == ["GO:1", "R-HSA-1", "GO:2"]


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c", "d"], []])
def test_names_that_are_too_few_or_many(names: list[str]) -> None:
    with pytest.raises(errors.InvalidInput, match=f"has {len(names)} names, the model 3 annotated terms of 3"):
        named(manifest(*ANNOTATED), names)


def test_genes_that_no_set_has() -> None:
    with pytest.raises(errors.InvalidInput, match="genes of 2 of 3 terms: term 1, term 2"):
        named(manifest(*ANNOTATED), [program("T cells", "CD4", "CD3E"), program("Myeloid", "LYZ2", "CD8A")])


def test_a_model_without_programs() -> None:
    with pytest.raises(errors.InvalidInput, match="a scpoli has no gene programs to name"):
        named(simulated.manifest(), ["a"])


def test_a_file_of_names(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("T cells\n\nMyeloid, all\r\n")
    assert read(file) == ["T cells", "Myeloid, all"]


def test_a_file_of_gene_programs(tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("T cells\thttp://where\tCD4\tCD3E\nMyeloid\tR-HSA-1\tLYZ2\n")
    assert read(file) == (program("T cells", "CD4", "CD3E"), program("Myeloid", "LYZ2", id="R-HSA-1"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no such file of term names"):
        read(tmp_path / "none.gmt")
    (tmp_path / "odd.gmt").write_text("a\t\tCD4\nb\n")
    with pytest.raises(errors.InvalidInput, match="no gene program"):
        read(tmp_path / "odd.gmt")
