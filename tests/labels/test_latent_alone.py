"""Labels from the latent alone: by which rule, and that expression has no part in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hub_client.checks.outputs import FOLLOWS, outputs
from hub_client.data.cells import Cells
from hub_client.labels import latent_alone
from hub_client.labels.atlas import with_atlas
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.latent_alone import latent_labels
from hub_client.labels.neighbors import votes
from hub_client.labels.predict import joined, predict
from hub_client.labels.transfer import Atlas, atlas_of, evidence
from hub_client.manifest.calibration import Calibration, Transfer
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests.contract.examples import SHORT, trained, untrained
from tests.simulated import QUERY, cells_for


def query(model: Model) -> Cells:
    return cells_for(model.manifest, cells=90, seed=5)


def ruled(model: Model, transfer: Transfer) -> Model:
    trust = model.manifest.trust.model_copy(
        update={"calibrations": (Calibration(level="cell_type", transfer=transfer, temperature=1.0),)}
    )
    return replace(model, manifest=model.manifest.changed(trust=trust))


@pytest.mark.parametrize("kind", ["trvae", "scpoli", "scanvi"])
def test_the_15_nearest_cells_of_the_atlas_vote_whatever_the_kind(kind: str) -> None:
    model = with_atlas(trained(kind), cells_for(trained(kind).manifest))
    cells = query(model)
    found = predict(model, cells, device="cpu")
    atlas = atlas_of(model, "cell_type")
    assert atlas is not None
    shares = votes(atlas.latent, atlas.codes, found.latent, neighbors=15, labels=atlas.labels)
    names = np.array(model.vocabulary.labels["cell_type"].names)
    assert_array_equal(found.levels["cell_type"].latent_labels, names[shares.argmax(axis=1)])


def test_without_an_atlas_it_is_the_nearest_prototype() -> None:
    found = predict(trained("scpoli"), query(trained("scpoli")), device="cpu").levels["cell_type"]
    assert found.distances is not None
    assert_array_equal(found.latent_labels, found.distances.columns[found.distances.to_numpy().argmin(axis=1)])


def test_without_prototypes_it_is_the_networks_classifier() -> None:
    found = predict(trained("scanvi"), query(trained("scanvi")), device="cpu").levels["cell_type"]
    assert_array_equal(found.latent_labels, found.labels)


def test_expression_has_no_part_in_them() -> None:
    """A consensus calls cells otherwise once their counts are those of other cells; the latent alone does not."""
    reference = cells_for(trained("trvae").manifest)
    model = ruled(with_expression_classifiers(trained("trvae"), reference), "consensus")
    cells = query(model)
    latent = predict(model, cells, device="cpu").latent
    turned = replace(cells, x=cells.x[::-1])
    one, other = (evidence(model, latent, cells=each)["cell_type"] for each in (cells, turned))
    assert one.expression is not None and other.expression is not None
    assert (one.expression.argmax(axis=1) != other.expression.argmax(axis=1)).any()
    labels = [latent_labels(model, "cell_type", latent, evidence=found) for found in (one, other)]
    assert_array_equal(*labels)


def test_a_model_that_knows_labels_by_expression_only_has_none() -> None:
    model = untrained("trvae")
    cells = cells_for(model.manifest)
    blind = ruled(with_expression_classifiers(model, cells), "expression")
    assert blind.atlas is None
    found = predict(blind, cells, device="cpu").levels["cell_type"]
    assert found.latent_labels is None
    assert joined([predict(blind, cells, device="cpu")]).levels["cell_type"].latent_labels is None


def test_labels_that_came_with_a_query_are_given_though_the_atlas_has_none() -> None:
    reference = with_atlas(trained("scpoli"), cells_for(trained("scpoli").manifest))
    cells = cells_for(reference.manifest, QUERY, cells=120, seed=1, types=("T", "ILC"))
    model = surgery(reference, cells, device="cpu")
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    atlas = atlas_of(model, "cell_type")
    assert atlas is not None and atlas.frequencies[-1] == 0
    found = predict(model, cells, device="cpu").levels["cell_type"].latent_labels
    assert found is not None
    assert (found[cells.labels["cell_type"] == "ILC"] == "ILC").mean() > 0.5


def test_unknown_is_for_the_models_own_labels() -> None:
    found = predict(trained("scpoli"), query(trained("scpoli")), unknown_above=0.0, device="cpu").levels["cell_type"]
    assert set(found.labels) == {"unknown"} and found.latent_labels is not None
    assert "unknown" not in set(found.latent_labels)


def test_of_a_large_atlas_some_vote_and_a_rare_label_keeps_its_cells() -> None:
    generator = np.random.default_rng(0)
    codes = np.concatenate([np.zeros(40_000, np.int64), np.ones(30, np.int64), np.full(3_000, 2)])
    atlas = Atlas(generator.normal(0, 1, (len(codes), 3)).astype(np.float32), codes, np.zeros_like(codes), 3)
    voters = latent_alone._voters(atlas)
    counted = np.bincount(voters.codes)
    assert latent_alone.MOST_VOTERS <= len(voters.codes) <= latent_alone.MOST_VOTERS + 100
    assert counted[1] == 30 and abs(counted[2] / counted[0] - 3 / 40) < 0.01
    small = replace(atlas, latent=atlas.latent[:99], codes=codes[:99], groups=codes[:99])
    assert latent_alone._voters(small) is small


def test_parts_are_joined() -> None:
    model, cells = trained("scpoli"), query(trained("scpoli"))
    whole = predict(model, cells, device="cpu").levels["cell_type"].latent_labels
    parts = [predict(model, cells.rows(rows), device="cpu") for rows in np.array_split(np.arange(len(cells)), 3)]
    assert_array_equal(joined(parts).levels["cell_type"].latent_labels, whole)


def test_test_vectors_and_receipts_stay_what_they_were() -> None:
    """Releases and receipts from before have no such labels or sets, and are compared in all that comes out."""
    found = outputs(trained("scpoli"), query(trained("scpoli")), device="cpu")
    assert {"latent_labels", "sets", "backoff"} == FOLLOWS
    assert set(found.by_name()) == {"latent"} | {
        f"{part}.cell_type" for part in ("labels", "uncertainty", "probabilities", "distances")
    }
