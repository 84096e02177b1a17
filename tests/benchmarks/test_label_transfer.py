"""benchmarks/label_transfer.py: what is measured, kept and shown; no network is trained here."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import f1_score

from benchmarks import label_transfer, label_transfer_page
from benchmarks.label_transfer_methods import (
    Labelled,
    celltypist,
    from_probabilities,
    logistic_regression,
    read_labelled,
    write_labelled,
)
from benchmarks.label_transfer_recipes import depth_is_given, recipe
from benchmarks.label_transfer_rows import Row, read_rows, write_rows
from benchmarks.label_transfer_scores import brier, risk_coverage, scores
from benchmarks.label_transfer_sets import TransferSet, matched, sharing
from benchmarks.latents_sets import BATCH, DEPTH, LABEL, UNLABELLED
from hub_client.build import datasets

GENES = [f"gene {number}" for number in range(20)]


def cells(labels: list[str], *, batch: str, seed: int = 0, depth: float | None = None) -> anndata.AnnData:
    """Return counts of 20 genes, of which each label has a tenth that it alone expresses."""
    generator = np.random.default_rng(seed)
    rate = np.full((len(labels), len(GENES)), 1.0)
    for row, label in enumerate(labels):
        rate[row, "abcdefghij".index(label[0].lower()) * 2 :][:2] = 60
    counts = sparse.csr_matrix(generator.poisson(rate).astype(np.float32))
    totals = np.asarray(counts.sum(1)).ravel() if depth is None else depth
    obs = pd.DataFrame({LABEL: labels, BATCH: batch, DEPTH: totals}, index=[f"{batch}-{n}" for n in range(len(labels))])
    obs[DEPTH] = obs[DEPTH].astype(float)
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture
def toy() -> TransferSet:
    """A reference with labels A, B and D; a query in two parts of which one lacks genes and the other also has C."""
    reference = cells(["A"] * 20 + ["B"] * 20 + ["D"] * 10, batch="one")
    parts = cells(["A"] * 3 + ["B"] * 3, batch="two", seed=1)[:, 2:].copy(), cells(["B", "C"], batch="three", seed=2)
    return TransferSet("toy", "Toy", "one", "toy", reference, parts, whole=False)


def said(one: TransferSet, labels: list[list[str]], uncertainty: list[list[float]], **more: object) -> list[Labelled]:
    """Return labels of a set's parts with all of the certainty on them."""
    return [
        Labelled(
            name,
            np.array(names, dtype=object),
            np.array(doubt),
            pd.DataFrame({label: [float(name == label) for name in names] for label in "AB"}, index=part.obs_names),
            **more,  # type: ignore[arg-type]
        )
        for (name, part), names, doubt in zip(one.blind_parts.items(), labels, uncertainty, strict=True)
    ]


RIGHT = [["A"] * 3 + ["B"] * 3, ["B", "A"]]
UNSURE = [[0.0] * 6, [0.0, 1.0]]


def test_methods_see_no_label_of_a_query_and_the_genes_that_all_have(toy: TransferSet) -> None:
    reference, queries = matched([toy])
    assert set(pd.concat([query.obs[LABEL] for query in queries.values()])) == {UNLABELLED}
    assert list(queries) == ["toy.0", "toy.1"]
    assert [list(one.var_names) for one in (reference, *queries.values())] == [GENES[2:]] * 3
    assert np.allclose(reference.obs[DEPTH], np.asarray(reference.X.sum(1)).ravel())
    assert set(toy.truth) == {"A", "B", "C"}


def test_depth_of_whole_cells_stays_where_both_have_it(toy: TransferSet) -> None:
    whole = TransferSet("toy", "Toy", "one", "toy", toy.reference, toy.parts, whole=True)
    assert np.allclose(matched([whole])[0].obs[DEPTH], toy.reference.obs[DEPTH])


