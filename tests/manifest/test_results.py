"""What decides results: each field, tensor and reference cell that does is changed, and bump and diff notice it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hub_client.checks.diff import diff
from hub_client.checks.verify import with_test_vectors
from hub_client.labels.atlas import with_atlas
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.manifest.calibration import Calibration
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.results import FIELDS, compare
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model
from hub_client.release import atlas_file, versioning
from hub_client.release.folder import REFERENCE, Release
from tests import examples, simulated
from tests.simulated import cells_for

PROSE = re.compile(
    r"(schema_version|name|version|title|summary|created|authors|citation|license|data_license|tissue|assay|disease|"
    r"suspension_type|gene_annotation|training|metrics|imported_from|intended_use|limitations|extensions|delta|"
    r"signature)\b.*|organism\.(label|release)|trust\.validated_on|lineage\.(parent|new_rows|copied).*|"
    r"trust\.novelty\.(left_out|count|false_positives\.\w+)|trust\.calibrations\.\d+\.(set_coverage|fitted_on)|"
    r"labels\.\d+\.(ontology|ontology_release|parents|corrections).*|terms\.\d+\.(source|release|license)"
)
"""The paths of what only describes, written down a second time: a row that joins the list has to join this one."""
TEXTS = (
    "x",
    "gaussians",
    "sum",
    "first",
    "mean",
    "extend",
    "error",
    "covariate",
    "donor",
    "symbol",
    "surgery",
    "random",
)
TEXTS += ("unconstrained", "retrain", "log1p", "1.0.0", "1.1.0", "a", "b", "NCBITaxon:10090", "both", "none", "normal")
TEXTS += ("folds",)
TEXTS += ("gene", "gene-batch", "protein", "exp", "softplus", "nb", "zinb", "y", "z", "one-hot", "ENSG00000000001")


def others(value: Any) -> list[Any]:
    """Return values to put in the place of one, of which some field will take some."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, -value]
    if isinstance(value, float):
        return [value * 0.75, value + 0.25]
    if isinstance(value, str):
        return [f"{value}x", *(text for text in TEXTS if text != value), "f" * 64]
    return [value[::-1], value[:-1]] if isinstance(value, list) and value else []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every value in a document, lists and what is in them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
        return
    yield path
    if isinstance(value, list):
        for index, inner in enumerate(value[:3]):
            yield from places(inner, (*path, index))


def changed(fields: dict[str, Any], path: tuple[Any, ...]) -> Iterator[Manifest]:
    """Return the valid manifests with another value at a place."""
    old = fields
    for part in path:
        old = old[part]
    for value in others(old):
        new = copy.deepcopy(fields)
        inner: Any = new
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        try:
            yield Manifest.model_validate(new)
        except ValidationError:
            continue


