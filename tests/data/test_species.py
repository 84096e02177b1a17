from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hub_client import align, errors
from hub_client.data.genes import organism
from hub_client.data.species import HUMAN, MOUSE, Evidence, build_table, is_mouse, only_in
from tests import queries

SHARED = [f"GENE{i}" for i in range(30)]
ONLY_HUMAN = sorted(only_in(HUMAN))[::50][:25]
ONLY_MOUSE = ["H2-AA", "LY6C2", "GM12345", "1700001C02RIK", "IFI27L2A", "CCL6"]


@pytest.mark.parametrize("symbol", ONLY_MOUSE)
def test_symbols_that_only_mice_have(symbol: str) -> None:
    assert is_mouse(symbol)


@pytest.mark.parametrize("symbol", ["GAPDH", "CD4", "HLA-DRA", "GMNN", "CD3E", "CAR1"])
def test_symbols_that_humans_have(symbol: str) -> None:
    assert not is_mouse(symbol)


def test_symbols_that_only_humans_have() -> None:
    assert {"HLA-DRA", "GNLY", "LYZ", "FCGR3A"} <= only_in(HUMAN)
    assert not {"GAPDH", "CD4", "MT-CO1"} & only_in(HUMAN)
    assert not only_in(HUMAN) & only_in(MOUSE)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([*SHARED, *ONLY_MOUSE], "mouse"),
        ([*SHARED, *ONLY_MOUSE, *ONLY_HUMAN], "human"),
        ([*SHARED, *ONLY_HUMAN], "human"),
        ([*SHARED, *ONLY_MOUSE[:2]], None),
        (SHARED, None),
    ],
)
def test_the_organism_by_symbols_that_one_alone_has(names: list[str], expected: str | None) -> None:
    assert Evidence.of(names).organism == expected
    assert organism(names) == expected


def test_upper_cased_mouse_genes_are_reported_on_a_human_model() -> None:
    described = queries.manifest(organism=queries.HUMAN)
    names = [name for name in queries.PANEL if name != "LYZ"]
    (warning,) = align(queries.query([*names, *ONLY_MOUSE]), described).report.warnings
    assert "look like mouse genes, the model's are human: 6 have names that only mouse genes have (H2-AA," in warning
    assert align(queries.query([*names, *ONLY_MOUSE, *ONLY_HUMAN]), described).report.warnings == ()


def test_upper_cased_mouse_genes_are_the_reason_of_low_coverage() -> None:
    with pytest.raises(errors.AlignmentError, match="look like mouse genes, the model's are human"):
        align(queries.query([*queries.PANEL[:2], *ONLY_MOUSE]), queries.manifest(organism=queries.HUMAN))


def test_human_symbols_are_not_to_be_put_in_a_mouses_case() -> None:
    mouse = queries.manifest([name.capitalize() for name in queries.PANEL], organism=queries.MOUSE)
    with pytest.raises(errors.AlignmentError, match="look like human genes, the model's are mouse"):
        align(queries.query([*queries.PANEL, *ONLY_HUMAN]), mouse)


def test_a_query_without_the_genes_that_only_humans_have_is_doubted() -> None:
    described = queries.manifest([*SHARED, *ONLY_HUMAN], organism=queries.HUMAN)
    (low, warning) = align(queries.query(SHARED), described).report.warnings
    assert "below 80%" in low
    assert "100% of the model's other genes, but 0 of the 25 that only humans have" in warning
    assert "a mouse's genes whose symbols were put in upper case" in warning
    (low,) = align(queries.query([*SHARED, *ONLY_HUMAN[:5]]), described).report.warnings
    assert "below 80%" in low


def test_the_table_is_made_of_the_gene_tables_of_both(tmp_path: Path) -> None:
    human, mouse = tmp_path / "human.csv.gz", tmp_path / "mouse.csv.gz"
    human.write_bytes(gzip.compress(b"E1,GNLY,1,9,protein_coding\nE2,CD4,1,9,protein_coding\nE3,XIST,1,9,lncRNA\n"))
    mouse.write_bytes(gzip.compress(b"M1,Ly6c2,1,9,protein_coding\nM2,Cd4,1,9,protein_coding\nM3,Gm1234,1,9,TEC\n"))
    table = build_table(human, mouse, target=tmp_path / "species.tsv.xz")
    assert only_in(HUMAN, table) == {"GNLY"}
    assert only_in(MOUSE, table) == {"LY6C2"}
