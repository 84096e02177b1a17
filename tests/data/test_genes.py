from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hub_client import errors
from hub_client.data.genes import Match, Panel, match, organism, plain, resolve_duplicates
from hub_client.manifest.v1 import Manifest
from tests import queries


def matched(names: list[str], described: Manifest, *, policy: str = "error", **columns: list[str]) -> Match:
    var = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    return resolve_duplicates(match(var, Panel.of(described)), policy=policy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ENSG00000111640.15", "ENSG00000111640"),
        ("ENSG00000111640", "ENSG00000111640"),
        ("GRCh38_GAPDH", "GAPDH"),
        ("hg19_ENSG00000111640.3", "ENSG00000111640"),
        ("RP11-206L10.2", "RP11-206L10.2"),
        ("AL627309.1", "AL627309.1"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378.15_PAR_Y"),
    ],
)
def test_only_versions_and_genomes_are_taken_off(name: str, expected: str) -> None:
    assert plain(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Cd3e", "Actb", "Gm1234", "mt-Co1", "1700001C02Rik"], "mouse"),
        (["ENSMUSG00000000001.4", "ENSMUSG00000000003"], "mouse"),
        (["ENSG00000111640", "ENSG00000156738"], "human"),
        (["ENSDARG00000000001"], "zebrafish"),
        (["CD3E", "ACTB", "C1orf112", "MT-CO1"], None),
        ([], None),
    ],
)
def test_organisms_are_told_by_names(names: list[str], expected: str | None) -> None:
    assert organism(names) == expected


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("ENSG00000156738.17", "MS4A1"),  # Ensembl id to approved symbol
        ("CD20", "MS4A1"),  # previous symbol
        ("ADGRE5", "CD97"),  # the panel is older than the query
        ("GRCh38_MS4A1", "MS4A1"),
        ("PD-1", "PDCD1"),  # alias
    ],
)
def test_other_names_find_their_gene(theirs: str, ours: str) -> None:
    found = matched([theirs, "GAPDH"], queries.manifest([ours, "GAPDH"]))
    assert found.target.tolist() == [0, 1]
    assert found.renamed == {theirs: ours}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("HLA.DRA", "HLA-DRA"),  # R's make.names
        ("HLA_DRA", "HLA-DRA"),
        ("HLA-DRA", "HLA.DRA"),  # a model made from R's names
        ("MT.CO1", "MT-CO1"),
        ("X7SK", "7SK"),
        ("APOBEC3A-B", "APOBEC3A_B"),  # Seurat's hyphens
        ("RP11.206L10.2", "RP11-206L10.2"),
        ("GRCh38-HLA-DRA", "HLA-DRA"),  # Seurat, of GRCh38_HLA-DRA
        ("GRCh38.HLA.DRA", "HLA-DRA"),
        ("NKX2.1", "NKX2-1"),
        ("PD.1", "PDCD1"),  # an alias
        ("T.bet", "TBX21"),
    ],
)
def test_names_as_r_changes_them_find_their_gene(theirs: str, ours: str) -> None:
    found = matched([theirs, "GAPDH"], queries.manifest([ours, "GAPDH"]))
    assert found.target.tolist() == [0, 1]
    assert found.renamed == {theirs: ours}


def test_names_that_differ_in_punctuation_are_reported() -> None:
    found = matched(["HLA.DRA", "CD4"], queries.manifest(["HLA-DRA", "CD4"]))
    assert found.respelt == {"HLA.DRA": "HLA-DRA"}
    assert "1 of the query's genes were found by names that differ in punctuation" in found.doubts[0]
    assert "HLA.DRA is HLA-DRA" in found.doubts[0]


def test_punctuation_that_two_genes_differ_by_is_kept() -> None:
    assert matched(["A.B"], queries.manifest(["A-B", "A_B"])).target.tolist() == [-1]


def test_a_name_of_its_own_wins_over_one_that_differs_in_punctuation() -> None:
    found = matched(["HLA.DRA", "HLA-DRA"], queries.manifest(["HLA-DRA"]))
    assert found.target.tolist() == [-1, 0]
    assert found.superseded == ("HLA.DRA",)


def test_clones_numbers_are_not_taken_for_punctuation() -> None:
    assert matched(["AL627309.1", "TBCE.1"], queries.manifest(["AL627309.3", "TBCE"])).target.tolist() == [-1, -1]


