from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from hub_client import align, errors
from hub_client.data.cells import Cells
from hub_client.data.examples import bundled_query
from hub_client.manifest.v1 import Manifest
from tests import queries

LOG1P = {"architecture": {"kind": "scpoli", "likelihood": "mse"}, "input": {"kind": "log1p", "target_sum": 1000}}


def same(one: Cells, other: Cells) -> None:
    assert (one.x != other.x).nnz == 0
    assert np.array_equal(one.size_factor, other.size_factor)
    for names, others in [(one.conditions, other.conditions), (one.labels, other.labels)]:
        assert names.keys() == others.keys()
        assert all(np.array_equal(names[key], others[key]) for key in names)


def test_genes_come_in_the_models_order_as_sorted_csr_float32() -> None:
    query = queries.query([*queries.PANEL[::-1], "OTHER"])
    cells = align(query, queries.manifest())
    expected = query[:, list(queries.PANEL)].X.toarray()
    assert isinstance(cells.x, sparse.csr_matrix)
    assert cells.x.dtype == np.float32
    assert cells.x.has_canonical_format
    assert (cells.x.data != 0).all()
    assert np.array_equal(cells.x.toarray(), expected)
    assert np.array_equal(cells.size_factor, expected.sum(axis=1))
    assert cells.size_factor.dtype == np.float32
    assert list(cells.obs_names) == list(query.obs_names)
    assert cells.conditions["batch"].tolist() == ["a", "c"] * 3
    assert cells.labels == {}
    assert cells.report.coverage == 1
    assert cells.report.unused == 1
    assert cells.report.warnings == ()


