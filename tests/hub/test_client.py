"""pull, push and search, as a user calls them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import hub_client
from hub_client import errors
from hub_client.data.vocabulary import Vocabulary
from hub_client.hub.client import Hub, default_folder, download, resolve
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from hub_client.release import folder as release_folder
from hub_client.release.versioning import needed
from tests import examples
from tests.contract.examples import SHORT, trained
from tests.releases import contents, release, unfit
from tests.simulated import QUERY, SECOND_QUERY, cells_for

REPO = "lab/tiny-scpoli"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "default"))
    return tmp_path / "default"


def mapped(reference: Model, batches: tuple[str, ...] = QUERY) -> Model:
    """Return a model grown onto a query and trained on it."""
    cells = cells_for(reference.manifest, batches, cells=90, seed=1, labelled=False)
    model = surgery(reference, cells)
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    return model


def same(left: Model, right: Model) -> bool:
    ours, theirs = left.tensors(), right.tensors()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# push and pull


@pytest.mark.slow
def test_what_is_pushed_is_pulled_with_identical_latents(hub: Hub) -> None:
    model = trained("scpoli")
    ref = hub.push(model, "lab/blood")
    again = hub.pull("lab/blood")
    cells = cells_for(model.manifest, cells=50)
    assert again.ref == ref
    assert again.manifest.digest == ref.digest
    assert np.array_equal(embed(again, cells), embed(model, cells))


def test_the_verbs_use_the_default_hub(default: Path) -> None:
    ref = hub_client.push(trained("scpoli"), "lab/blood")
    assert ref.hub == str(default_folder()) == str(default)
    assert hub_client.pull("blood").ref == ref == resolve("blood") == Hub(default).resolve("lab/blood")
    assert "lab/blood" in [found.name for found in hub_client.search()]


def test_a_push_leaves_the_model_as_it_was(hub: Hub) -> None:
    model = trained("scpoli")
    before, ref = model.manifest, model.ref
    hub.push(model, "lab/blood")
    assert model.manifest == before
    assert model.ref is ref


def test_the_manifest_takes_the_repositorys_name_and_a_date(hub: Hub) -> None:
    ref = hub.push(trained("scpoli"), "lab/blood-2")
    manifest = hub.manifest("lab/blood-2")
    assert (manifest.name, manifest.version) == ("blood-2", "1.0.0")
    assert manifest.created is not None
    assert manifest.digest == ref.digest


def test_a_folder_is_pushed_like_the_model_in_it(hub: Hub, tmp_path: Path) -> None:
    folder = trained("scpoli").save(tmp_path / "saved")
    before = contents(folder)
    hub.push(folder, "lab/blood")
    assert same(hub.pull("blood"), trained("scpoli"))
    assert contents(folder) == before


def test_a_reference_atlas_is_pushed_along(hub: Hub, tmp_path: Path) -> None:
    from hub_client.release import atlas_file

    atlas = atlas_file.atlas(np.ones((5, 3), np.float32), conditions={"batch": list("aabba")}, labels={})
    plain = release_folder.read(release(tmp_path / "plain"))
    extra = {release_folder.REFERENCE: atlas_file.dump(atlas)}
    folder = release_folder.write(tmp_path / "with", plain.manifest, plain.tensors, extra=extra)
    hub.push(folder, REPO)
    assert contents(hub.download(REPO, tmp_path / "out"))[release_folder.REFERENCE] == extra[release_folder.REFERENCE]


def test_a_release_that_needs_no_change_is_pushed_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    folder = release(tmp_path / "dated", name="tiny-scpoli", created="2026-01-02T03:04:05Z")
    hub.push(folder, REPO)
    assert contents(hub.download(REPO, tmp_path / "out")) == contents(folder)


def test_pushing_again_what_another_archzoo_made_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    """Each version writes the card, and a minor format the manifest, its own way: what is released stays."""
    folder = release(tmp_path / "release", created="2024-05-01T12:00:00Z")
    (folder / "README.md").write_text("# A card of another version\n")
    manifest = release_folder.manifest_in(folder)
    (folder / "manifest.json").write_bytes(release_folder.seal(manifest, folder).to_bytes())
    released = hub.push(folder, REPO)
    assert hub.push(hub.pull(REPO), REPO) == released
    other = hub.pull(REPO)
    other.manifest = other.manifest.changed(summary="Another.")
    with pytest.raises(errors.TransportError, match="never changes"):
        hub.push(other, REPO)


def test_pushing_again_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    folder = release(tmp_path / "undated")
    ref = hub.push(folder, REPO)
    assert hub.push(folder, REPO) == ref
    assert len(hub.history(REPO)) == 1


def test_what_pull_would_refuse_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    """Its tensors are those that its manifest names, and not those of its architecture; it has no test vectors."""
    folder = unfit(tmp_path / "unfit")
    for push in (hub.push, hub.preview):
        with pytest.raises(errors.IntegrityError, match=r"lab/tiny-scpoli is not released:\n.*network: .* nothing for"):
            push(folder, REPO)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["lab/blood.git", "lab/blood.lock", "api/blood", "lab/con"])
@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9"])
def test_a_name_that_no_hub_takes_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")
    hub = Hub(address or tmp_path / "hub")
    for push in (hub.push, hub.preview, *([hub.propose] if address else [])):
        with pytest.raises(errors.InvalidInput, match="cannot be a repository's name"):
            push(tmp_path / "there is no such folder", name)
    with pytest.raises(errors.InvalidInput, match="cannot be a repository's name"):
        hub.push_dataset(None, name, version="1.0.0", license="MIT", source="x")  # type: ignore[arg-type]


def test_donors_are_not_pushed_unless_told(hub: Hub, tmp_path: Path) -> None:
    condition = examples.fields()["conditions"][0] | {"categories": ["donor_1", "donor_2"]}
    folder = release(tmp_path / "donors", conditions=[condition])
    with pytest.raises(
        errors.InvalidInput, match=r"conditions\.batch: looks like donors .* its categories, donor_1, do"
    ):
        hub.push(folder, REPO)
    ref = hub.push(folder, REPO, publish_donors=True)
    assert hub.manifest(REPO).extensions == {"x-donors-published": ["batch"]}
    assert hub.push(folder, REPO, publish_donors=True) == ref
    pulled = hub.download(REPO, tmp_path / "pulled")  # what states it is asked no more
    assert Hub(tmp_path / "other").push(pulled, REPO).digest == ref.digest


def test_a_broken_release_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    folder = release(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(errors.IntegrityError):
        hub.push(folder, REPO)
    with pytest.raises(errors.NotFound):
        hub.push(tmp_path / "nothing", REPO)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["blood", "lab/blood@1.0.0", "lab/blood.git", "lab/../blood", "lab/"])
def test_a_push_needs_an_owner_and_a_plain_name(hub: Hub, tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.InvalidInput):
        hub.push(release(tmp_path / "release"), name)


def test_a_pull_by_digest_gets_that_digest(hub: Hub, tmp_path: Path) -> None:
    model = trained("scpoli")
    first = hub.push(model, "lab/blood")
    hub.push(model, "lab/blood", version="1.0.1")
    revisions = ("1.0.0", first.commit[:9], f"sha256:{first.digest}", f"sha256:{first.digest[:12]}")
    for name in (f"blood@{revision}" for revision in revisions):
        pulled = hub.pull(name)
        assert pulled.ref == first
        assert pulled.manifest.digest == first.digest


def test_a_local_release_is_pulled_by_its_path(tmp_path: Path) -> None:
    folder = trained("scpoli").save(tmp_path / "saved")
    for name in (folder, str(folder)):
        model = hub_client.pull(name)
        assert same(model, trained("scpoli"))
        assert model.ref.digest == model.manifest.digest


def test_a_download_is_a_whole_release_or_nothing(hub: Hub, tmp_path: Path) -> None:
    ref = hub.push(release(tmp_path / "release"), REPO)
    folder = hub.download(REPO, tmp_path / "deep" / "out")
    assert release_folder.verify(folder).digest == ref.digest
    with pytest.raises(errors.InvalidInput, match="exists already"):
        hub.download(REPO, folder)
    (tmp_path / "empty").mkdir()
    assert contents(download(REPO, tmp_path / "empty", hub=hub)) == contents(folder)
    flip(next((tmp_path / "hub").rglob("lfs/objects/*/*/*")))
    with pytest.raises(errors.IntegrityError):
        hub.download(REPO, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_pull_finds_damage(hub: Hub, tmp_path: Path) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    flip(next((tmp_path / "hub").rglob("lfs/objects/*/*/*")))
    with pytest.raises(errors.IntegrityError, match=r"model\.safetensors"):
        hub.pull("lab/blood")


# versions and parents


@pytest.mark.slow
def test_what_surgery_made_is_the_next_minor_version(hub: Hub) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    reference = hub.pull("blood")
    ref = hub.push(mapped(reference), "lab/blood", message="two new batches")
    assert ref.version == "1.1.0"
    assert hub.history("blood")[0].message == "two new batches"
    lineage = hub.manifest("blood").lineage
    assert (lineage.parent.commit, lineage.parent.digest) == (reference.ref.commit, reference.ref.digest)


@pytest.mark.slow
def test_another_version_moves_what_the_model_added_along(hub: Hub) -> None:
    hub.push(trained("scpoli-two-conditions"), "lab/blood")
    model = mapped(hub.pull("blood"))
    hub.push(model, "lab/blood", version="1.4.0")
    pulled = hub.pull("blood@1.4.0").manifest
    before, after = Vocabulary.of(model.manifest), Vocabulary.of(pulled)
    assert after.conditions == before.conditions
    assert after.conditions["batch"].new == QUERY
    assert (after.combinations, after.reference_combinations) == (before.combinations, before.reference_combinations)
    assert set(pulled.conditions[0].added_in.values()) == {"1.4.0"}


def test_a_taken_version_is_refused_and_the_next_free_one_named(hub: Hub, tmp_path: Path) -> None:
    first = hub.push(release(tmp_path / "one"), REPO)
    hub.push(release(tmp_path / "two", version="1.3.0", title="Described"), REPO)
    other = release(tmp_path / "other", title="Other")
    for version in (None, "1.0.0"):
        with pytest.raises(errors.TransportError, match=r"never changes.*version='1\.4\.0'") as caught:
            hub.push(other, REPO, version=version)
        assert caught.value.ref == first
    assert hub.push(other, REPO, version="1.4.0").version == "1.4.0"


def test_a_version_is_three_numbers(hub: Hub, tmp_path: Path) -> None:
    for version in ("1.0", "v1.0.0", "01.0.0", "1.0.0-rc1", "", "1.0.0\n"):
        with pytest.raises(errors.InvalidInput, match="three numbers"):
            hub.push(release(tmp_path / f"r{version!r}".replace("/", "")), REPO, version=version)


@pytest.mark.slow
def test_of_two_models_of_one_reference_the_second_has_to_follow_the_first(hub: Hub) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    reference = hub.pull("blood")
    ours, theirs = mapped(reference), mapped(reference, SECOND_QUERY)
    head = hub.push(theirs, "lab/blood")
    with pytest.raises(errors.TransportError, match="moved on") as caught:
        hub.push(ours, "lab/blood")
    assert caught.value.ref == head
    with pytest.raises(errors.TransportError, match="moved on"):
        hub.push(ours, "lab/blood", parent="1.0.0", version="2.0.0")
    ref = hub.push(ours, "lab/blood", parent="1.1.0", version="2.0.0")
    assert hub.resolve("blood") == ref


@pytest.mark.slow
def test_a_saved_model_still_knows_what_it_follows(hub: Hub, tmp_path: Path) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    reference = hub.pull("blood")
    saved = mapped(reference).save(tmp_path / "saved")
    hub.push(mapped(reference, SECOND_QUERY), "lab/blood")
    with pytest.raises(errors.TransportError, match="moved on"):
        hub.push(saved, "lab/blood", version="2.0.0")


def test_a_model_from_elsewhere_follows_the_head(hub: Hub, tmp_path: Path) -> None:
    Hub(tmp_path / "elsewhere").push(trained("scpoli"), "lab/blood")
    first = hub.push(release(tmp_path / "release"), "lab/blood")
    hub.push(Hub(tmp_path / "elsewhere").pull("blood"), "lab/blood", version="2.0.0")
    assert [entry.version for entry in hub.history("blood")] == ["2.0.0", "1.0.0"]
    assert hub.resolve("blood@1.0.0") == first


def test_a_parent_of_a_new_repository_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.TransportError, match="no releases yet"):
        hub.push(release(tmp_path / "release"), REPO, parent="0" * 40)


BUMPS = {
    "description": ({"title": "Another"}, "patch"),
    "threshold": ({"genes": examples.fields()["genes"] | {"coverage_warn": 0.9}}, "minor"),
    "genes": ({"genes": examples.fields()["genes"] | {"panel": examples.fields()["genes"]["panel"][::-1]}}, "major"),
    "condition": ({"conditions": [examples.fields()["conditions"][0] | {"categories": ["b", "a"]}]}, "major"),
    "input": ({"input": {"layer": "counts"}}, "major"),
}


@pytest.mark.parametrize(("change", "level"), BUMPS.values(), ids=BUMPS)
def test_what_changed_says_which_part_of_the_version_rises(
    hub: Hub, tmp_path: Path, change: dict[str, object], level: str
) -> None:
    hub.push(release(tmp_path / "old"), REPO)
    smaller = {"patch": [], "minor": ["1.0.1"], "major": ["1.0.1", "1.1.0"]}[level]
    for version in smaller:
        with pytest.raises(errors.InvalidInput, match=f"needs a {level} one") as caught:
            hub.push(release(tmp_path / version, **change), REPO, version=version)
        assert caught.value.facts["needed"] == level
    enough = {"patch": "1.0.1", "minor": "1.1.0", "major": "2.0.0"}[level]
    assert hub.push(release(tmp_path / "new", **change), REPO, version=enough).version == enough


def test_other_weights_are_another_latent_space(hub: Hub, tmp_path: Path) -> None:
    hub.push(release(tmp_path / "old"), REPO)
    with pytest.raises(errors.InvalidInput, match=r"other values.*version='2\.0\.0'"):
        hub.push(release(tmp_path / "new", seed=1), REPO, version="1.1.0")


@pytest.mark.slow
@pytest.mark.parametrize("example", ["scpoli", "scpoli-two-conditions", "scpoli-zinb-batch-norm", "scpoli-mse-no-norm"])
def test_surgery_and_training_need_a_minor_version(tmp_path: Path, example: str) -> None:
    model = trained(example)
    old, new = model.save(tmp_path / "old"), mapped(model).save(tmp_path / "new")
    assert needed(release_folder.read(old), release_folder.read(new))[0] == "minor"
    assert needed(release_folder.read(new), release_folder.read(old))[0] == "major"
    assert needed(release_folder.read(old), release_folder.read(old))[0] == "patch"


# search


def test_search_lists_the_newest_versions(hub: Hub, tmp_path: Path) -> None:
    hub.push(release(tmp_path / "a", title="Blood of people with lupus"), "lab/lupus")
    hub.push(release(tmp_path / "b", title="Blood of people with lupus, corrected"), "lab/lupus", version="1.0.1")
    ref = hub.push(release(tmp_path / "c", title="Lung"), "lab/lung")
    assert [(found.name, found.version) for found in hub.search()] == [("lab/lung", "1.0.0"), ("lab/lupus", "1.0.1")]
    assert [found.version for found in hub.search("lupus", all_versions=True)] == ["1.0.0", "1.0.1"]
    assert [found.name for found in hub.search("BLOOD t cell")] == ["lab/lupus"]
    assert hub.search("zebrafish") == hub.search(kind="scvi") == []
    (lung,) = hub.search("lung", kind="scpoli")
    assert (lung.genes, lung.labels, lung.license, lung.architecture) == (
        4,
        ("T cell", "B cell"),
        "CC-BY-4.0",
        "scpoli",
    )
    assert (lung.commit, lung.digest, lung.hub) == (ref.commit, ref.digest, ref.hub)


def test_search_lists_formats_it_cannot_read(hub: Hub, tmp_path: Path) -> None:
    from hub_client.store.folder.folder_store import FolderStore

    folder = release(tmp_path / "future")
    document = json.loads((folder / "manifest.json").read_text()) | {"schema_version": "9.0", "title": "Future"}
    (folder / "manifest.json").write_text(json.dumps(document))
    FolderStore(tmp_path / "hub", kind="models").commit("lab/future", folder, message="", parent=None)
    assert [found.title for found in hub.search()] == ["Future"]
    with pytest.raises(errors.ManifestError, match="upgrade"):
        hub.pull("future")


def emptied(repository: Path) -> None:
    for path in (repository / "objects").rglob("*/*"):
        path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "objects": emptied,
    "refs": lambda repository: shutil.rmtree(repository / "refs"),
    "branch": lambda repository: (repository / "refs/heads/main").write_text("main\n"),
    "everything": lambda repository: (shutil.rmtree(repository), repository.mkdir()),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_search_leaves_out_what_is_damaged_and_says_so(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    hub.push(release(tmp_path / "a"), "lab/whole")
    hub.push(release(tmp_path / "b"), "lab/torn")
    DAMAGE[what](tmp_path / "hub/models/lab/torn.git")
    assert [found.name for found in hub.search()] == ["lab/whole"]
    assert "lab/torn in " in caplog.text and "is left out" in caplog.text
    assert hub.names() == ["lab/torn", "lab/whole"]
    assert hub.manifest("lab/whole").name == "whole"
    for verb in (hub.manifest, hub.history, lambda name: hub.push(tmp_path / "b", name)):
        with pytest.raises(errors.IntegrityError, match="restore the repository from a copy"):
            verb("lab/torn")


def test_an_empty_hub_is_searched_without_being_made(tmp_path: Path) -> None:
    assert Hub(tmp_path / "hub").search() == []
    assert not (tmp_path / "hub").exists()


# hubs


def test_the_bundled_zoo_is_a_hub_that_takes_no_pushes(tmp_path: Path) -> None:
    bundled = Hub("bundled")
    assert repr(bundled) == "Hub(bundled)"
    assert all("/" not in found.name for found in bundled.search())
    with pytest.raises(errors.TransportError, match="read-only"):
        bundled.push(release(tmp_path / "release"), REPO)


@pytest.mark.parametrize("address", ["s3://bucket", "sftp://lab.example"])
def test_other_kinds_of_hubs_are_named_as_what_is_missing(address: str) -> None:
    with pytest.raises(errors.Unsupported, match="folders"):
        Hub(address)
    with pytest.raises(errors.Unsupported):
        hub_client.search(hub=address)


def test_no_socket_is_opened(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("scpoli")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    hub.push(model, "lab/blood")
    hub.pull("blood")
    hub.search()
    hub.download("blood", tmp_path / "out")
    hub.history("blood")


@pytest.mark.slow
def test_searching_loads_no_torch(tmp_path: Path) -> None:
    Hub(tmp_path / "hub").push(release(tmp_path / "release"), REPO)
    program = (
        "import sys, hub_client.hub.client as client; hub = client.Hub(sys.argv[1]);"
        "assert len(hub.search()) == 1; hub.resolve('tiny-scpoli'); hub.history('tiny-scpoli');"
        "print(sorted({'torch', 'anndata', 'zarr', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "hub")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert ran.stdout.strip() == "[]"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