def test_names_that_r_made_unique_are_not_taken_for_another_gene() -> None:
    described = queries.manifest(["POLR2J3", "POLR2J3-1"])
    assert matched(["POLR2J3", "POLR2J3.1"], described).target.tolist() == [0, -1]
    assert matched(["POLR2J3.1"], described).target.tolist() == [-1]
    assert matched(["ABCF2.1"], queries.manifest(["ABCF2-1"])).target.tolist() == [-1]  # ABCF2 is a gene
    assert matched(["A1.B", "A1.B.1"], queries.manifest(["A1-B", "A1-B-1"])).target.tolist() == [0, -1]


def test_names_in_bytes_are_read() -> None:
    var = pd.DataFrame({"symbol": [b"CD4", b"CD8A"]}, index=pd.Index([b"x", b"y"], dtype=object))
    assert match(var, Panel.of(queries.manifest())).target.tolist() == [1, 2]
    assert match(var.set_index("symbol"), Panel.of(queries.manifest())).target.tolist() == [1, 2]


def test_the_panels_own_pairs_come_before_the_table() -> None:
    described = queries.manifest(["MS4A1", "MYGENE"], ids=["ENSG00000156738", "ENSG00000111640"])
    assert matched(["ENSG00000111640", "ENSG00000156738"], described).target.tolist() == [1, 0]


def test_case_is_never_changed() -> None:
    assert matched(["gapdh", "Cd4", "CD8A"], queries.manifest()).target.tolist() == [-1, -1, 2]


def test_the_table_is_human() -> None:
    mouse = queries.manifest(["MS4A1", "GAPDH"], organism=queries.MOUSE)
    assert matched(["CD20", "GAPDH"], mouse).target.tolist() == [-1, 1]


def test_an_exact_name_wins_over_an_old_one() -> None:
    found = matched(["CD20", "MS4A1"], queries.manifest(), policy="sum")
    assert found.target.tolist() == [-1, 3]
    assert found.superseded == ("CD20",)
    assert "CD20" in found.doubts[0]


def test_two_panel_genes_keep_their_own_names() -> None:
    assert matched(["CD97", "ADGRE5"], queries.manifest(["ADGRE5", "CD97"])).target.tolist() == [1, 0]


def test_the_column_that_finds_most_is_read() -> None:
    names = ["g1", "g2", "GAPDH"]
    symbols = ["CD4", "CD8A", "GAPDH"]
    found = matched(names, queries.manifest(), feature_name=symbols, kind=["Gene Expression"] * 3)
    assert (found.column, found.target.tolist(), found.id_type) == ("feature_name", [1, 2, 0], "symbol")


def test_var_names_are_read_where_a_column_finds_no_more() -> None:
    found = matched(["GAPDH", "CD4"], queries.manifest(), gene_ids=["ENSG00000111640", "ENSG00000010610"])
    assert found.column == "var_names"


def test_gaps_in_a_column_are_no_genes() -> None:
    var = pd.DataFrame({"symbol": [None, np.nan, "CD4"]}, index=["x", "y", "z"])
    assert match(var, Panel.of(queries.manifest())).target.tolist() == [-1, -1, 1]


def test_repeated_genes_are_an_error() -> None:
    message = r"GAPDH \(GAPDH, GAPDH\).*antibodies, hashtags or guides, take them out.*var_names_make_unique"
    with pytest.raises(errors.AlignmentError, match=message):
        matched(["GAPDH", "CD4", "GAPDH"], queries.manifest())


def test_repeated_ids_of_several_versions_are_an_error() -> None:
    described = queries.manifest(["GAPDH"], ids=["ENSG00000111640"], genes={"id_type": "ensembl"})
    with pytest.raises(errors.AlignmentError, match=r"ENSG00000111640\.1, ENSG00000111640\.2"):
        matched(["ENSG00000111640.1", "ENSG00000111640.2"], described)


@pytest.mark.parametrize(("policy", "target"), [("sum", [0, 1, 0]), ("first", [0, 1, -1])])
def test_repeated_genes_by_policy(policy: str, target: list[int]) -> None:
    found = matched(["GAPDH", "CD4", "GAPDH"], queries.manifest(), policy=policy)
    assert found.target.tolist() == target


def test_two_old_names_of_one_gene_are_not_used_rather_than_refused() -> None:
    found = matched(["GAPDH", "CD20", "Bp35"], queries.manifest(["GAPDH", "MS4A1"]))
    assert found.superseded == ("Bp35",)  # an alias gives way to the previous symbol
    twice = matched(["GAPDH", "CD279", "PD-1"], queries.manifest(["GAPDH", "PDCD1"]))
    assert twice.target.tolist() == [0, -1, -1]
    assert twice.ambiguous == ("PDCD1",)
    assert "PDCD1" in twice.doubts[0]
