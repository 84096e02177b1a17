"""The smallest step a version may rise by, over many made-up pairs of releases; and digests that nothing moves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hub_client import errors
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.v1 import Manifest
from hub_client.release import folder as release_folder
from hub_client.release import versioning
from hub_client.release.folder import Release
from hub_client.release.names import semver
from hub_client.release.versioning import LEVELS, needed, raised
from tests import examples

ROOT = Path(__file__).parents[2]
VERSIONS = st.tuples(*[st.integers(0, 3)] * 3).map(lambda parts: ".".join(map(str, parts)))
quick = settings(max_examples=60, deadline=None)


def described(batches: int, labels: int, version: str = "1.0.0", **more: Any) -> Manifest:
    """Return a manifest with so many categories, of which those of any smaller one are the first."""
    fields = examples.fields()
    (condition,), (level,) = fields["conditions"], fields["labels"]
    names = [f"cell {number}" for number in range(labels)]
    condition = condition | {"categories": [f"batch {number}" for number in range(batches)]}
    level = level | {"categories": names, "ontology": dict.fromkeys(names)}
    return Manifest.model_validate(fields | {"conditions": [condition], "labels": [level], "version": version} | more)


def made(batches: int, labels: int, *, seed: int = 0, **fields: Any) -> Release:
    """Return a release; the first entries of each tensor's grown axis do not depend on how many there are."""
    manifest = described(batches, labels, **fields)
    generator = torch.Generator().manual_seed(seed)
    largest = {"conditions.batch": 9, "labels.cell_type": 9, **manifest.axes()} | {"conditions.batch": 9}
    largest["labels.cell_type"] = 9
    tensors = {}
    for spec in manifest.tensors:
        whole = torch.randn([largest[axis] for axis in spec.shape], generator=generator)
        shape = manifest.shape(spec)
        value = whole[tuple(slice(size) for size in shape)]
        tensors[spec.name] = value if spec.dtype == "F32" else value.round().long()
    return Release(manifest, tensors, Path())


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))
more = st.tuples(st.integers(0, 3), st.integers(0, 3))


@quick
@given(sizes, more)
def test_appending_needs_a_minor_step_and_nothing_a_patch(old: tuple[int, int], new: tuple[int, int]) -> None:
    before, after = made(*old), made(old[0] + new[0], old[1] + new[1])
    assert needed(before, after)[0] == ("minor" if any(new) else "patch")
    if any(new):
        assert needed(after, before)[0] == "major"


@quick
@given(sizes, more, more)
def test_two_small_steps_are_no_larger_than_one(
    old: tuple[int, int], first: tuple[int, int], second: tuple[int, int]
) -> None:
    steps = [made(old[0] + a, old[1] + b) for a, b in ((0, 0), first, (first[0] + second[0], first[1] + second[1]))]
    ranks = [LEVELS.index(needed(steps[i], steps[j])[0]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert ranks[2] == min(ranks[0], ranks[1])


@quick
@given(sizes, more, st.data())
def test_any_old_weight_that_moved_needs_a_major_step(
    old: tuple[int, int], new: tuple[int, int], data: st.DataObject
) -> None:
    before, after = made(*old), made(old[0] + new[0], old[1] + new[1])
    name = data.draw(st.sampled_from(["encoder.weight", "embeddings.batch", "steps"]))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in before.tensors[name].shape)
    value = after.tensors[name].clone()
    value[place] += 1
    moved = replace(after, tensors=after.tensors | {name: value})
    level, reason = needed(before, moved)
    assert level == "major" and name in reason


@quick
@given(sizes, more, st.data())
def test_a_new_weight_may_have_any_value(old: tuple[int, int], new: tuple[int, int], data: st.DataObject) -> None:
    assume(new[0])
    before, after = made(*old), made(old[0] + new[0], old[1] + new[1])
    value = after.tensors["embeddings.batch"].clone()
    value[data.draw(st.integers(old[0], old[0] + new[0] - 1))] += 1
    assert needed(before, replace(after, tensors=after.tensors | {"embeddings.batch": value}))[0] == "minor"


@quick
@given(st.tuples(st.integers(2, 4), st.integers(2, 4)), st.data())
def test_another_order_of_names_needs_a_major_step(old: tuple[int, int], data: st.DataObject) -> None:
    before = made(*old)
    (condition,) = before.manifest.conditions
    turned = tuple(data.draw(st.permutations(condition.categories)))
    manifest = before.manifest.changed(conditions=(condition.model_copy(update={"categories": turned}),))
    expected = "patch" if turned == condition.categories else "major"
    assert needed(before, replace(before, manifest=manifest))[0] == expected


@quick
@given(VERSIONS, VERSIONS, st.sampled_from(["patch", "minor", "major"]))
def test_exactly_the_steps_that_are_large_enough_are_allowed(before: str, after: str, level: str) -> None:
    assume(semver(before) < semver(after))
    old, grown = made(2, 2, version=before), made(3, 2, version=after)
    same, other = replace(old, manifest=described(2, 2, after)), made(2, 2, seed=1, version=after)
    new = {"patch": same, "minor": grown, "major": other}[level]
    enough = LEVELS.index(raised(before, after)) <= LEVELS.index(level)
    if enough:
        versioning.check(old, new, taken=[before])
        return
    with pytest.raises(errors.InvalidInput, match=f"needs a {level} one") as caught:
        versioning.check(old, new, taken=[before])
    advised = str(caught.value).split("version='")[1].split("'")[0]
    versioning.check(old, replace(new, manifest=new.manifest.changed(version=advised)), taken=[before])


# digests


def shuffled(value: Any, draw: st.DataObject) -> Any:
    """Return the same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw.draw(st.permutations(list(value)))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(examples.KINDS)), st.data())
def test_a_digest_does_not_depend_on_the_order_of_keys(kind: str, data: st.DataObject) -> None:
    manifest = examples.of_kind(kind)
    again = Manifest.model_validate(shuffled(manifest.model_dump(mode="json"), data))
    assert again.digest == manifest.digest
    assert read_manifest(again.to_bytes(), source="it").digest == manifest.digest


def test_a_digest_is_the_same_in_every_process_and_version_of_python() -> None:
    """The number was written down; hashes of texts, and with them the order of sets, differ between processes."""
    code = "from tests import examples; print(*(examples.of_kind(kind).digest for kind in sorted(examples.KINDS)))"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment | {"PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1
    recorded = json.loads((ROOT / "tests" / "golden" / "digests.json").read_text())
    assert dict(zip(sorted(examples.KINDS), digests.pop().split(), strict=True)) == recorded


def test_a_release_written_twice_is_the_same(tmp_path: Path) -> None:
    manifest = examples.manifest()
    tensors = examples.tensors(manifest)
    one = release_folder.write(tmp_path / "one", manifest, tensors)
    two = release_folder.write(tmp_path / "two", manifest, dict(reversed(tensors.items())))
    assert release_folder.verify(one).digest == release_folder.verify(two).digest
