"""A query's proteins are found by name in the model's panel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from scipy import sparse

from hub_client import errors
from hub_client.data.align import align
from hub_client.data.proteins import aligned_proteins, lacking, measured, spelling
from hub_client.manifest.v1 import Manifest
from tests.scvi_models import mudata_cells, undisturbed
from tests.simulated import PROTEINS, counts, manifest

PANEL = ("CD3", "HLA-DR", "CD8A", "CD45RA")


def with_panel(*panel: str) -> Manifest:
    described = manifest("totalvi")
    return described.changed(proteins={"panel": panel})


def query(names: list[str], *, key: str = "adt", cells: int = 6) -> AnnData:
    adata = counts(cells=cells)
    values = np.arange(cells * len(names), dtype=np.float32).reshape(cells, -1)
    adata.obsm[key] = pd.DataFrame(values, index=adata.obs_names, columns=names)
    return adata


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("HLA-DR", "hladr"),
        ("HLA-DR_TotalSeqB", "hladr"),
        ("CD3-TotalSeqC", "cd3"),
        ("cd8a_TotalA", "cd8a"),
        ("CD45RA.ADT", "cd45ra"),
        ("ADT_CD4", "cd4"),
        ("PD-1", "pd1"),
        ("TotalSeqB", "totalseqb"),
    ],
)
def test_spelling(name: str, bare: str) -> None:
    assert spelling(name) == bare


def test_names_are_found_whatever_their_tags_and_order() -> None:
    adata = query(["CD8a_TotalSeqB", "extra", "hla-dr_TotalSeqB", "CD3"])
    found, report = aligned_proteins(adata, with_panel(*PANEL))
    assert found is not None and report is not None
    values = adata.obsm["adt"].to_numpy()
    assert_array_equal(found, np.stack([values[:, 3], values[:, 2], values[:, 0], np.zeros(6)], axis=1))
    assert report.renamed == {"hla-dr_TotalSeqB": "HLA-DR", "CD8a_TotalSeqB": "CD8A"}
    assert (report.missing, report.extra, report.source) == (("CD45RA",), ("extra",), "adt")


def test_a_spelling_that_two_have_is_not_used() -> None:
    found, report = aligned_proteins(query(["CD3", "cd8a", "CD8a_TotalSeqB"]), with_panel(*PANEL))
    assert report is not None
    assert report.missing == ("HLA-DR", "CD8A", "CD45RA")
    assert report.extra == ("cd8a", "CD8a_TotalSeqB")
    assert found is not None


def test_names_in_bytes_are_found() -> None:
    adata = query(list(PANEL))
    expected = adata.obsm["adt"].to_numpy()
    adata.obsm["adt"].columns = [name.encode() for name in PANEL]
    found, report = aligned_proteins(adata, with_panel(*PANEL))
    assert_array_equal(found, expected)
    assert report is not None and not report.renamed


def test_an_array_has_its_names_in_uns() -> None:
    adata = query(list(PANEL))
    adata.obsm["adt"] = adata.obsm["adt"].to_numpy()
    assert aligned_proteins(adata, with_panel(*PANEL))[0] is None
    with pytest.raises(errors.AlignmentError, match="no names"):
        aligned_proteins(adata, with_panel(*PANEL), key="adt")
    adata.uns["adt_names"] = list(PANEL)
    found, _ = aligned_proteins(adata, with_panel(*PANEL))
    assert_array_equal(found, adata.obsm["adt"])


@pytest.mark.parametrize("wrong", [-1.0, 0.5, np.nan])
def test_what_is_not_counts_is_refused(wrong: float) -> None:
    adata = query(list(PANEL))
    adata.obsm["adt"].iloc[2, 1] = wrong
    with pytest.raises(errors.AlignmentError, match="1 of 6 cells"):
        aligned_proteins(adata, with_panel(*PANEL))


def test_keys_that_are_not_there_are_named() -> None:
    with pytest.raises(errors.VocabularyError, match="adt"):
        aligned_proteins(query(list(PANEL)), with_panel(*PANEL), key="protein")
    with pytest.raises(errors.AlignmentError, match="none of the model's 4 proteins"):
        aligned_proteins(query(["x"]), with_panel(*PANEL), key="adt")


def test_a_query_without_proteins_says_so() -> None:
    cells = align(counts(cells=6), manifest("totalvi"))
    assert cells.proteins is None
    assert any("none of the model's proteins" in warning for warning in cells.report.warnings)


def test_a_mudata_and_its_file_give_the_same(tmp_path: Path) -> None:
    mdata = mudata_cells()
    with undisturbed():
        mdata.write(tmp_path / "cells.h5mu")
    expected = counts(proteins=True).obsm["protein"].to_numpy()
    for given in (mdata, tmp_path / "cells.h5mu"):
        cells = align(given, manifest("totalvi"))
        assert_array_equal(cells.proteins, expected)
        assert cells.report.proteins is not None
        assert cells.report.proteins.source == "prot"


TWICE = pytest.mark.filterwarnings("ignore:Variable names are not unique")


def in_var(names: list[str], *, kind: str = "Antibody Capture", cells: int = 6) -> AnnData:
    """Return a query with antibodies behind its genes, as scanpy.read_10x_h5(gex_only=False) has them."""
    genes = counts(cells=cells)
    values = np.arange(cells * len(names), dtype=np.float32).reshape(cells, -1)
    kinds = ["Gene Expression"] * genes.n_vars + [kind] * len(names)
    var = pd.DataFrame({"feature_types": kinds}, index=[*genes.var_names, *names])
    return AnnData(sparse.hstack([genes.X, sparse.csr_matrix(values)], format="csr"), obs=genes.obs, var=var)


@TWICE
@pytest.mark.parametrize("key", [None, "Antibody Capture"])
def test_antibodies_in_var_are_proteins(key: str | None) -> None:
    names = ["CD8A_TotalSeqB", "HLA-DR", "CD3", "IgG1"]
    cells = align(in_var(names), with_panel(*PANEL), proteins=key)
    assert cells.proteins is not None
    assert_array_equal(cells.proteins[1], [6, 5, 4, 0])
    found = cells.report.proteins
    assert found is not None
    assert (found.source, found.missing, found.extra) == ("Antibody Capture", ("CD45RA",), ("IgG1",))


@TWICE
def test_an_antibody_that_was_numbered_because_a_gene_has_its_name() -> None:
    query = in_var(["CD3-1", "CD8A-2"])
    query.var_names = ["CD3", *query.var_names[1:]]
    cells = align(query, with_panel("CD3", "CD8"))
    assert cells.report.proteins is not None
    assert cells.report.proteins.renamed == {}
    assert cells.report.proteins.missing == ("CD8",)


@TWICE
def test_proteins_in_obsm_come_before_those_in_var_that_are_no_more() -> None:
    query = in_var(["CD3"])
    query.obsm["adt"] = pd.DataFrame({"CD3": np.full(6, 9.0)}, index=query.obs_names)
    cells = align(query, with_panel("CD3"))
    assert cells.proteins is not None
    assert cells.proteins[:, 0].tolist() == [9] * 6


@TWICE
@pytest.mark.parametrize("kind", ["CRISPR Guide Capture", "Multiplexing Capture"])
def test_guides_and_hashtags_are_no_proteins(kind: str) -> None:
    found = align(in_var(["CD3"], kind=kind), with_panel("CD3")).report.proteins
    assert found is not None
    assert found.source is None
    with pytest.raises(errors.VocabularyError, match=r"no proteins under obsm\['guides'\]"):
        align(in_var(["CD3"], kind=kind), with_panel("CD3"), proteins="guides")


def test_proteins_beyond_float32_are_refused() -> None:
    wrong = query(["CD3"])
    wrong.obsm["adt"] = wrong.obsm["adt"].astype(np.float64)
    wrong.obsm["adt"].iloc[0, 0] = 1e300
    with pytest.raises(errors.AlignmentError, match="not counts: 1 of 6 cells"):
        align(wrong, with_panel("CD3"))


def test_what_batches_measured() -> None:
    adata = counts(proteins=True)
    found = measured(adata.obsm["protein"].to_numpy(), adata.obs["batch"].to_numpy())
    assert lacking(found, PROTEINS) == {"b2": tuple(PROTEINS[:11])}
    assert measured(None, np.array(["a", "b"])) == {"a": (), "b": ()}
