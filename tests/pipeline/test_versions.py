"""One reference through three labs: published, grown, locked, carried offline, verified and replayed; and attacked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import pytest

import hub_client
from hub_client import errors
from hub_client.checks.verify import with_test_vectors
from hub_client.hub.claims import check_claims
from hub_client.hub.client import Hub
from hub_client.hub.lock import lock, locked
from hub_client.manifest import Plan
from hub_client.manifest.receipts import read_receipt
from hub_client.mapping.map_query import Mapping
from hub_client.mapping.replay import replay
from hub_client.models.model import Model
from hub_client.store.cache.downloads import Cache
from hub_client.store.network import bundles
from tests import simulated, warm
from tests.releases import contents

ROOT = Path(__file__).parents[2]
REPO = "lab-a/blood"
PLAN = Plan(epochs=3)
MAPPING: dict[str, Any] = {"conditions": {"batch": "batch"}, "plan": PLAN, "accelerator": "cpu", "progress": False}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def query() -> anndata.AnnData:
    return simulated.counts(simulated.QUERY, cells=80)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Lab A's hub, with its reference as 1.0.0."""
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "nowhere"))
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    model = Model.build(simulated.manifest())
    cells = simulated.cells_for(model.manifest)
    hub_client.train(model, cells, plan=PLAN, progress=False, accelerator="cpu")
    hub = Hub(tmp_path / "hub")
    hub.push(with_test_vectors(model, cells), REPO)
    return hub


@pytest.fixture
def mapping(hub: Hub, query: anndata.AnnData) -> Mapping:
    """Lab B's mapping, on the reference pulled by its digest, and published as a delta."""
    reference = hub.pull(f"{REPO}@sha256:{hub.resolve(REPO).digest}")
    mapping = hub_client.map_query(query, reference, **MAPPING)
    assert hub.push(mapping.model, REPO, delta=True).version == "1.1.0"
    return mapping


def test_the_story(
    hub: Hub, mapping: Mapping, query: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hub._models.find(REPO)
    kept = contents(found.source.fetch(found.ref, tmp_path / "kept"))
    assert len(kept["delta.safetensors"]) < 10_000 and "model.safetensors" not in kept
    pinned = lock([REPO], hub)
    for version in ("1.0.0", "1.1.0"):
        hub.bundle(f"{REPO}@{version}", tmp_path / f"{version}.tar")

    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "offline"))
    monkeypatch.setenv("ARCHZOO_OFFLINE", "1")
    for version in ("1.0.0", "1.1.0"):
        bundles.BundleFile(tmp_path / f"{version}.tar", "models").keep(Cache.default())
    offline = Hub()
    name = locked(REPO, pinned, offline)
    assert offline.pull(name).manifest.digest == hub.resolve(REPO).digest
    assert [claim.holds for claim in check_claims(name, hub=offline)] == [True] * 4
    receipt = read_receipt(mapping.receipt.to_bytes(), source="receipt.json")
    again = replay(receipt, query, hub=offline, progress=False)
    assert again.same
    assert again.receipt is not None and again.receipt.result_digest == receipt.result_digest
    assert [step.version for step in offline.lineage(REPO)] == ["1.1.0", "1.0.0"]


def test_a_byte_changed_anywhere_is_refused(hub: Hub, mapping: Mapping, tmp_path: Path) -> None:
    pushed = [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.suffix != ".lock"]
    large = [path for path in pushed if "lfs" in path.parts]
    objects = [path for path in pushed if "objects" in path.parts and "lfs" not in path.parts]
    assert len(large) >= 2 and len(objects) >= 6
    for path in [*large, *objects]:
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused = []
        for version in ("1.0.0", "1.1.0"):
            try:
                hub.pull(f"{REPO}@{version}")
            except (errors.IntegrityError, errors.NotFound) as error:
                refused.append(error)
        assert refused, path
        path.write_bytes(whole)
    assert hub.pull(REPO).manifest.version == "1.1.0"


def test_a_moved_tag_is_refused(hub: Hub, mapping: Mapping, tmp_path: Path) -> None:
    pinned = lock([f"{REPO}@1.0.0"], hub)
    tags = tmp_path / "hub" / "models" / f"{REPO}.git" / "refs" / "tags"
    (tags / "1.0.0").write_text((tags / "1.1.0").read_text())
    with pytest.raises(errors.IntegrityError, match="not what the lock file says"):
        locked(REPO, pinned, hub)


def test_too_small_a_step_is_refused(hub: Hub, mapping: Mapping) -> None:
    smaller = mapping.model
    with pytest.raises(errors.InvalidInput, match="needs a minor one") as caught:
        hub.push(smaller, REPO, version="1.0.1", parent="1.1.0")
    assert caught.value.facts["needed"] == "minor"
    moved = hub.pull(REPO)
    tensors = moved.network.tensors()
    tensors["theta.rows"] += 1e-6
    moved.network.load(tensors)
    moved = Model(moved.manifest.changed(test_vectors=None, tensors=()), moved.network)
    with pytest.raises(errors.InvalidInput, match="needs a major one"):
        hub.push(moved, REPO, version="1.2.0")


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "title": lambda fields: fields.update(title="Another"),
    "labels": lambda fields: fields["labels"][0]["categories"].reverse(),
    "sizes": lambda fields: fields["files"][0].update(size=1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_is_refused(hub: Hub, tmp_path: Path, edit: str) -> None:
    ref = hub.resolve(REPO)
    folder = hub.download(REPO, tmp_path / "edited")
    fields = json.loads((folder / "manifest.json").read_text())
    EDITS[edit](fields)
    (folder / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises((errors.TransportError, errors.IntegrityError, errors.InvalidInput)):
        hub.push(folder, REPO)
    assert hub.resolve(REPO) == ref
    pinned = lock([REPO], hub)
    forged = Hub(tmp_path / "forged")
    with pytest.raises((errors.IntegrityError, errors.NotFound)):
        forged.push(folder, REPO)
        locked(REPO, pinned, forged)


def test_the_page_runs_as_it_is_written(tmp_path: Path) -> None:
    """The commands of docs/versions.md, in one shell that stops at the first that fails."""
    page = (ROOT / "docs" / "versions.md").read_text()
    commands = "".join(re.findall(r"```sh\n(.*?)```\n", page, flags=re.DOTALL))
    named = {name: value for name, value in os.environ.items() if not name.startswith("ARCHZOO")}
    path = os.pathsep.join(map(str, [warm.archzoo().parent, Path(sys.executable).parent, os.environ["PATH"]]))
    environment = named | {"PATH": path, "PYTHONPATH": str(ROOT), "ARCHZOO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for expected in ("test cells did not move", "reproduces", "latents and labels are the same"):
        assert expected in done.stdout
    assert (tmp_path / "blood-1.1.0" / "model.safetensors").exists()
    assert "sha256:" in (tmp_path / "references.bib").read_text()
