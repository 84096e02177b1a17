"""Test vectors: what they hold, that they replay, and what is said when they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.checks.verify import verify, with_test_vectors
from hub_client.data.cells import Cells, GeneReport
from hub_client.labels.atlas import with_atlas
from hub_client.manifest.calibration import Calibration, Trust
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests import simulated
from tests.simulated import cells_for

GENES = [f"G{i}" for i in range(6)]


def manifest(**changes: object) -> Manifest:
    fields = {
        "name": "tiny",
        "architecture": {"kind": "scpoli", "hidden": [5], "latent": 3},
        "genes": {"id_type": "symbol", "panel": [{"symbol": gene} for gene in GENES]},
        "conditions": [{"key": "batch", "categories": ["a", "b"], "encoding": {"kind": "embedding", "dim": 2}}],
        "labels": [{"key": "cell_type", "categories": ["B", "T"], "ontology": {"B": None, "T": None}}],
    }
    return Manifest.model_validate(fields | changes)


def cells(*, scale: float = 1.0) -> Cells:
    """Return ten B cells with the first three genes and ten T cells with the others, in both batches."""
    rates = np.repeat([[8.0, 8, 8, 0, 0, 0], [0, 0, 0, 8, 8, 8]], 10, axis=0)
    counts = np.random.default_rng(0).poisson(rates).astype(np.float32)
    return Cells(
        x=csr_matrix(counts * scale),
        obs_names=np.array([f"ACGT-{i}" for i in range(20)], dtype=object),
        conditions={"batch": np.array(["a", "b"] * 10)},
        labels={"cell_type": np.repeat(["B", "T"], 10)},
        size_factor=counts.sum(axis=1).astype(np.float32),
        report=GeneReport(coverage=1.0),
    )


@pytest.fixture
def model() -> Model:
    return with_test_vectors(Model.build(manifest(), seed=0), cells(), count=6, seed=3)


def test_they_replay(model: Model) -> None:
    verify(model)


def test_they_replay_after_saving_and_loading(model: Model, tmp_path) -> None:
    verify(Model.load(model.save(tmp_path / "model")))


def test_cells_are_drawn_around_the_profiles_of_labels_in_turn(model: Model) -> None:
    counts = model.extras["test_vectors.counts"].numpy()
    assert counts.shape == (6, 6)
    assert not counts[::2, 3:].any() and not counts[1::2, :3].any()
    assert 5 < counts[::2, :3].mean() < 11
    np.testing.assert_array_equal(model.extras["test_vectors.size_factor"], counts.sum(axis=1))
    assert set(model.extras["test_vectors.conditions.batch"].tolist()) <= {0, 1}


def test_the_seed_decides_the_draw(model: Model) -> None:
    again = with_test_vectors(Model.build(manifest(), seed=0), cells(), count=6, seed=3)
    other = with_test_vectors(Model.build(manifest(), seed=0), cells(), count=6, seed=4)
    name = "test_vectors.counts"
    assert torch.equal(again.extras[name], model.extras[name])
    assert not torch.equal(other.extras[name], model.extras[name])


def test_making_them_anew_replaces_them(model: Model) -> None:
    again = with_test_vectors(model, cells(), count=2)
    assert again.extras["test_vectors.latent"].shape == (2, 3)
    assert len(again.manifest.tensors) == len(model.manifest.tensors)
    verify(again)


def test_the_model_given_is_not_changed() -> None:
    plain = Model.build(manifest(), seed=0)
    with_test_vectors(plain, cells(), count=2)
    assert plain.manifest.test_vectors is None and not plain.extras


def test_an_observed_size_factor_is_the_mean_of_the_labels_cells() -> None:
    observed = manifest(input={"size_factor": "n_counts"})
    made = with_test_vectors(Model.build(observed), cells(), count=2)
    expected = cells().size_factor.reshape(2, 10).mean(axis=1)
    np.testing.assert_allclose(made.extras["test_vectors.size_factor"], expected, rtol=1e-6)


def test_a_model_of_log1p_values_gets_log1p_values() -> None:
    described = manifest(
        architecture={"kind": "scpoli", "hidden": [5], "latent": 3, "likelihood": "mse"}, input={"kind": "log1p"}
    )
    made = with_test_vectors(Model.build(described), cells(scale=0.1), count=4)
    counts = np.expm1(made.extras["test_vectors.counts"].numpy())
    np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
    verify(made)


def test_changed_weights_are_noticed(model: Model) -> None:
    tensors = model.network.tensors()
    tensors["encoder.mean.bias"] += 0.25
    model.network.load(tensors)
    with pytest.raises(errors.IntegrityError, match=r"latent differs by up to 0\.25"):
        verify(model)


def test_no_vectors_no_verdict() -> None:
    with pytest.raises(errors.Unsupported, match="no test vectors"):
        verify(Model.build(manifest()))


def test_incomplete_vectors_are_refused(model: Model) -> None:
    vectors = model.manifest.test_vectors
    assert vectors is not None
    fewer = {part: name for part, name in vectors.tensors.items() if part != "size_factor"}
    model.manifest = model.manifest.changed(test_vectors=vectors.model_copy(update={"tensors": fewer}))
    with pytest.raises(errors.ManifestError, match="lack size_factor"):
        verify(model)


def test_conditions_that_are_no_category_are_refused(model: Model) -> None:
    model.extras["test_vectors.conditions.batch"][0] = 9
    with pytest.raises(errors.ManifestError, match=r"codes in conditions\.batch"):
        verify(model)


@pytest.fixture
def labelled() -> Model:
    """A model whose labels are those of the five nearest reference cells."""
    rule = Calibration(level="cell_type", transfer="neighbors", neighbors=5, temperature=1.0)
    plain = Model.build(manifest(trust=Trust(calibrations=(rule,))), seed=0)
    return with_test_vectors(with_atlas(plain, cells()), cells(), count=6)


def test_labels_uncertainty_and_probabilities_are_among_them(labelled: Model) -> None:
    vectors = labelled.manifest.test_vectors
    assert vectors is not None
    level = {f"{part}.cell_type" for part in ("labels", "names", "uncertainty", "probabilities")}
    assert vectors.tensors.keys() >= {"counts", "size_factor", "conditions.batch", "latent"} | level


def test_exchanged_labels_are_noticed(labelled: Model) -> None:
    """In the manifest and in the reference cells alike, so that every code stays the same."""
    (level,) = labelled.manifest.labels
    turned = level.model_copy(update={"categories": level.categories[::-1]})
    assert labelled.atlas is not None
    atlas = labelled.atlas.copy()
    atlas.obs["cell_type"] = atlas.obs["cell_type"].map({"B": "T", "T": "B"})
    with pytest.raises(errors.IntegrityError, match=r"names\.cell_type differs in 6 of 6 cells"):
        verify(replace(labelled, manifest=labelled.manifest.changed(labels=(turned,)), atlas=atlas))


def test_another_calibration_is_noticed(labelled: Model) -> None:
    (rule,) = labelled.manifest.trust.calibrations
    sharper = Trust(calibrations=(rule.model_copy(update={"sharpness": 3.0}),))
    with pytest.raises(errors.IntegrityError, match=r"(uncertainty|probabilities)\.cell_type differs by up to 0\."):
        verify(replace(labelled, manifest=labelled.manifest.changed(trust=sharper)))


def test_vectors_of_old_releases_replay_for_what_they_hold(labelled: Model) -> None:
    model, vectors = labelled, labelled.manifest.test_vectors
    assert vectors is not None
    new = ("names.", "uncertainty.", "probabilities.", "distances.")
    kept = {part: name for part, name in vectors.tensors.items() if not part.startswith(new)}
    assert len(kept) == 5 and len(vectors.tensors) == 8
    verify(replace(model, manifest=model.manifest.changed(test_vectors=vectors.model_copy(update={"tensors": kept}))))


def test_scores_and_imputed_proteins_are_among_them(tmp_path: Path) -> None:
    for kind, part in {"expimap": "scores", "totalvi": "imputed_proteins"}.items():
        plain = Model.build(simulated.manifest(kind))
        made = with_test_vectors(plain, cells_for(plain.manifest, cells=40), count=3)
        vectors = made.manifest.test_vectors
        assert vectors is not None and part in vectors.tensors
        verify(Model.load(made.save(tmp_path / kind)))


def test_labels_that_surgery_adds_end_what_they_change_and_nothing_else() -> None:
    plain = Model.build(simulated.manifest("scpoli"))
    seen = cells_for(plain.manifest)
    reference = with_test_vectors(with_atlas(plain, seen), seen, count=3)
    before = reference.manifest.test_vectors
    cells = cells_for(plain.manifest, ("q0",), cells=30)
    same = surgery(reference, cells, start="mean").manifest.test_vectors
    assert before is not None and same is not None and same.tensors == before.tensors
    named = cells.relabelled({"cell_type": np.array(["Platelet"] * 30)})
    grown = surgery(reference, named, start="mean")
    vectors = grown.manifest.test_vectors
    assert vectors is not None
    gone = before.tensors.keys() - vectors.tensors.keys()
    assert gone == {part for part in before.tensors if part.startswith(("uncertainty.", "probabilities."))}
    assert not {before.tensors[part] for part in gone} & grown.extras.keys()