@given(order=st.permutations(range(10)), dropped=st.sets(st.integers(0, 7), max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_querys_genes_does_not_matter(order: list[int], dropped: set[int]) -> None:
    names = [*queries.PANEL, "ADGRE5", "OTHER"]
    query = queries.query(names, x=sparse.csr_matrix(queries.counts(6, 10)))
    kept = [i for i in order if i not in dropped]
    described = queries.manifest([*queries.PANEL, "CD97"])
    shuffled = align(query[:, kept], described)
    straight = align(query[:, sorted(kept)], described)
    same(shuffled, straight)
    assert shuffled.report == straight.report


FORMS: dict[str, Callable[[Any], Any]] = {
    "csr": sparse.csr_matrix,
    "csr array": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "dense": np.asarray,
    "Fortran order": np.asfortranarray,
    "float64": lambda x: x.astype(np.float64),
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: sparse.csr_matrix(x.astype(np.uint16)),
    "unsorted": lambda x: sparse.csr_matrix(x)[:, ::-1][:, ::-1],
    "explicit zeros": lambda x: sparse.csr_matrix((x.ravel(), np.indices(x.shape)[1].ravel(), _starts(x)), x.shape),
}


def _starts(x: Any) -> Any:
    return np.arange(x.shape[0] + 1) * x.shape[1]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_matrix_gives_the_same_cells(form: str) -> None:
    x = queries.counts()
    cells = align(queries.query(x=FORMS[form](x)), queries.manifest())
    assert np.array_equal(cells.x.toarray(), x)
    assert cells.x.dtype == np.float32
    assert cells.x.has_canonical_format
    assert (cells.x.data != 0).all()


def test_views_are_read_as_what_they_show() -> None:
    query = queries.query([*queries.PANEL, "OTHER"])
    view = query[[4, 1, 0], ["OTHER", *queries.PANEL[2:]]]
    assert view.is_view
    same(align(view, queries.manifest()), align(view.copy(), queries.manifest()))


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_backed_queries_and_their_views_are_read(tmp_path: Path, form: str) -> None:
    query = queries.query(x=FORMS[form](queries.counts()))
    query.raw = query.copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    backed = anndata.read_h5ad(tmp_path / "query.h5ad", backed="r")
    for layer in (None, "raw"):
        same(align(backed, queries.manifest(), layer=layer), align(query, queries.manifest()))
        same(align(backed[1:4], queries.manifest(), layer=layer), align(query[1:4], queries.manifest()))
    assert backed.isbacked
    backed.file.close()


def test_the_query_is_never_written_to() -> None:
    query = queries.query([*queries.PANEL[:6], "CD20", "OTHER"], batch=pd.Categorical(["a", "c"] * 3), cell_type="T")
    query.layers["counts"] = query.X.copy()
    query.raw = query.copy()
    before = query.copy()
    for array in (query.X.data, query.X.indices, query.X.indptr, query.layers["counts"].data):
        array.flags.writeable = False
    cells = align(query, queries.manifest(input={"layer": "counts"}), labels={"cell_type": "cell_type"})
    cells.x.data[:] = 7
    assert (query.X != before.X).nnz == 0
    assert (query.raw.X != before.raw.X).nnz == 0
    assert (query.layers["counts"] != before.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(query.obs, before.obs)
    pd.testing.assert_frame_equal(query.var, before.var)


def test_the_result_shares_no_memory_with_the_query() -> None:
    query = queries.query()
    cells = align(query, queries.manifest())
    assert not np.shares_memory(cells.x.data, query.X.data)
    assert not np.shares_memory(cells.x.indices, query.X.indices)


def test_genes_by_ensembl_id_find_a_panel_of_symbols() -> None:
    query = queries.query(["ENSG00000156738.3", "ENSG00000111640.15"], x=np.array([[1, 2], [3, 4]], dtype=np.float32))
    cells = align(query, queries.manifest(["GAPDH", "MS4A1"]))
    assert cells.x.toarray().tolist() == [[2, 1], [4, 3]]
    assert cells.report.id_type == "ensembl"
    assert cells.report.renamed == {"ENSG00000156738.3": "MS4A1", "ENSG00000111640.15": "GAPDH"}


def test_repeated_genes_are_summed_where_the_manifest_says_so() -> None:
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        query = queries.query(["GAPDH", "CD4", "GAPDH"], x=np.array([[1, 2, 3]], dtype=np.float32))
    cells = align(query, queries.manifest(["CD4", "GAPDH"], genes={"duplicates": "sum"}))
    assert cells.x.toarray().tolist() == [[2, 4]]
    assert cells.report.summed == ("GAPDH",)


def test_coverage_is_weighted_by_use_and_names_the_most_used_missing_genes() -> None:
    usage = [1, 1, 1, 1, 1, 3, 4, 8]
    model = queries.Model(queries.manifest(), queries.Network(usage))
    report = align(queries.query(queries.PANEL[:5]), model).report
    assert report.coverage == 5 / 8
    assert report.weighted_coverage == pytest.approx(5 / 20)
    assert report.missing == ("IL7R", "CD3E", "LYZ")
    assert report.warnings == (
        "the query measures 5 of the model's 8 genes (62.5%, 25.0% weighted by use), below 80%. "
        "Missing, the most used first: IL7R, CD3E, LYZ.",
    )


def test_low_coverage_is_refused_with_the_facts() -> None:
    with pytest.raises(errors.AlignmentError, match=r"3 of the model's 8 genes.*min_coverage=") as caught:
        align(queries.query(queries.PANEL[:3]), queries.manifest())
    assert caught.value.coverage == 3 / 8
    assert caught.value.missing == queries.PANEL[3:]


def test_min_coverage_takes_the_place_of_both_thresholds_and_is_recorded() -> None:
    report = align(queries.query(queries.PANEL[:3]), queries.manifest(), min_coverage=0.3).report
    assert report.settings["min_coverage"] == 0.3
    assert report.warnings == ()
    with pytest.raises(errors.AlignmentError):
        align(queries.query(queries.PANEL[:7]), queries.manifest(), min_coverage=0.9)
    with pytest.raises(errors.InvalidInput, match="between 0 and 1"):
        align(queries.query(), queries.manifest(), min_coverage=50)


def test_min_coverage_zero_is_recorded_and_still_needs_a_gene() -> None:
    assert (
        align(queries.query(queries.PANEL[:1]), queries.manifest(), min_coverage=0).report.settings["min_coverage"] == 0
    )
    with pytest.raises(errors.AlignmentError, match="shares no gene"):
        align(queries.query(["X1", "X2"]), queries.manifest(), min_coverage=0)


def test_cells_without_counts_are_kept_and_counted() -> None:
    x = queries.counts()
    x[2:4] = 0
    cells = align(queries.query(x=x), queries.manifest())
    assert cells.size_factor[2:4].tolist() == [1, 1]
    assert "2 of 6 cells have no counts in the model's genes" in cells.report.warnings[0]


@pytest.mark.parametrize(
    ("rows", "columns", "message"), [(0, 8, "no cells"), (6, 0, "no genes")], ids=["no cells", "no genes"]
)
def test_empty_queries_are_refused(rows: int, columns: int, message: str) -> None:
    with pytest.raises(errors.AlignmentError, match=message):
        align(queries.query()[:rows, :columns], queries.manifest())


def test_repeated_cell_names_are_refused() -> None:
    query = queries.query()
    query.obs_names = ["x", "x", "y", "z", "z", "w"]
    with pytest.raises(errors.AlignmentError, match=r"2 cell names.*x, z.*obs_names_make_unique\(\)"):
        align(query, queries.manifest())


@pytest.mark.parametrize("other", [np.ones((2, 2)), None, pd.DataFrame()], ids=["array", "None", "frame"])
def test_other_objects_are_refused(other: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="a query is an AnnData"):
        align(other, queries.manifest())


def test_counts_become_log1p_for_models_that_read_it() -> None:
    query = queries.query([*queries.PANEL, "OTHER"])
    x = query.X.toarray()
    cells = align(query, queries.manifest(**LOG1P))
    expected = np.log1p(x / x.sum(axis=1, keepdims=True) * 1000)[:, :8]
    np.testing.assert_allclose(cells.x.toarray(), expected, rtol=1e-6)
    assert cells.size_factor.tolist() == [1] * 6
    assert "log1p of them" in cells.report.warnings[0]


def test_counts_become_plain_log1p_without_a_target_sum() -> None:
    described = queries.manifest(**(LOG1P | {"input": {"kind": "log1p"}}))
    query = queries.query()
    np.testing.assert_allclose(align(query, described).x.toarray(), np.log1p(query.X.toarray()), rtol=1e-6)


def test_log1p_values_are_read_as_they_are() -> None:
    x = queries.counts()
    logged = np.log1p(x / x.sum(axis=1, keepdims=True) * 1000)
    cells = align(queries.query(x=logged), queries.manifest(**LOG1P))
    assert np.array_equal(cells.x.toarray(), logged)
    assert cells.report.warnings == ()


def test_log1p_values_of_another_total_are_doubted() -> None:
    x = queries.counts()
    logged = np.log1p(x / x.sum(axis=1, keepdims=True) * 10_000)
    (warning,) = align(queries.query(x=logged), queries.manifest(**LOG1P)).report.warnings
    assert "scaled to 10,000 before log1p, the reference's to 1,000" in warning


MEASURED_TWICE = pytest.mark.filterwarnings("ignore:Variable names are not unique")
TWICE = ["GAPDH", "CD4", "GAPDH", "CD8A", "CD4", "OTHER"]


@MEASURED_TWICE
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_log1p_values_of_a_gene_measured_twice_are_summed_as_counts(form: Any) -> None:
    x = queries.counts(6, 6)
    described = queries.manifest(["CD4", "GAPDH", "CD8A"], **(LOG1P | {"genes": {"duplicates": "sum"}}))
    cells = align(queries.query(TWICE, x=form(np.log1p(x))), described)
    expected = np.log1p(np.stack([x[:, 1] + x[:, 4], x[:, 0] + x[:, 2], x[:, 3]], axis=1))
    np.testing.assert_allclose(cells.x.toarray(), expected, rtol=1e-6)
    assert np.array_equal(cells.x.toarray()[:, 2], np.log1p(x[:, 3]))
    assert cells.report.summed == ("CD4", "GAPDH")
    assert cells.x.has_canonical_format


@MEASURED_TWICE
def test_counts_of_a_gene_measured_twice_are_summed_before_the_log() -> None:
    x = queries.counts(6, 6)
    described = queries.manifest(["CD4", "GAPDH", "CD8A"], **(LOG1P | {"genes": {"duplicates": "sum"}}))
    found = align(queries.query(TWICE, x=x), described).x.toarray()
    scaled = x / x.sum(axis=1, keepdims=True) * 1000
    expected = np.log1p(np.stack([scaled[:, 1] + scaled[:, 4], scaled[:, 0] + scaled[:, 2], scaled[:, 3]], axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class WithMeans(queries.Model):
    """A model that knows the means of its reference's genes."""

    def gene_means(self) -> NDArray[np.float32]:
        return np.array([0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2], dtype=np.float32)


def test_missing_genes_are_filled_with_the_references_means() -> None:
    """A fifth of the counts is in the gene that was not measured: four fifths are in the others."""
    model = WithMeans(queries.manifest(genes={"missing": "mean"}), queries.Network([1.0] * 8))
    query = queries.query(queries.PANEL[:7])
    cells = align(query, model)
    assert np.array_equal(cells.x.toarray()[:, :7], query.X.toarray())
    totals = np.asarray(query.X.sum(axis=1)).ravel()
    np.testing.assert_allclose(cells.x.toarray()[:, 7], totals / 4, rtol=1e-6)
    np.testing.assert_allclose(cells.size_factor, totals * 5 / 4, rtol=1e-6)
    assert cells.x.has_canonical_format
    assert cells.report.missing == ("IL7R",)


def test_log1p_values_are_filled_with_the_mean_itself() -> None:
    model = WithMeans(queries.manifest(genes={"missing": "mean"}, **LOG1P), queries.Network([1.0] * 8))
    x = queries.counts(genes=7)
    cells = align(queries.query(queries.PANEL[:7], x=np.log1p(x / x.sum(axis=1, keepdims=True) * 1000)), model)
    assert cells.x.toarray()[:, 7].tolist() == [np.float32(0.2)] * 6


@pytest.mark.parametrize("whole", [True, False])
def test_means_need_a_model_that_knows_them(whole: bool) -> None:
    described = queries.manifest(genes={"missing": "mean"})
    model = queries.Model(described, queries.Network([1.0] * 8))
    assert align(queries.query(), model if whole else described).report.coverage == 1  # nothing to fill
    with pytest.raises(errors.Unsupported, match=r"1 genes the query lacks.*with_gene_means\(\)"):
        align(queries.query(queries.PANEL[:7]), model if whole else described)


def panel_of(path: Path, *, genes: int = 2000) -> Manifest:
    return queries.manifest(list(anndata.read_h5ad(path, backed="r").var_names[:genes]))


@pytest.mark.slow
def test_a_query_by_ensembl_id_on_a_real_panel_of_symbols(shared_data: Callable[[str], Path]) -> None:
    cells = align(shared_data("lung_ood_ensembl.h5ad"), panel_of(shared_data("pbmc_kang_small.h5ad")))
    assert cells.report.id_type == "ensembl"
    assert cells.report.coverage == pytest.approx(0.736)
    assert cells.report.renamed["ENSG00000187608"] == "ISG15"
    assert cells.x.nnz > 50_000


@pytest.mark.slow
def test_a_query_with_new_symbols_on_an_old_panel(shared_data: Callable[[str], Path]) -> None:
    cells = align(shared_data("pancreas_baron_cider_human_mouse.h5ad"), panel_of(shared_data("pbmc_kang_small.h5ad")))
    assert cells.report.renamed["ADGRE5"] == "CD97"


@pytest.mark.slow
def test_a_real_query_has_its_own_counts(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("pbmc3k_10x.h5ad")
    described = panel_of(shared_data("pbmc_kang_ifnb.h5ad"))
    cells = align(path, described)
    query: AnnData = anndata.read_h5ad(path)
    shared = [name for name in described.genes.names if name in query.var_names]
    columns = [described.genes.names.index(name) for name in shared]
    assert (cells.x[:, columns] != query[:, shared].X).nnz == 0
    assert cells.conditions["batch"].tolist() == ["10x_pbmc3k"] * len(query)


@pytest.mark.slow
def test_the_bundled_query_has_five_hundred_shared_genes(shared_data: Callable[[str], Path]) -> None:
    names = anndata.read_h5ad(shared_data("pbmc_kang_ifnb.h5ad"), backed="r").var_names
    query = bundled_query("pbmc68k")
    described = queries.manifest([name for name in query.var_names if name in names])
    cells = align(query, described)
    assert cells.report.coverage == 1
    assert len(described.genes.panel) > 500


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (pd.date_range("2020", periods=6), "2020-01-01"),
        (pd.Index(np.arange(6) / 2), "0.0"),
        (pd.Index([b"c%d" % number for number in range(6)]), "c0"),
        (pd.Index(list("abcdef"), dtype="string"), "a"),
        (pd.CategoricalIndex(list("abcdef")), "a"),
    ],
    ids=["dates", "numbers", "bytes", "nullable", "categories"],
)
def test_cell_names_are_text(index: pd.Index, expected: str) -> None:
    query = queries.query()
    query.obs.index = index
    names = align(query, queries.manifest()).obs_names
    assert names[0] == expected and {type(name) for name in names} == {str}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (["a", None, "c", "d", "e", "f"], "1 of the query's 6 cells have no name"),
        ([1, "1", 2, 3, 4, 5], "more than once"),
    ],
)
def test_cells_without_a_name_of_their_own_are_refused(index: list[Any], message: str) -> None:
    query = queries.query()
    query.obs.index = pd.Index(index, dtype=object)
    with pytest.raises(errors.AlignmentError, match=message):
        align(query, queries.manifest())
