from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from hub_client import align, errors
from hub_client.data.sources import Source, choose_source
from tests import queries

COUNTS = queries.counts()
LOGGED = np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 10_000).astype(np.float32)


def query(x: Any, *, raw: Any = None, **layers: Any) -> AnnData:
    made = queries.query(x=x)
    made.layers.update(layers)
    if raw is not None:
        made.raw = queries.query(x=raw)
    return made


@pytest.mark.parametrize(
    ("layer", "hint", "expected"),
    [
        (None, None, "X"),
        (None, "counts", "layers/counts"),
        (None, "logged", "X"),
        (None, "absent", "X"),
        ("X", "counts", "X"),
        ("counts", None, "layers/counts"),
        ("logged", "counts", "layers/logged"),
        ("raw", None, "raw"),
    ],
)
def test_which_matrix_is_read(layer: str | None, hint: str | None, expected: str) -> None:
    made = query(COUNTS, raw=COUNTS, counts=COUNTS, logged=LOGGED)
    assert choose_source(made, layer=layer, hint=hint).name == expected


def test_a_layer_named_raw_is_read_before_raw() -> None:
    made = query(COUNTS, raw=COUNTS)
    made.layers["raw"] = COUNTS
    assert choose_source(made, layer="raw", hint=None).name == "layers/raw"


def test_unknown_layers_are_refused_with_what_there_is() -> None:
    with pytest.raises(errors.VocabularyError, match="no layer 'count'; layer= can be X, counts, raw") as caught:
        align(query(COUNTS, raw=COUNTS, counts=COUNTS), queries.manifest(), layer="count")
    assert caught.value.known == ("X", "counts", "raw")


def test_the_source_and_the_layer_are_recorded() -> None:
    report = align(query(LOGGED, counts=COUNTS), queries.manifest(), layer="counts").report
    assert report.source == "layers/counts"
    assert report.settings["layer"] == "counts"


def test_raw_is_read_with_its_own_genes() -> None:
    full = queries.query()
    small = full[:, list(queries.PANEL[:2])].copy()
    small.raw = full
    cells = align(small, queries.manifest(), layer="raw")
    assert np.array_equal(cells.x.toarray(), full.X.toarray())


@pytest.mark.parametrize(
    ("others", "advice"),
    [
        ({"counts": COUNTS}, r"layers/counts does: pass layer='counts'"),
        ({"raw": COUNTS}, r"raw does: pass layer='raw'"),
        ({"counts": COUNTS, "raw": COUNTS}, r"layers/counts does: .*; raw does: "),
        ({"scaled": -COUNTS}, "start from the counts before normalisation"),
    ],
)
def test_log_normalised_x_is_refused_with_where_the_counts_are(others: dict[str, Any], advice: str) -> None:
    message = f"X holds log-normalised counts.*this model reads raw counts.*{advice}"
    with pytest.raises(errors.AlignmentError, match=message):
        align(query(LOGGED, **others), queries.manifest())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x > 2, np.nan, x), "holds NaN"),
        (lambda x: np.where(x > 2, np.inf, x), "holds infinite"),
        (lambda x: (x - x.mean(axis=0)) / 2, "holds negative values"),
        (lambda x: -x, "holds negative values"),
        (lambda x: x * 0, "holds nothing but zeros"),
        (lambda x: x * 40 + x * np.pi % 1, r"ambient-corrected counts.*round\(\)"),
    ],
    ids=["NaN", "infinite", "scaled", "negative", "zeros", "estimated"],
)
def test_values_that_are_no_counts_are_refused(change: Any, message: str) -> None:
    with pytest.raises(errors.AlignmentError, match=message):
        align(query(change(COUNTS).astype(np.float32)), queries.manifest())


LENGTHS = np.random.default_rng(1).uniform(500, 8000, 60)
DEEP = queries.counts(40, 60, seed=3) * 3
TPM = DEEP / LENGTHS / (DEEP / LENGTHS).sum(axis=1, keepdims=True) * 1e6


def wide(x: Any) -> AnnData:
    names = [*queries.PANEL, *(f"OTHER{i}" for i in range(52))]
    return queries.query(names[: x.shape[1]], x=x.astype(np.float32), batch=["a"] * len(x))


@pytest.mark.parametrize(
    ("x", "looks"),
    [
        (TPM, r"scaled to a common total, 1e\+06 in each cell \(normalised, as TPM and CPM are\)"),
        (TPM / 1e6, "scaled to a common total, 1 in each cell"),
        (DEEP / DEEP.sum(axis=1, keepdims=True) * 1e4, r"scaled to a common total \(normalised\)"),
        (np.log1p(TPM), "log-normalised counts"),
        (np.log2(1 + TPM), "log2 of counts or of normalised counts"),
        (np.sqrt(TPM), "square roots of counts or of normalised counts"),
        (TPM[:2], "scaled to a common total"),
        (TPM[:, :50] * (DEEP[:, :50] > 3), "fractions up to .* like normalised values"),
    ],
)
@pytest.mark.parametrize("kind", ["counts", "log1p"])
def test_values_of_a_common_total_are_normalised_and_not_to_be_rounded(x: Any, looks: str, kind: str) -> None:
    if kind == "log1p" and "log-normalised" in looks:
        return
    described = queries.manifest(**({} if kind == "counts" else LOGS))
    with pytest.raises(errors.AlignmentError, match=looks) as caught:
        align(wide(x), described)
    assert "round" not in str(caught.value)