def test_cells_whose_label_the_reference_lacks_are_left_out(toy: TransferSet) -> None:
    assert toy.scored.tolist() == [True] * 7 + [False]
    found = scores(toy, said(toy, RIGHT, UNSURE))
    assert (found["accuracy"], found["macro_f1"], found["ece"], found["uncertainty"]) == (1.0, 1.0, 0.0, 0.0)
    assert "auroc" not in found


def test_figures_of_one_wrong_cell(toy: TransferSet) -> None:
    wrong = [["B", *RIGHT[0][1:]], RIGHT[1]]
    found = scores(toy, said(toy, wrong, [[0.6, 0.1, 0.1, 0.1, 0.1, 0.1], [0.1, 0.0]]))
    truth, labels = ["A"] * 3 + ["B"] * 4, [*wrong[0], "B"]
    assert found["accuracy"] == pytest.approx(6 / 7)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, labels, average="macro"))
    assert found["auroc"] == 1.0
    assert found["brier"] == pytest.approx(2 / 7)
    assert found["aurc"] == pytest.approx(1 / 49)  # wrong only at full coverage
    assert found["ece"] == pytest.approx(6 / 7 * 0.1 + 1 / 7 * 0.4)


def test_macro_f1_counts_labels_that_no_cell_truly_has(toy: TransferSet) -> None:
    found = scores(toy, said(toy, [["Z", *RIGHT[0][1:]], RIGHT[1]], UNSURE))
    assert found["macro_f1"] < found["true_f1"] < 1


def test_label_sets_are_scored_where_there_are_some(toy: TransferSet) -> None:
    parts = said(toy, RIGHT, UNSURE)
    both = [
        Labelled(one.part, one.labels, one.uncertainty, one.probabilities, sets=one.probabilities > -1) for one in parts
    ]
    none = [
        Labelled(one.part, one.labels, one.uncertainty, one.probabilities, sets=one.probabilities > 2) for one in parts
    ]
    assert (scores(toy, both)["set_coverage"], scores(toy, both)["set_size"]) == (1.0, 2.0)
    assert (scores(toy, none)["set_coverage"], scores(toy, none)["set_size"]) == (0.0, 0.0)
    assert "set_size" not in scores(toy, parts)


def test_a_label_without_a_probability_had_none() -> None:
    probabilities = pd.DataFrame({"A": [1.0, 0.5], "B": [0.0, 0.5]})
    assert brier(probabilities, np.array(["A", "C"])) == pytest.approx((0 + 0.5 + 1) / 2)


def test_order_of_cells_of_the_same_doubt_does_not_matter() -> None:
    doubt = np.array([0.1, 0.5, 0.5, 0.5])
    areas = {risk_coverage(doubt, np.array([False, *wrong])) for wrong in np.eye(3, dtype=bool).tolist()}
    assert len({round(area, 12) for area in areas}) == 1
    assert risk_coverage(doubt, np.array([True, False, False, False])) > areas.pop()


def test_simple_methods_label_a_query_that_is_easy(toy: TransferSet) -> None:
    for method in (logistic_regression, celltypist):
        parts = list(method([toy], 0))
        assert scores(toy, parts)["accuracy"] == 1.0
        assert all(np.allclose(one.probabilities.sum(axis=1), 1) for one in parts)


def test_what_a_method_said_is_kept(tmp_path: Path) -> None:
    probabilities = pd.DataFrame({"A": [0.9, 0.2], "B": [0.1, 0.8]}, index=["x", "y"])
    found = from_probabilities("toy.0", probabilities, sets=probabilities > 0.15, seconds={"query_cpu": 1.0})
    write_labelled(tmp_path / "folder" / "toy.npz", found)
    kept = read_labelled(tmp_path / "folder" / "toy.npz")
    assert kept.labels.tolist() == ["A", "B"]
    assert kept.uncertainty == pytest.approx([0.1, 0.2])
    assert kept.sets is not None
    pd.testing.assert_frame_equal(kept.probabilities, probabilities)
    pd.testing.assert_frame_equal(kept.sets, probabilities > 0.15)
    assert (kept.part, kept.seconds) == ("toy.0", {"query_cpu": 1.0})


