"""Audits of labels: planted errors are found, and clean labels raise no alarm."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix

import hub_client
from hub_client import errors
from hub_client.labels.audit import LabelAudit, audit_labels
from hub_client.labels.levels import coarser
from hub_client.manifest.axes import Markers
from tests import simulated

TYPES = ("B", "Mono", "NK", "T")
CELLS = 480


def cells(*, seed: int = 0) -> anndata.AnnData:
    """Return cells of two batches whose types differ clearly, with markers that the labels follow without error."""
    adata = simulated.counts(("b0", "b1"), cells=CELLS, seed=seed)
    generator = np.random.default_rng(seed)
    genes = {name: generator.poisson(np.where(adata.obs["cell_type"] == name, 15.0, 0.0)) for name in TYPES}
    marked = np.column_stack([adata.X.toarray(), *genes.values()]).astype(np.float32)
    names = [*adata.var_names, *(f"MARK-{name}" for name in TYPES)]
    return anndata.AnnData(marked, obs=adata.obs.copy(), var=pd.DataFrame(index=names))


def planted(adata: anndata.AnnData, *, share: float = 0.06, seed: int = 1) -> tuple[anndata.AnnData, np.ndarray]:
    """Return cells some of which have another label than theirs, and which."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(adata.n_obs, int(share * adata.n_obs), replace=False)
    labels = adata.obs["cell_type"].to_numpy(dtype=object, copy=True)
    for row in rows:
        labels[row] = generator.choice([name for name in TYPES if name != labels[row]])
    wrong = adata.copy()
    wrong.obs["cell_type"] = labels
    return wrong, np.sort(rows)


@pytest.mark.slow
def test_planted_errors_are_found() -> None:
    true = cells()
    wrong, rows = planted(true)
    audit = audit_labels(wrong, "cell_type", batch="batch")
    found = set(audit.suspects["row"])
    assert len(found & set(rows)) / len(rows) >= 0.9
    assert len(found & set(rows)) / len(found) >= 0.9
    right = true.obs["cell_type"].to_numpy()[audit.suspects["row"]]
    assert (audit.suspects["suggested"].to_numpy() == right).mean() >= 0.9
    assert list(audit.suspects.index) == list(wrong.obs_names[audit.suspects["row"]])
    assert audit.table["suspected"].sum() == len(found) == audit.record.suspected
    assert any("look like others" in text for text in audit.warnings)


@pytest.mark.parametrize("batch", ["batch", None])
def test_clean_labels_raise_no_alarm(batch: str | None) -> None:
    markers = {name: Markers(present=(f"MARK-{name}",)) for name in TYPES}
    audit = audit_labels(cells(), "cell_type", batch=batch, markers=markers)
    assert audit.warnings == ()
    assert len(audit.suspects) <= 0.01 * CELLS
    assert np.diag(audit.called).min() > 0.95


