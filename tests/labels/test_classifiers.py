"""Classifiers of expression: their mathematics, and their life in a release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.expression import LEAST_SPREAD, PENALTY, fit, normalised
from hub_client.labels.predict import predict
from hub_client.labels.transfer import evidence
from hub_client.manifest.calibration import Calibration
from hub_client.manifest.plan import Plan
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests.simulated import CLASSES, QUERY, cells_for, manifest

NONE = np.array([], dtype=np.int64)
RULE = Calibration(level="cell_type", transfer="consensus", prior=1.0, temperature=2.0)


@pytest.fixture(scope="module")
def drawn() -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Counts of three labels in two studies of different size and depth."""
    generator = np.random.default_rng(0)
    codes, groups = generator.choice(3, 300, p=[0.6, 0.3, 0.1]), (np.arange(300) >= 240).astype(np.int64)
    profiles = generator.gamma(1.0, 2.0, (3, 40)) * np.where(generator.random((3, 40)) < 0.3, 3, 1)
    depth = np.where(groups == 1, 4.0, 1.0)[:, None] * generator.lognormal(0, 0.2, (300, 1))
    return csr_matrix(generator.poisson(profiles[codes] * depth).astype(np.float32)), codes, groups


def test_it_is_balanced_logistic_regression(drawn: tuple[csr_matrix, np.ndarray, np.ndarray]) -> None:
    counts, codes, groups = drawn
    values = normalised(counts).toarray()
    scale = 1 / np.maximum(values.std(axis=0), LEAST_SPREAD)
    cells = {pair: (codes == pair[0]) & (groups == pair[1]) for pair in zip(codes, groups, strict=True)}
    weights = np.array([1 / cells[pair].sum() for pair in zip(codes, groups, strict=True)])
    regression = LogisticRegression(C=1 / (PENALTY * 300), max_iter=5000, tol=1e-8)
    regression.fit((values - values.mean(0)) * scale, codes, sample_weight=weights / weights.mean())
    found = softmax(fit(counts, codes, groups, labels=3).logits(counts, missing=NONE), axis=1)
    np.testing.assert_allclose(found, regression.predict_proba((values - values.mean(0)) * scale), atol=5e-3)
    assert (found.argmax(1) == codes).mean() > 0.95


def test_depth_does_not_matter(drawn: tuple[csr_matrix, np.ndarray, np.ndarray]) -> None:
    counts, codes, groups = drawn
    classifier = fit(counts, codes, groups, labels=3)
    deeper = classifier.logits(csr_matrix(counts * 7), missing=NONE)
    np.testing.assert_allclose(deeper, classifier.logits(counts, missing=NONE), rtol=1e-5, atol=1e-5)


def test_a_gene_that_was_not_measured_counts_as_its_mean(drawn: tuple[csr_matrix, np.ndarray, np.ndarray]) -> None:
    counts, codes, groups = drawn
    classifier = fit(counts, codes, groups, labels=3)
    empty = csr_matrix((1, counts.shape[1]), dtype=np.float32)
    found = classifier.logits(empty, missing=np.arange(counts.shape[1]))
    np.testing.assert_allclose(found[0], classifier.bias + classifier.weight @ classifier.centre, rtol=1e-4, atol=1e-4)


def test_two_labels_and_one(drawn: tuple[csr_matrix, np.ndarray, np.ndarray]) -> None:
    counts, codes, groups = drawn
    two = codes < 2
    found = fit(counts[two], codes[two], groups[two], labels=3).logits(counts[two], missing=NONE)
    assert (found.argmax(1) == codes[two]).mean() > 0.95
    assert (softmax(found, axis=1)[:, 2] < 1e-6).all()
    one = codes == 1
    assert (fit(counts[one], codes[one], groups[one], labels=3).logits(counts, missing=NONE).argmax(1) == 1).all()


