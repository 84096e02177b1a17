from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

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
