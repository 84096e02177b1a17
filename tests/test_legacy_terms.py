"""Names for gene programs: in order, by their genes, from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client import errors
from hub_client.legacy.terms import named, read
from hub_client.manifest.configs import ExpiMap
from hub_client.manifest.v1 import Condition, Gene, Genes, Manifest, OneHot, Term
from tests import simulated

GENES = ["Cd3e", "Cd4", "Cd8a", "Lyz2"]
ANNOTATED = (
    Term(id="term-0", name="term 0", genes=(0, 1)),
    Term(id="term-1", name="term 1", genes=(3,)),
    Term(id="term-2", name="term 2", genes=(0, 1)),
)
EXTENSION = Term(id="new-0", name="unconstrained 0", kind="unconstrained", added_in="1.0.0")


def manifest(*terms: Term) -> Manifest:
    return Manifest(
        name="programs",
        architecture=ExpiMap(hidden=(4,), unconstrained_extensions=sum(term.kind == "unconstrained" for term in terms)),
        genes=Genes(id_type="symbol", panel=tuple(Gene(symbol=gene) for gene in GENES)),
        conditions=(Condition(key="batch", categories=("b0",), encoding=OneHot()),),
        terms=terms,
    )


def test_names_in_order() -> None:
    found = named(manifest(*ANNOTATED, EXTENSION), ["T cells", "Myeloid", "T cells again"])
    assert [term.name for term in found] == ["T cells", "Myeloid", "T cells again", "unconstrained 0"]
    assert [term.id for term in found] == ["T cells", "Myeloid", "T cells again", "new-0"]
    assert [term.genes for term in found] == [(0, 1), (3,), (0, 1), ()]
    assert named(manifest(*ANNOTATED, EXTENSION), ["a", "b", "c", "d"])[3].name == "d"


def test_names_by_genes() -> None:
    """The sets are in another order, some are no term, and they name genes that the model does not read."""
    sets = {
        "other": ["CD8A"],
        "Myeloid": ["http://where-it-is-from", "LYZ2", "CSF1R"],
        "T cells": ["CD4", "CD3E", "CD2"],
        "T cells again": ["Cd3e", "cd4"],
    }
    found = named(manifest(*ANNOTATED), sets)
    assert [term.name for term in found] == ["T cells", "Myeloid", "T cells again"]


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c", "d"], []])
def test_names_that_are_too_few_or_many(names: list[str]) -> None:
    with pytest.raises(errors.InvalidInput, match=f"has {len(names)} names, the model 3 annotated terms of 3"):
        named(manifest(*ANNOTATED), names)


def test_genes_that_no_set_has() -> None:
    with pytest.raises(errors.InvalidInput, match=r"2 of 3 terms have genes that no gene set has: term 1, term 2"):
        named(manifest(*ANNOTATED), {"T cells": ["CD4", "CD3E"], "Myeloid": ["LYZ2", "CD8A"]})


def test_a_model_without_programs() -> None:
    with pytest.raises(errors.InvalidInput, match="a scpoli has no gene programs to name"):
        named(simulated.manifest(), ["a"])


def test_a_file_of_names(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("T cells\n\nMyeloid, all\r\n")
    assert read(file) == ["T cells", "Myeloid, all"]


def test_a_file_of_gene_sets(tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("T cells\thttp://where\tCD4\tCD3E\nMyeloid\t\tLYZ2\n")
    assert read(file) == {"T cells": ["http://where", "CD4", "CD3E"], "Myeloid": ["", "LYZ2"]}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no such file of term names"):
        read(tmp_path / "none.gmt")
    (tmp_path / "twice.gmt").write_text("a\t\tCD4\na\t\tCD8A\n")
    with pytest.raises(errors.InvalidInput, match="same name"):
        read(tmp_path / "twice.gmt")