def edits(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Return a manifest with each of its fields changed, one at a time, by the field's path."""
    fields = manifest.model_dump(mode="json")
    for path in places({key: value for key, value in fields.items() if key not in ("tensors", "files")}):
        edited = next((one for one in changed(fields, path) if one != manifest), None)
        if edited is not None:
            yield ".".join(map(str, path)), edited


@pytest.mark.parametrize("kind", sorted(examples.KINDS))
def test_every_field_but_prose_is_noticed_by_the_bump(kind: str) -> None:
    manifest = examples.of_kind(kind)
    old = Release(manifest, examples.tensors(manifest), Path())
    noticed = set()
    for path, edited in edits(manifest):
        level, reason = versioning.needed(old, replace(old, manifest=edited))
        assert (level == "patch") == bool(PROSE.fullmatch(path)), (path, level, reason)
        noticed.add(path.split(".")[0])
    assert noticed >= {"architecture", "genes", "conditions", "query_plan", "lineage", "organism", "title"}


def test_what_changes_labels_or_latent_is_no_minor_step() -> None:
    manifest = examples.of_kind("scpoli")
    decisive = {
        path for path, edited in edits(manifest) if any(d.effect == "decides" for d in compare(manifest, edited))
    }
    described = {"level", "set_coverage", "fitted_on"}
    assert decisive >= {f"trust.calibrations.0.{field}" for field in Calibration.model_fields.keys() - described}
    assert decisive >= {"genes.duplicates", "input.size_factor", "labels.1.unlabelled", "organism.id"}
    assert not decisive & {"query_plan.epochs", "genes.coverage_refuse", "test_vectors.rtol", "title"}


def test_a_field_that_no_list_knows_is_noticed() -> None:
    """What a newer format adds decides results until somebody says that it does not."""
    fields = examples.fields() | {"schema_version": "1.99"}
    before, after = (
        read_manifest(json.dumps(fields | {"genes": fields["genes"] | {"shrink": value}}), source="it")
        for value in (1, 2)
    )
    assert [(found.field, found.effect) for found in compare(before, after)] == [("unknown.genes.shrink", "decides")]


def test_the_list_names_fields_that_there_are() -> None:
    """A field that was renamed would fall out of the list, or prose would decide."""
    seen = set()
    for kind in examples.KINDS:
        fields = examples.of_kind(kind).model_dump(mode="json")
        for path in places(fields):
            parts = ["*" if isinstance(part, int) else str(part) for part in path]
            seen |= {".".join(parts[: length + 1]) for length in range(len(parts))}
    left_out = {"labels.*.markers", "trust.depth"}  # of files at their default
    assert FIELDS.keys() - seen <= left_out | {"covariates.categorical.*.added_in"}  # a map that is empty in examples


def test_a_level_that_becomes_a_sum_is_noticed() -> None:
    """Left out of files where it is not stated, it is still no addition: the level's probabilities are others."""
    before = examples.of_kind("scpoli")
    first, *others = before.labels
    after = before.changed(labels=(first.model_copy(update={"derived_from": others[0].key}), *others))
    assert [(d.field, d.effect) for d in compare(before, after)] == [("labels[lineage].derived_from", "decides")]
    assert b"derived_from" not in before.canonical() and b"derived_from" in after.canonical()


def test_label_sets_where_there_were_none_are_added_and_others_decide() -> None:
    def stating(above: float | None) -> Manifest:
        manifest = examples.of_kind("scpoli")
        (calibration,) = manifest.trust.calibrations
        changed = calibration.model_copy(update={"set_above": above})
        return manifest.changed(trust=manifest.trust.model_copy(update={"calibrations": (changed,)}))

    effects = {
        (old, new): [(d.field, d.effect) for d in compare(stating(old), stating(new))]
        for old, new in ((None, 0.2), (0.2, 0.1), (0.2, None))
    }
    place = "trust.calibrations[cell_type].set_above"
    assert effects == {
        (None, 0.2): [(place, "adds")],
        (0.2, 0.1): [(place, "decides")],
        (0.2, None): [(place, "decides")],
    }


@pytest.fixture(scope="module")
def model() -> Model:
    made = Model.build(simulated.manifest("scpoli"), seed=0)
    cells = cells_for(made.manifest, cells=60)
    calibration = Calibration(level="cell_type", transfer="consensus", temperature=2.0)
    made = with_atlas(with_expression_classifiers(made, cells), cells)
    trust = made.manifest.trust.model_copy(update={"calibrations": (calibration,)})
    made.manifest = made.manifest.changed(trust=trust)
    made.describe()
    return with_test_vectors(made, cells, count=4)


def level_of(before: Model, after: Model) -> str:
    """Return the level that a diff names, once it also shows the change."""
    found = diff(before, after)
    assert found.names or found.values or found.tensors or found.atlas
    return found.needed


@pytest.mark.slow
def test_every_field_is_noticed_by_a_diff(model: Model) -> None:
    for path, edited in edits(model.manifest):
        if edited.axes() == model.manifest.axes() and edited.architecture == model.manifest.architecture:
            level = level_of(model, replace(model, manifest=edited))
            assert (level == "patch") == bool(PROSE.fullmatch(path)), path


def test_every_tensor_is_noticed(model: Model) -> None:
    tensors = model.tensors()
    specs = {spec.name: spec for spec in model.manifest.tensors}
    assert specs.keys() == tensors.keys() and any(name.startswith("expression.") for name in specs)
    old = Release(model.manifest, tensors, Path())
    for name, tensor in tensors.items():
        if tensor.numel():
            moved = tensor.clone()
            moved.view(-1)[-1] += 1
            new = replace(old, tensors=tensors | {name: moved})
            expected = "minor" if "test_cells" in specs[name].shape else "major"
            assert versioning.needed(old, new)[0] == expected, name
            assert [change.field for change in versioning.tensor_changes(old, new)] == [f"tensor {name}"]
    network = model.network.tensors()
    other = Model.build(model.manifest, seed=0)
    other.network.load(network | {"encoder.mean.bias": network["encoder.mean.bias"] + 1})
    found = diff(model, replace(model, network=other.network))
    assert found.needed == "major" and [change.field for change in found.tensors] == ["tensor encoder.mean.bias"]


def test_weights_that_call_themselves_test_vectors_are_noticed(model: Model) -> None:
    vectors = model.manifest.test_vectors
    assert vectors is not None
    named = vectors.model_copy(update={"tensors": vectors.tensors | {"more": "expression.0.bias"}})
    manifest = model.manifest.changed(test_vectors=named)
    old = Release(manifest, model.tensors(), Path())
    moved = old.tensors | {"expression.0.bias": old.tensors["expression.0.bias"] + 1}
    assert versioning.needed(old, replace(old, tensors=moved))[0] == "major"


def test_every_entry_of_the_atlas_is_noticed(model: Model) -> None:
    assert model.atlas is not None
    for column in model.atlas.obs:
        turned = model.atlas.copy()
        turned.obs[column] = turned.obs[column].to_numpy()[::-1]
        found = diff(model, replace(model, atlas=turned))
        assert found.needed == "major" and [change.field for change in found.atlas] == [f"obs[{column}]"]
    moved = model.atlas.copy()
    moved.obsm["X_latent"] = np.array(moved.obsm["X_latent"])
    moved.obsm["X_latent"][7, 0] += 1
    (change,) = diff(model, replace(model, atlas=moved)).atlas
    assert change.after == "1 of them with other values"
    assert level_of(model, replace(model, atlas=model.atlas[:40].copy())) == "major"
    assert level_of(model, replace(model, atlas=None)) == "major"
    assert diff(model, replace(model, atlas=model.atlas.copy())).needed == "patch"


def test_other_bytes_of_the_same_atlas_are_the_same(model: Model) -> None:
    content = bytearray(atlas_file.dump(model.atlas))
    ours = model.atlas.copy()
    ours.obs.index = [f"r{number}" for number in range(len(ours))]
    old = Release(model.manifest, model.tensors(), Path(), {REFERENCE: content})
    new = replace(old, contents={REFERENCE: bytearray(atlas_file.dump(ours))})
    assert old.atlas != new.atlas and versioning.needed(old, new)[0] == "patch"


def test_results_of_test_cells_that_moved_are_named(model: Model) -> None:
    (calibration,) = model.manifest.trust.calibrations
    hotter = calibration.model_copy(update={"temperature": 20.0})
    trust = model.manifest.trust.model_copy(update={"calibrations": (hotter,)})
    found = diff(model, replace(model, manifest=model.manifest.changed(trust=trust)))
    assert found.drift.largest == 0
    assert {moved.field for moved in found.moved} == {"uncertainty.cell_type", "probabilities.cell_type"}
    assert all(moved.cells == 4 and moved.largest for moved in found.moved)
    assert torch.is_tensor(model.extras["test_vectors.uncertainty.cell_type"])
