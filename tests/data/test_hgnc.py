from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.data.hgnc import TABLE, How, build_table, hgnc

HEADER = "hgnc_id\tsymbol\tensembl_id\talias_symbols\tprev_symbols\n"


@pytest.mark.parametrize(
    ("name", "symbol", "how"),
    [
        ("MS4A1", "MS4A1", How.APPROVED),
        ("ENSG00000156738", "MS4A1", How.APPROVED),
        ("CD20", "MS4A1", How.PREVIOUS),
        ("MARCH1", "MARCHF1", How.PREVIOUS),
        ("CD97", "ADGRE5", How.PREVIOUS),
        ("PD-1", "PDCD1", How.ALIAS),
    ],
)
def test_names_lead_to_genes(name: str, symbol: str, how: How) -> None:
    approved = hgnc().find(symbol)
    assert approved is not None
    assert hgnc().find(name) == (approved[0], how)


@pytest.mark.parametrize("name", ["", "ms4a1", "Cd20", "NOTAGENE", "ENSG00000156738.3"])
def test_other_names_lead_nowhere(name: str) -> None:
    assert hgnc().find(name) is None


def test_names_that_could_mean_two_genes_are_in_no_mapping(tmp_path: Path) -> None:
    rows = [
        "1\tA\tENSG1\tshared|B|onlyA\toldshared",
        "2\tB\tENSG2\tshared\toldshared|C",
        "3\tC\tENSG3\t\toldC",
        "4\tD\tENSG3\toldC\t",
    ]
    found = hgnc(build(tmp_path, rows)).find
    assert found("shared") is None
    assert found("oldshared") is None
    assert found("ENSG3") is None
    assert found("onlyA") == (0, How.ALIAS)
    assert found("B") == (1, How.APPROVED)  # and never A, of which it is an alias
    assert found("C") == (2, How.APPROVED)  # and never B, of which it was the symbol
    assert found("oldC") == (2, How.PREVIOUS)  # a previous symbol before an alias


def build(folder: Path, rows: list[str]) -> Path:
    source = folder / "source.tsv.gz"
    source.write_bytes(gzip.compress((HEADER + "\n".join(rows) + "\n").encode()))
    return build_table(source, target=folder / "table.tsv.xz")


def test_the_table_is_built_reproducibly_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = ["1\tA\tENSG1\ta\t", "2\tB\tENSG2\t\tb"]
    first = build(tmp_path, rows).read_bytes()
    assert build(tmp_path, rows[::-1]).read_bytes() == first


@pytest.mark.slow
def test_the_shipped_table_is_what_its_source_makes(shared_data: object, tmp_path: Path) -> None:
    source = shared_data("genes/hgnc_symbols.tsv.gz")  # type: ignore[operator]
    assert build_table(source, target=tmp_path / "again.tsv.xz").read_bytes() == TABLE.read_bytes()


def test_a_source_without_the_columns_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "other.tsv"
    source.write_text("symbol\tensembl_id\nA\tENSG1\n")
    with pytest.raises(errors.InvalidInput, match="lacks the columns prev_symbols, alias_symbols"):
        build_table(source, target=tmp_path / "table.tsv.xz")
