"""Strangers in a query: who is recognised, who is not taken for one, and what a release keeps for it."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

import hub_client
from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels import expression_space
from hub_client.labels.novelty import FOREIGN_ABOVE, LEVELS, PREFIX, Novelty, novelty, with_novelty
from hub_client.labels.novelty_score import SAMPLED, score
from hub_client.labels.predict import LabelPrediction, Predictions
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests.simulated import cells_for, manifest

GENES, TYPES, BATCHES, STRANGER = 300, ("T", "B", "NK"), ("b0", "b1", "b2", "b3"), "Mono"


def counts(batch: str, cells: int, *, types: tuple[str, ...] = TYPES, seed: int = 0) -> anndata.AnnData:
    """Return cells of some types whose batch has its own depth and its own effect on every gene."""
    generator = np.random.default_rng([seed, *batch.encode()])
    kinds = generator.choice(types, cells)
    profiles = {kind: np.random.default_rng([*kind.encode()]).normal(0, 0.7, GENES) for kind in set(kinds)}
    shared = np.random.default_rng(7).normal(0, 1, GENES) + generator.normal(0, 0.15, GENES)
    shares = np.exp(np.stack([profiles[kind] for kind in kinds]) + shared)
    depth = 600 * generator.lognormal(0, 0.3, (cells, 1)) * generator.lognormal(0, 0.3)
    drawn = generator.poisson(generator.gamma(5.0, shares / shares.sum(1, keepdims=True) * depth / 5.0))
    obs = pd.DataFrame({"batch": batch, "cell_type": kinds}, index=[f"{batch}-{row}" for row in range(cells)])
    names = pd.DataFrame(index=[f"g{gene}" for gene in range(GENES)])
    return anndata.AnnData(sparse.csr_matrix(drawn.astype(np.float32)), obs=obs, var=names)


def described(batches: tuple[str, ...] = BATCHES) -> Manifest:
    fields = manifest().model_dump(mode="json")
    fields["genes"]["panel"] = [{"symbol": f"g{gene}"} for gene in range(GENES)]
    fields["conditions"][0]["categories"] = batches
    fields["labels"][0] |= {"categories": TYPES, "ontology": dict.fromkeys(TYPES)}
    return Manifest.model_validate(fields)


def aligned(model: Model, adata: anndata.AnnData, **options: object) -> Cells:
    return hub_client.align(adata, model, min_coverage=0.0, **options)


@pytest.fixture(scope="module")
def reference() -> tuple[Model, Cells]:
    model = Model.build(described())
    whole = anndata.concat([counts(batch, 200) for batch in BATCHES])
    cells = aligned(model, whole, labels={"cell_type": "cell_type"})
    return with_novelty(model, cells), cells


@pytest.fixture(scope="module")
def query() -> anndata.AnnData:
    """A study of its own, with a fifth of cells of a type that the reference lacks."""
    known, new = counts("q0", 320, seed=1), counts("q0", 80, types=(STRANGER,), seed=1)
    new.obs_names = [f"new-{name}" for name in new.obs_names]
    return anndata.concat([known, new])


def told(model: Model, adata: anndata.AnnData, *, seed: int = 0) -> Novelty:
    found = novelty(model, aligned(model, adata), seed=seed)
    assert found is not None
    return found


def test_strangers_are_recognised(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    new = (query.obs["cell_type"] == STRANGER).to_numpy()
    found = told(reference[0], query)
    assert roc_auc_score(new, found.score) > 0.99
    assert found.novel[new].mean() > 0.9 and found.novel[~new].mean() < 0.1
    assert ((found.novelty >= 0) & (found.novelty <= 1)).all()
    np.testing.assert_array_equal(found.novel, found.novelty > 1 - found.declared)
    assert not found.foreign


def test_clusters_state_what_sets_them_apart(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    new = (query.obs["cell_type"] == STRANGER).to_numpy()
    model, found = reference[0], told(reference[0], query)
    table = found.clusters
    assert table.cells.sum() == len(new) and table.cells.is_monotonic_decreasing
    novel = np.flatnonzero(table.verdict == "novel")
    assert set(found.cluster[new]) >= set(novel) and len(novel) >= 1
    assert (table.verdict[~table.index.isin(novel)] == "known").any()
    values = expression_space.normalised(sparse.csr_matrix(query.X)).toarray()
    difference = dict(zip(query.var_names, values[new].mean(0) - values[~new].mean(0), strict=True))
    assert np.mean([difference[gene] > 0 for gene in table.up[novel[0]]]) > 0.8
    assert np.mean([difference[gene] < 0 for gene in table.down[novel[0]]]) > 0.8
    shares = pd.DataFrame(0.0, index=query.obs_names, columns=list(TYPES)).assign(NK=0.6, T=0.4)
    labels = LabelPrediction(np.full(len(new), "unknown", dtype=object), np.zeros(len(new)), shares, None)
    predictions = Predictions(shares.index.to_numpy(), np.zeros((len(new), 6), np.float32), {"cell_type": labels})
    named = novelty(model, aligned(model, query), predictions=predictions)
    assert named is not None and set(named.clusters.label) == {"NK"} and set(table.label) == {None}
    assert json.loads(json.dumps(named.record))["clusters"][0]["verdict"] in ("known", "partly novel", "novel")


def test_known_cells_of_batches_left_out_are_called_novel_as_often_as_declared() -> None:
    model = Model.build(described())
    whole = anndata.concat([counts(batch, 500) for batch in BATCHES])
    kept = with_novelty(model, aligned(model, whole, labels={"cell_type": "cell_type"}), declared=0.1)
    record = kept.manifest.trust.novelty
    assert record is not None and record.false_positives is not None and record.left_out == "batches"
    assert record.count == len(BATCHES)
    assert abs(record.false_positives.mean - 0.1) < 0.02
    assert record.false_positives.worst >= record.false_positives.mean
    assert told(kept, counts("q9", 600, seed=5)).novel.mean() < 0.2


def test_one_batch_is_judged_by_folds() -> None:
    model = Model.build(described(("b0",)))
    kept = with_novelty(model, aligned(model, counts("b0", 300), labels={"cell_type": "cell_type"}))
    record = kept.manifest.trust.novelty
    assert record is not None and (record.left_out, record.false_positives) == ("folds", None)
    assert (kept.extras[PREFIX + "between"] == 0).all()


def test_it_can_do_without_labels(query: anndata.AnnData) -> None:
    model = Model.build(described())
    whole = anndata.concat([counts(batch, 200) for batch in BATCHES])
    new = (query.obs["cell_type"] == STRANGER).to_numpy()
    assert roc_auc_score(new, told(with_novelty(model, aligned(model, whole)), query).score) > 0.95


def test_genes_that_were_not_measured_are_left_out(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    new = (query.obs["cell_type"] == STRANGER).to_numpy()
    few = query[:, np.random.default_rng(0).permutation(GENES)[: GENES // 3]].copy()
    found = told(reference[0], few)
    assert roc_auc_score(new, found.score) > 0.95
    assert {gene for genes in found.clusters.up for gene in genes} <= set(few.var_names)
    filled = replace(aligned(reference[0], few), x=aligned(reference[0], query).x)  # as means would fill them
    again = novelty(reference[0], filled)
    assert again is not None
    np.testing.assert_allclose(again.score, found.score)


def test_the_order_of_cells_and_genes_does_not_matter(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    generator = np.random.default_rng(3)
    rows, columns = generator.permutation(query.n_obs), generator.permutation(GENES)
    before, after = told(reference[0], query), told(reference[0], query[rows, columns].copy())
    np.testing.assert_allclose(after.score, before.score[rows], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(after.novel, before.novel[rows])
    pd.testing.assert_frame_equal(after.clusters, before.clusters, rtol=1e-4)


def test_the_same_seed_gives_the_same(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    one, other = told(reference[0], query, seed=4), told(reference[0], query, seed=4)
    np.testing.assert_array_equal(one.novelty, other.novelty)
    model, cells = reference
    again = with_novelty(model, cells)
    assert all(torch.equal(again.extras[name], value) for name, value in model.extras.items())
    assert again.manifest.trust == model.manifest.trust and again.manifest.tensors == model.manifest.tensors


@pytest.mark.parametrize("cells", [1, 2, 5, 29, 31])
def test_few_known_cells_are_no_strangers(reference: tuple[Model, Cells], cells: int) -> None:
    found = told(reference[0], counts("q1", cells, seed=2))
    assert len(found.novelty) == cells and np.isfinite(found.novelty).all()
    assert found.novel.mean() < 0.5


def test_cells_without_counts_are_scored_too(reference: tuple[Model, Cells]) -> None:
    empty = counts("q1", 40)
    empty.X = sparse.csr_matrix(empty.shape, dtype=np.float32)
    cells = replace(aligned(reference[0], counts("q1", 40)), x=sparse.csr_matrix(empty.X))
    found = novelty(reference[0], cells)
    assert found is not None and np.isfinite(found.score).all()


def test_a_foreign_query_is_told_by_its_bulk(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    shuffled = query.copy()
    shuffled.var_names = np.random.default_rng(0).permutation(shuffled.var_names)
    found = told(reference[0], shuffled)
    assert found.foreign and found.foreign_score > FOREIGN_ABOVE > told(reference[0], query).foreign_score


def test_what_cannot_be_told_is_none(reference: tuple[Model, Cells], query: anndata.AnnData) -> None:
    model = reference[0]
    cells = aligned(model, query)
    assert novelty(Model.build(described()), cells) is None  # a release from before there was novelty
    assert novelty(model, cells.rows(np.arange(0))) is None
    nothing = replace(cells, report=replace(cells.report, missing=tuple(f"g{gene}" for gene in range(GENES))))
    assert novelty(model, nothing) is None


@pytest.mark.slow
def test_a_release_keeps_it_through_saving_and_surgery(
    reference: tuple[Model, Cells], query: anndata.AnnData, tmp_path: Path
) -> None:
    model, _ = reference
    before = told(model, query)
    grown = surgery(Model.load(model.save(tmp_path / "release")), aligned(model, query), device="cpu")
    hub_client.train(grown, aligned(grown, query), plan=Plan(epochs=1), progress=False, accelerator="cpu")
    after = told(Model.load(grown.save(tmp_path / "grown")), query)
    np.testing.assert_array_equal(after.novelty, before.novelty)
    assert grown.manifest.trust == model.manifest.trust
    stored = sum(grown.extras[name].nbytes for name in grown.extras if name.startswith(PREFIX))
    numbers, labels = GENES * 34 + len(reference[1]) * 30 + 2 * len(LEVELS), len(reference[1])
    assert stored <= 4 * numbers + 8 * labels


@pytest.mark.slow
def test_a_mapping_states_it(reference: tuple[Model, Cells], query: anndata.AnnData, tmp_path: Path) -> None:
    mapping = hub_client.map_query(query, reference[0], train=False, progress=False, accelerator="cpu")
    assert mapping.novelty is not None
    obs = mapping.adata.obs
    np.testing.assert_array_equal(obs["novelty"], mapping.novelty.novelty)
    np.testing.assert_array_equal(obs["novel"], mapping.novelty.novel)
    mapping.adata.write_h5ad(tmp_path / "mapped.h5ad")
    again = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert again.obs["novel"].dtype == bool
    assert json.loads(again.uns["archzoo"]["novelty"]) == json.loads(json.dumps(mapping.novelty.record))
    assert {"novelty", "novel", "novelty_score"} <= mapping.receipt.result.parts.keys()
    old = hub_client.map_query(query, Model.build(described()), train=False, progress=False, accelerator="cpu")
    assert old.novelty is None and "novelty" not in old.adata.obs and "novelty" not in old.adata.uns["archzoo"]
    assert not {"novelty", "novel"} & old.receipt.result.parts.keys()


def test_manifests_without_keep_their_bytes(reference: tuple[Model, Cells]) -> None:
    assert b"novelty" not in Model.build(described()).manifest.canonical()
    assert b"novelty" in reference[0].manifest.canonical()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda extras: {name: value for name, value in extras.items() if not name.endswith("scores")},
        lambda extras: extras | {f"{PREFIX}mean": extras[f"{PREFIX}mean"] * float("nan")},
        lambda extras: extras | {f"{PREFIX}loadings": extras[f"{PREFIX}loadings"][:, :5]},
        lambda extras: extras | {f"{PREFIX}ranks": extras[f"{PREFIX}ranks"].flip(1)},
    ],
)
def test_tensors_of_no_such_space_are_refused(
    reference: tuple[Model, Cells],
    query: anndata.AnnData,
    spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    model = replace(reference[0], extras=spoil(dict(reference[0].extras)))
    with pytest.raises(errors.IntegrityError, match=r"model\.safetensors of simulated"):
        novelty(model, aligned(model, query))


def test_bad_input_has_its_own_error(reference: tuple[Model, Cells]) -> None:
    model, cells = reference
    with pytest.raises(errors.InvalidInput, match="declared is 1"):
        with_novelty(model, cells, declared=1)
    with pytest.raises(errors.InvalidInput, match="the reference has 50 cells"):
        with_novelty(model, cells.rows(np.arange(50)))
    logs = Model.build(manifest("trvae", likelihood="mse"))
    with pytest.raises(errors.Unsupported, match="reads log1p values"):
        with_novelty(logs, cells_for(logs.manifest))


def test_components_are_the_same_without_the_matrix_of_products(reference: tuple[Model, Cells]) -> None:
    values = expression_space.normalised(reference[1].x)
    mean, scale = np.asarray(values.mean(axis=0)).reshape(-1), np.full(GENES, 2.0)
    one, other = (
        find(values, mean, scale, 2) for find in (expression_space._by_products, expression_space._by_lanczos)
    )
    np.testing.assert_allclose(np.abs((one * other).sum(axis=0)), 1, atol=1e-3)


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    generator = np.random.default_rng(0)
    reference = sparse.random(1_000, 500, density=0.2, format="csr", dtype=np.float32, rng=generator)
    large = sparse.random(20_000, 500, density=0.2, format="csr", dtype=np.float32, rng=generator)
    reference.data, large.data = np.ceil(reference.data * 5), np.ceil(large.data * 5)
    none = np.zeros(1_000, dtype=np.int64)
    space, _ = expression_space.fit(sparse.csr_matrix(reference), none, none, seed=0)
    view = space.over(np.arange(500))
    large = sparse.csr_matrix(large)
    tracemalloc.start()
    found = score(view, large, np.repeat(np.array(["a", "b"], dtype=object), 10_000), seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.score) == 20_000 > SAMPLED and np.isfinite(found.score).all()
    assert peak < 100 * 2**20  # dense, the query alone would take 80 as doubles


@pytest.mark.slow
def test_b_cells_are_recognised_by_a_reference_without(shared_data: Callable[[str], Path]) -> None:
    whole = anndata.read_h5ad(shared_data("pbmc_multibatch.h5ad"))
    labels, batches = whole.obs["cell_type_broad"].astype(str), whole.obs["batch"].astype(str)
    known = whole[(whole.obs["split"] == "reference") & (labels != "B")].copy()
    names, present = sorted(set(labels) - {"B"}), sorted(set(known.obs["batch"].astype(str)))
    fields = manifest().model_dump(mode="json")
    fields["genes"]["panel"] = [{"symbol": gene} for gene in whole.var_names]
    fields["conditions"][0]["categories"] = present
    fields["labels"][0] |= {"categories": names, "ontology": dict.fromkeys(names)}
    model = Model.build(Manifest.model_validate(fields))
    model = with_novelty(model, aligned(model, known, labels={"cell_type": "cell_type_broad"}))
    found = told(model, whole[batches == "10x_5p"].copy())
    new = (labels[batches == "10x_5p"] == "B").to_numpy()
    assert roc_auc_score(new, found.score) > 0.95
    assert found.novel[new].mean() > 0.8 and found.novel[~new].mean() < 0.1 and not found.foreign