LOGS: dict[str, Any] = {"architecture": {"kind": "scpoli", "likelihood": "mse"}, "input": {"kind": "log1p"}}


@pytest.mark.parametrize("x", [TPM, DEEP / DEEP.sum(axis=1, keepdims=True) * 1e6])
@pytest.mark.parametrize("logs", [False, True])
def test_rounding_normalised_values_is_reported(x: Any, logs: bool) -> None:
    found = align(wide(np.round(x)), queries.manifest(**(LOGS if logs else {}))).report.warnings
    assert "each cell of X has a total of 1,000,0" in found[0]
    assert align(wide(DEEP), queries.manifest()).report.warnings == ()


@pytest.mark.parametrize("change", [np.round, np.ceil])
def test_rounded_values_of_which_genes_were_left_out_are_reported(change: Any) -> None:
    x = change(DEEP / DEEP.sum(axis=1, keepdims=True) * 1e4)[:, :50]
    (found,) = align(wide(x), queries.manifest()).report.warnings
    assert "where counts have 1, as normalised values have that were rounded" in found
    assert align(wide(np.random.default_rng(0).poisson(30, (40, 60))), queries.manifest()).report.warnings == ()


@pytest.mark.parametrize("scale", [1, 20])
@pytest.mark.parametrize("logs", [False, True])
def test_counts_without_ambient_rna_are_called_corrected_and_can_be_rounded(scale: float, logs: bool) -> None:
    x = np.maximum(DEEP * scale - np.random.default_rng(2).uniform(0.05, 0.15, DEEP.shape), 0)
    with pytest.raises(errors.AlignmentError, match=r"ambient-corrected counts.*SoupX.*round\(\)") as caught:
        align(wide(x), queries.manifest(**(LOGS if logs else {})))
    assert "like log" not in str(caught.value)


def test_counts_of_which_a_share_was_taken_are_called_corrected() -> None:
    share = np.random.default_rng(4).uniform(0.75, 1, DEEP.shape)
    with pytest.raises(errors.AlignmentError, match="ambient-corrected counts"):
        align(wide(queries.counts(40, 60) * share), queries.manifest())


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("value", [1e300, 3.5e38])
def test_values_beyond_float32_are_refused(form: Any, value: float) -> None:
    x = COUNTS.astype(np.float64)
    x[2, 3] = value
    with pytest.raises(errors.AlignmentError, match="values that float32 cannot hold"):
        align(query(form(x)), queries.manifest())


def test_totals_beyond_float32_are_refused() -> None:
    x = COUNTS.copy()
    x[2, :4] = 2e38
    with pytest.raises(errors.AlignmentError, match="1 of 6 cells have a total that float32 cannot hold"):
        align(query(x), queries.manifest())


def test_a_wrong_value_in_a_gene_the_model_does_not_read_is_refused_too() -> None:
    x = queries.counts(6, 9)
    x[5, 8] = np.nan
    with pytest.raises(errors.AlignmentError, match="holds NaN"):
        align(queries.query([*queries.PANEL, "OTHER"], x=x), queries.manifest())


def test_a_query_without_x_is_refused_with_where_the_counts_are() -> None:
    made = AnnData(None, obs=queries.query().obs, var=queries.query().var, layers={"counts": COUNTS})
    with pytest.raises(errors.AlignmentError, match=r"X is not set. But layers/counts does"):
        align(made, queries.manifest())


def test_binarised_counts_are_doubted() -> None:
    (warning,) = align(query(np.minimum(COUNTS, 1)), queries.manifest()).report.warnings
    assert "only zeros and ones" in warning


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda x: x - 1, "negative values"), (lambda x: x * np.nan, "NaN"), (lambda x: np.expm1(x), "normalised")],
)
def test_models_of_log1p_values_refuse_what_is_neither(change: Any, message: str) -> None:
    logs = queries.manifest(architecture={"kind": "scpoli", "likelihood": "mse"}, input={"kind": "log1p"})
    with pytest.raises(errors.AlignmentError, match=f"{message}.*this model reads log1p"):
        align(query(change(LOGGED)), logs)


def test_a_layer_that_is_a_frame_is_read_by_its_names() -> None:
    made = query(LOGGED)
    frame = pd.DataFrame(COUNTS, index=made.obs_names, columns=made.var_names)
    for layer in (frame, frame.astype("Int64"), frame.iloc[::-1, ::-1]):
        # newer versions of anndata turn frames into arrays
        older: Any = SimpleNamespace(layers={"counts": layer}, obs_names=made.obs_names, var=made.var)
        assert np.array_equal(Source("layers/counts", older).matrix, COUNTS)
    older.layers["counts"] = frame.rename(columns={"CD4": "other"})
    with pytest.raises(errors.AlignmentError, match="layers/counts is a data frame whose columns are not named"):
        _ = Source("layers/counts", older).matrix


def test_another_matrix_that_cannot_be_read_does_not_hide_what_is_wrong_with_this_one() -> None:
    made = query(LOGGED, text=COUNTS.astype(str), counts=COUNTS)
    with pytest.raises(errors.AlignmentError, match=r"X holds log-normalised counts.*layers/counts does"):
        align(made, queries.manifest(input={"layer": "text"}))
