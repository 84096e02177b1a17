"""benchmarks/latents.py: what is measured, kept and shown; no network is trained here."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks import latents, latents_page
from benchmarks.latents_methods import Mapped, Method, logistic_regression, minibatch, pca
from benchmarks.latents_rows import Row, read_rows, write_rows
from benchmarks.latents_scores import drawn, label_scores
from benchmarks.latents_sets import BATCH, DEPTH, LABEL, UNLABELLED, MappingSet, left_out


def cells(labels: list[str], *, batch: str, seed: int = 0) -> anndata.AnnData:
    """Return counts of 20 genes, of which each label has a tenth that it alone expresses."""
    generator = np.random.default_rng(seed)
    rate = np.full((len(labels), 20), 1.0)
    for row, label in enumerate(labels):
        rate[row, "abcdefghij".index(label[0].lower()) * 2 :][:2] = 60
    counts = sparse.csr_matrix(generator.poisson(rate).astype(np.float32))
    obs = pd.DataFrame({LABEL: labels, BATCH: batch, DEPTH: np.asarray(counts.sum(1)).ravel()})
    obs.index = [f"{batch}-{row}" for row in range(len(labels))]
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene {n}" for n in range(20)]))


@pytest.fixture
def pair() -> MappingSet:
    """A reference with labels A and B and a cell without, and a query that also has C."""
    reference = cells(["A"] * 20 + ["B"] * 20 + ["A"], batch="one")
    reference.obs.iloc[-1, 0] = UNLABELLED
    query = cells(["A"] * 5 + ["B"] * 5 + ["C"] * 3, batch="two", seed=1)
    return MappingSet("toy", "one -> two", "toys", "left-out batches", "toy", reference, query)


@pytest.fixture
def own_interrupts() -> Iterator[None]:
    """Give Ctrl-C back to pytest afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_query_is_mapped_without_its_labels(pair: MappingSet) -> None:
    assert set(pair.blind_query.obs[LABEL]) == {UNLABELLED}
    assert set(pair.query.obs[LABEL]) == {"A", "B", "C"}


def test_scored_are_cells_whose_label_the_reference_has(pair: MappingSet) -> None:
    assert pair.scored.tolist() == [True] * 10 + [False] * 3


def test_a_latent_that_parts_the_labels_scores_and_one_that_swaps_them_does_not(pair: MappingSet) -> None:
    place = {"A": 0.0, "B": 9.0, "C": 20.0, UNLABELLED: 0.0}
    noise = np.random.default_rng(0)
    reference, query = (
        (np.array([[place[label], 0.0] for label in one.obs[LABEL]]) + noise.random((one.n_obs, 2))).astype(np.float32)
        for one in (pair.reference, pair.query)
    )
    assert set(label_scores(pair, reference, query).values()) == {1.0}
    assert set(label_scores(pair, reference, 9 - query).values()) == {0.0}


def test_simple_methods_label_a_query_that_is_easy(pair: MappingSet) -> None:
    queries = {"toy": pair.blind_query}
    (mapped,) = pca(pair.reference, queries, 0)
    assert mapped.reference is not None and mapped.latent is not None
    assert label_scores(pair, mapped.reference, mapped.latent)["neighbours_accuracy"] == 1.0
    (labelled,) = logistic_regression(pair.reference, queries, 0)
    assert labelled.labels is not None and labelled.labels[:10].tolist() == ["A"] * 5 + ["B"] * 5


def test_each_batch_is_left_out_once(pair: MappingSet) -> None:
    joint = anndata.concat([pair.reference, pair.query])
    found = {one.name: one for one in left_out(joint, prefix="toy", family="toys")}
    assert list(found) == ["toy-without-one", "toy-without-two"]
    assert set(found["toy-without-one"].query.obs[BATCH]) == {"one"}
    assert set(found["toy-without-one"].reference.obs[BATCH]) == {"two"}


def test_scib_metrics_sees_each_batch_and_label_by_its_share_and_no_unlabelled_cell() -> None:
    many = anndata.concat([cells(["A"] * 3000 + ["B"] * 900, batch="one"), cells(["A"] * 100, batch="two")])
    many.obs.iloc[0, 0] = UNLABELLED
    chosen = many[drawn(many)].obs.groupby([BATCH, LABEL]).size()
    assert (chosen.loc[("one", "A")], chosen.loc[("one", "B")], chosen.loc[("two", "A")]) == (1500, 450, 50)


@pytest.mark.parametrize("number", [21, 52, 200, 300, 5000])
def test_no_group_that_scarches_makes_of_a_minibatchs_size_has_a_single_cell(number: int) -> None:
    size = minibatch(anndata.AnnData(np.zeros((number, 1), dtype=np.float32)))
    groups = np.array_split(np.arange(int(np.ceil(0.9 * number))), size)
    assert size <= 128 and min(len(group) for group in groups) > 1