def test_sets_that_share_a_reference_are_run_together(toy: TransferSet) -> None:
    other = TransferSet("other", "Other", "one", "other", toy.reference, toy.parts)
    assert [[one.name for one in group] for group in sharing([toy, other, toy])] == [["toy", "toy"], ["other"]]


def test_a_recipe_reads_the_reference_that_it_is_of(toy: TransferSet, tmp_path: Path) -> None:
    made = recipe(toy.reference, tmp_path, kind="scpoli", seed=3)
    counts = datasets.load(made, tmp_path).counts
    assert counts.obs[LABEL].tolist() == toy.reference.obs[LABEL].tolist()
    assert made.input.size_factor is None and made.seed == 3
    deep = cells(["A"] * 4, batch="one", depth=5000.0)
    assert depth_is_given(deep) and not depth_is_given(toy.reference)
    assert recipe(deep, tmp_path, kind="trvae", seed=0).input.size_factor == DEPTH


def row(method: str, *, set: str = "cite-gates", version: str = "", seed: int = 0, **figures: float) -> Row:
    return Row(set, set.title(), "one", (4, 3, 2), 20, method, version, seed, figures, {})


def kept(*rows: Row) -> dict[object, Row]:
    return {one.key: one for one in rows}


def test_rows_are_written_in_the_order_of_their_keys(tmp_path: Path) -> None:
    one, other = row("lr", accuracy=0.5), row("knn", accuracy=0.25)
    write_rows(tmp_path / "a.jsonl", kept(one, other))
    write_rows(tmp_path / "b.jsonl", kept(other, one))
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert read_rows(tmp_path / "a.jsonl") == kept(one, other)
    assert read_rows(tmp_path / "none.jsonl") == {}


def test_the_page_says_where_the_library_loses_to_both_simple_opponents() -> None:
    simple = [row("lr", accuracy=0.9), row("knn", accuracy=0.95)]
    lost = label_transfer_page.rendered(kept(*simple, row("archzoo-scpoli", version="1.0.0", accuracy=0.8)), hand={})
    won = label_transfer_page.rendered(kept(*simple, row("archzoo-scpoli", version="1.0.0", accuracy=0.92)), hand={})
    near = label_transfer_page.rendered(kept(*simple, row("archzoo-scpoli", version="1.0.0", accuracy=0.945)), hand={})
    assert "loses to both" in lost and "loses to both" not in won
    assert ".150 behind kNN" in lost and ".030 behind kNN" in won and "within .01 of kNN" in near


def test_the_page_shows_means_over_seeds_and_marks_the_best() -> None:
    rows = [row("scanvi", seed=seed, accuracy=accuracy) for seed, accuracy in enumerate((0.5, 0.7))]
    page = label_transfer_page.rendered(kept(*rows, row("lr", accuracy=0.9)), hand={})
    assert "| scANVI, scvi-tools 1.4.2 | .600 | .600 |" in page
    assert "| LR | **.900** | .900 |" in page
    assert "| 2 | .600 ± .200 |" in page


def test_what_was_written_by_hand_stays(tmp_path: Path) -> None:
    page = tmp_path / "label-transfer.md"
    label_transfer_page.write(page, kept(row("lr", accuracy=0.5)))
    for part, (_, end) in label_transfer_page.HAND.items():
        page.write_text(page.read_text().replace(end, f"By hand, {part}.\n{end}"))
    label_transfer_page.write(page, {})
    assert [label_transfer_page.by_hand(page.read_text(), part) for part in label_transfer_page.HAND] == [
        "By hand, reading.",
        "By hand, notes.",
    ]
    assert ".500" not in page.read_text()


def test_the_page_in_the_repository_is_that_of_its_results() -> None:
    written = label_transfer.PAGE.read_text()
    hand = {part: label_transfer_page.by_hand(written, part) for part in label_transfer_page.HAND}
    rendered = label_transfer_page.rendered(read_rows(label_transfer.RESULTS), hand=hand)
    assert rendered == written, "write it with: python benchmarks/label_transfer.py --render"