def test_planted_contradictions_of_markers_are_found() -> None:
    adata = cells()
    rows = np.flatnonzero(adata.obs["cell_type"] == "T")[::3]
    adata.X[rows[: len(rows) // 2], adata.var_names.get_loc("MARK-T")] = 0
    adata.X[rows[len(rows) // 2 :], adata.var_names.get_loc("MARK-B")] = 3
    markers = {"T": Markers(present=("MARK-T", "g0-not-measured"), absent=("MARK-B",)), "B": Markers()}
    audit = audit_labels(adata, "cell_type", markers=markers)
    assert set(rows) <= set(audit.suspects["row"])
    assert len(audit.suspects) <= len(rows) + 2
    reasons = audit.suspects.set_index("row")["reasons"]
    assert "no count of MARK-T" in reasons[rows[0]] and "counts of MARK-B" in reasons[rows[-1]]
    row = audit.table.loc["T"]
    assert row["forbidden_markers"] == pytest.approx(len(rows) / 2 / row["cells"], abs=0.01)
    assert row["without_markers"] > 0.1 and row["elsewhere"] < 0.02
    assert np.isnan(audit.table.loc["B", "without_markers"])
    assert any("MARK-B" in text for text in audit.warnings)


def test_a_marker_that_depth_would_not_show_counts_against_nobody() -> None:
    adata = cells()
    column = adata.var_names.get_loc("MARK-T")
    adata.X[:, column] = np.random.default_rng(0).poisson(0.5 * (adata.obs["cell_type"] == "T"))
    audit = audit_labels(adata, "cell_type", markers={"T": Markers(present=("MARK-T",))})
    assert np.isnan(audit.table.loc["T", "without_markers"]) and audit.warnings == ()


def test_batches_that_draw_a_line_differently_show() -> None:
    adata = cells()
    swapped = (adata.obs["batch"] == "b1") & (adata.obs["cell_type"] == "NK")
    adata.obs["cell_type"] = np.where(swapped, "T", adata.obs["cell_type"])
    audit = audit_labels(adata, "cell_type", batch="batch")
    worst = audit.sources.iloc[0]
    assert (worst["trained_on"], worst["judged"], worst["label"], worst["called"]) == ("b0", "b1", "T", "NK")
    assert worst["share"] == pytest.approx(
        swapped.sum() / ((adata.obs["batch"] == "b1") & (adata.obs["cell_type"] == "T")).sum(), abs=0.05
    )
    assert audit.table.loc["T", "agreement"] < 0.9
    assert any("a classifier of 'b0' alone calls" in text for text in audit.warnings)


def same(one: LabelAudit, other: LabelAudit) -> bool:
    return one.table.equals(other.table) and one.suspects.equals(other.suspects) and one.record == other.record


@pytest.mark.slow
def test_the_same_seed_gives_the_same_audit_from_memory_and_from_disk(tmp_path: Path) -> None:
    wrong, _ = planted(cells())
    sparse = wrong.copy()
    sparse.X = csc_matrix(wrong.X)
    sparse.write_h5ad(tmp_path / "cells.h5ad")
    before = wrong.copy()
    first = audit_labels(wrong, "cell_type", batch="batch", seed=3)
    assert same(first, audit_labels(wrong, "cell_type", batch="batch", seed=3))
    assert same(
        first, audit_labels(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"), "cell_type", batch="batch", seed=3)
    )
    assert before.obs.equals(wrong.obs) and (before.X == wrong.X).all()


def test_rare_and_missing_labels_are_not_judged() -> None:
    adata = cells()
    labels = adata.obs["cell_type"].to_numpy(dtype=object, copy=True)
    labels[:4], labels[4:20] = "rare", np.nan
    adata.obs["cell_type"] = labels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit = audit_labels(adata, "cell_type", batch="batch")
    assert audit.record.unjudged == ("rare",) and audit.record.cells == CELLS - 16
    assert audit.table.loc["rare", "cells"] == 4 and np.isnan(audit.table.loc["rare", "suspected"])
    assert "rare" not in audit.called.index


def test_what_is_refused() -> None:
    adata = cells()
    with pytest.raises(errors.VocabularyError, match="'cell_tpye'"):
        audit_labels(adata, "cell_tpye")
    with pytest.raises(errors.VocabularyError, match="markers are of Plasma"):
        audit_labels(adata, "cell_type", markers={"Plasma": Markers(present=("g1",))})
    with pytest.raises(errors.AlignmentError, match=r"CD3D of 'T'"):
        audit_labels(adata, "cell_type", markers={"T": Markers(present=("CD3D",))})
    with pytest.raises(errors.InvalidInput, match="two labels"):
        audit_labels(adata[adata.obs["cell_type"] == "T"].copy(), "cell_type")
    with pytest.raises(errors.AlignmentError, match="reads counts"):
        logged = adata.copy()
        logged.X = np.log1p(logged.X)
        audit_labels(logged, "cell_type")
    assert hub_client.audit_labels is audit_labels


def test_coarser_probabilities_are_sums() -> None:
    fine = pd.DataFrame(
        [[0.5, 0.4, 0.1, 0.0], [0.0, 0.0, 0.25, 0.75]], index=["a", "b"], columns=["CD4 T", "CD8 T", "B", "new"]
    )
    found = coarser(fine, {"CD4 T": "T", "CD8 T": "T", "B": "B"}, order=("B", "NK", "T"))
    assert list(found.columns) == ["B", "NK", "T", "new"]  # what a query brought has no parent
    assert found.loc["a"].tolist() == pytest.approx([0.1, 0, 0.9, 0])
    assert found.sum(axis=1).tolist() == pytest.approx([1, 1])