class Counted:
    """A method that counts how often it runs: cells lie where their first two genes say."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(
        self, reference: anndata.AnnData, queries: Mapping[str, anndata.AnnData], seed: int
    ) -> Iterator[Mapped]:
        self.seeds.append(seed)
        for name, query in queries.items():
            for mode in ("zero-shot", "trained"):
                seconds = {"reference_cpu": 1.25}
                yield Mapped(name, mode, reference.X[:, :2].toarray(), query.X[:, :2].toarray(), seconds=seconds)


def test_what_was_measured_is_not_measured_again_unless_asked(
    pair: MappingSet, tmp_path: Path, own_interrupts: None
) -> None:
    run = Counted()
    method = Method("native-scpoli", "scPoli, native", run)
    options = Namespace(results=tmp_path / "rows.jsonl", again=False, no_scib=True)
    for again, seed in ((False, 0), (False, 0), (False, 1), (True, 0)):
        options.again = again
        latents.run(method, [pair], options, latents.Interruption(), seed=seed)
    assert run.seeds == [0, 1, 0]
    rows = read_rows(options.results)
    assert sorted(key[2:] for key in rows) == [("trained", 0), ("trained", 1), ("zero-shot", 0), ("zero-shot", 1)]
    row = rows["toy", "native-scpoli", "trained", 0]
    assert (row.cells, row.genes, row.seconds) == ((41, 13, 10), 20, {"reference_cpu": 1.25})


def deaf(reference: anndata.AnnData, queries: Mapping[str, anndata.AnnData], seed: int) -> Iterator[Mapped]:
    """A method that takes Ctrl-C for the end of its training, as trainers do."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    yield Mapped("toy", "zero-shot", reference.X[:, :2].toarray(), queries["toy"].X[:, :2].toarray())


def test_no_row_is_kept_of_training_that_was_interrupted(
    pair: MappingSet, tmp_path: Path, own_interrupts: None
) -> None:
    options = Namespace(results=tmp_path / "rows.jsonl", again=False, no_scib=True)
    with pytest.raises(KeyboardInterrupt):
        latents.run(Method("pca", "PCA", deaf), [pair], options, latents.Interruption(), seed=0)
    assert read_rows(options.results) == {}


def row(method: str, mode: str, *, seed: int = 0, neighbours: float = 0.5) -> Row:
    figures = {f"{rule}_{figure}": neighbours for rule in ("neighbours", "prototypes") for figure in ("accuracy", "f1")}
    seconds = {"reference_cpu": 12.0, "query_cpu": 3.0, "embedding_cpu": 0.1}
    return Row("toy", "one -> two", "toys", "queries", (40, 13, 10), 20, method, mode, seed, figures, seconds)


def test_the_page_shows_means_spreads_and_what_was_not_run() -> None:
    rows = [row("native-scpoli", "trained", seed=seed, neighbours=0.5 + seed / 10) for seed in (0, 1, 2)]
    page = latents_page.rendered({one.key: one for one in [*rows, row("pca", "zero-shot", neighbours=0.9)]})
    assert "| scPoli, native | trained | .600 / .600 ± .200 |" in page
    assert "| PCA of log-normalised counts | zero-shot | .900 / .900 |" in page
    assert "best is PCA of log-normalised counts, zero-shot with .900" in page
    assert "Not run: trVAE, native;" in page
    assert "| scPoli, native | 12 / 3 / 0.1 |" in page


def test_the_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    page, rows = tmp_path / "latents.md", {one.key: one for one in [row("pca", "zero-shot")]}
    latents_page.write(page, rows)
    page.write_text(page.read_text().replace(latents_page.END_BY_HAND, f"Read this.\n{latents_page.END_BY_HAND}"))
    latents_page.write(page, {})
    assert latents_page.by_hand(page.read_text()) == "Read this."
    assert ".500" not in page.read_text()


def test_rows_are_written_in_the_order_of_their_keys(tmp_path: Path) -> None:
    one, other = row("pca", "zero-shot"), row("harmony", "trained")
    write_rows(tmp_path / "a.jsonl", {one.key: one, other.key: other})
    write_rows(tmp_path / "b.jsonl", {other.key: other, one.key: one})
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert read_rows(tmp_path / "a.jsonl") == {one.key: one, other.key: other}
    assert read_rows(tmp_path / "none.jsonl") == {}


def test_the_page_in_the_repository_is_that_of_its_results() -> None:
    written = latents.PAGE.read_text()
    rendered = latents_page.rendered(read_rows(latents.RESULTS), reading=latents_page.by_hand(written))
    assert rendered == written, "write it with: python benchmarks/latents.py --render"