def test_weights_do_not_follow_the_number_of_cells(drawn: tuple[csr_matrix, np.ndarray, np.ndarray]) -> None:
    counts, codes, groups = drawn
    often = np.concatenate([np.arange(300), np.repeat(np.flatnonzero((codes == 0) & (groups == 0)), 3)])
    once = fit(counts, codes, groups, labels=3).logits(counts, missing=NONE)
    again = fit(counts[often], codes[often], groups[often], labels=3).logits(counts, missing=NONE)
    assert np.abs(softmax(once, axis=1) - softmax(again, axis=1)).max() < 0.1


@pytest.fixture(scope="module")
def reference() -> tuple[Model, Cells]:
    """A trained model with an atlas and a classifier, whose labels are their consensus."""
    model = Model.build(manifest())
    cells = cells_for(model.manifest)
    train(model, cells, plan=Plan(epochs=20, batch_size=32, pretraining_epochs=10), progress=False, accelerator="cpu")
    model = with_expression_classifiers(with_atlas(model, cells), cells)
    trust = model.manifest.trust.model_copy(update={"calibrations": (RULE,)})
    return replace(model, manifest=model.manifest.changed(trust=trust)), cells


def test_a_release_keeps_it(reference: tuple[Model, Cells], tmp_path: Path) -> None:
    model, cells = reference
    again = Model.load(model.save(tmp_path / "release"))
    before, after = (predict(m, cells, device="cpu").levels["cell_type"] for m in (model, again))
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    assert (after.labels == cells.labels["cell_type"]).mean() > 0.9


def test_a_query_is_labelled_by_consensus(reference: tuple[Model, Cells]) -> None:
    model, _ = reference
    query = cells_for(model.manifest, QUERY, seed=1)
    found = predict(surgery(model, query, device="cpu"), query, device="cpu").levels["cell_type"]
    assert (found.labels == query.labels["cell_type"]).mean() > 0.8


def test_genes_a_query_lacks_count_as_the_references_mean(reference: tuple[Model, Cells]) -> None:
    model, cells = reference
    genes = np.array(model.vocabulary.genes)
    lacking = np.arange(0, len(genes), 3)
    x = cells.x.tolil()
    x[:, lacking] = 0
    query = replace(cells, x=csr_matrix(x), report=replace(cells.report, missing=tuple(genes[lacking])))
    (record,) = model.manifest.trust.classifiers
    weight, bias, centre = (model.extras[name].numpy() for name in (record.weight, record.bias, record.centre))
    imagined = normalised(query.x).toarray()
    imagined[:, lacking] = centre[lacking]
    found = evidence(model, model.network.embed(query), cells=query)["cell_type"].expression
    np.testing.assert_allclose(found, softmax(imagined @ weight.T + bias, axis=1), rtol=1e-5, atol=1e-9)
    at_zero = softmax(normalised(query.x) @ weight.T + bias, axis=1)
    assert np.abs(found - at_zero).max() > 0.01


def test_a_label_that_came_later(reference: tuple[Model, Cells], tmp_path: Path) -> None:
    model, _ = reference
    query = cells_for(model.manifest, QUERY, types=(*CLASSES, "Platelet"), seed=2)
    grown = surgery(model, query, device="cpu")
    train(grown, query, plan=Plan(epochs=10, batch_size=32), progress=False, accelerator="cpu")
    loaded = Model.load(grown.save(tmp_path / "grown"))
    found = predict(loaded, query, unknown_above=None, device="cpu").levels["cell_type"]
    platelets = query.labels["cell_type"] == "Platelet"
    assert (found.labels[platelets] == "Platelet").mean() > 0.5
    assert (found.labels[~platelets] == query.labels["cell_type"][~platelets]).mean() > 0.7
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)


def test_again_replaces_it(reference: tuple[Model, Cells]) -> None:
    model, cells = reference
    again = with_expression_classifiers(model, cells)
    assert again.manifest.trust == model.manifest.trust
    assert [spec.name for spec in again.manifest.tensors] == [spec.name for spec in model.manifest.tensors]


def test_log_values_are_refused() -> None:
    model = Model.build(manifest(likelihood="mse"))
    with pytest.raises(errors.Unsupported, match="needs counts"):
        with_expression_classifiers(model, cells_for(model.manifest))
