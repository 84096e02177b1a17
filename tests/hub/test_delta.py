"""Deltas: a hub keeps what surgery added, and everybody gets the whole release, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from hub_client import errors
from hub_client.hub import delta
from hub_client.hub.client import Hub
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.v1 import Term
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, surgery
from hub_client.models.train import train
from hub_client.release import atlas_file, signing
from hub_client.release import folder as release_folder
from tests.contract.examples import SHORT, trained
from tests.releases import contents, release
from tests.simulated import GENES, QUERY, SECOND_QUERY, cells_for


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "default"))
    return Hub(tmp_path / "hub")


def mapped(reference: Model, batches: tuple[str, ...] = QUERY) -> Model:
    cells = cells_for(reference.manifest, batches, cells=60, seed=1, labelled=False)
    model = surgery(reference, cells)
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    return model


def with_reference(model: Model) -> Model:
    """Return the model with an atlas, which surgery leaves as it is."""
    latent = np.ones((50, model.manifest.axes()["latent"]), np.float32)
    atlas = atlas_file.atlas(latent, conditions={"batch": ["b0"] * 50}, labels={})
    return Model(model.manifest, model.network, atlas=atlas)


def stored(hub: Hub, name: str, folder: Path) -> dict[str, bytes]:
    """Return the files that the hub itself keeps of a release."""
    found = hub._models.find(name)
    return contents(found.source.fetch(found.ref, folder))


@pytest.mark.slow
def test_the_whole_release_comes_back_with_its_digest(hub: Hub, tmp_path: Path) -> None:
    hub.push(with_reference(trained("scpoli")), "lab/blood")
    model = mapped(hub.pull("lab/blood"))
    ref = hub.push(model, "lab/blood", delta=True)
    kept = stored(hub, "lab/blood", tmp_path / "kept")
    assert set(kept) == {"manifest.json", "README.md", "delta.safetensors"}
    whole = hub.download("lab/blood", tmp_path / "whole")
    assert set(contents(whole)) == {
        *("manifest.json", "README.md", "model.safetensors", "reference.zarr.zip"),
        "inherited.json",
    }
    manifest = release_folder.verify(whole)
    assert manifest.digest == ref.digest == hub.resolve("lab/blood@1.1.0").digest
    assert manifest.delta is not None and manifest.delta.inherited == ("inherited.json", "reference.zarr.zip")
    assert len(kept["delta.safetensors"]) < 0.4 * len(contents(whole)["model.safetensors"])
    pulled = hub.pull(f"lab/blood@sha256:{ref.digest}")
    cells = cells_for(pulled.manifest, QUERY, cells=30, labelled=False)
    np.testing.assert_array_equal(embed(pulled, cells), embed(model, cells))
    assert pulled.atlas is not None
    assert hub.push(model, "lab/blood", delta=True) == ref
    assert hub.push(whole, "lab/blood") == ref


@pytest.mark.slow
@pytest.mark.parametrize("example", ["scpoli-two-conditions", "expimap-extensions-hsic", "trvae-zinb-y-batch-norm"])
def test_it_gives_the_same_bytes_for_every_architecture(tmp_path: Path, example: str) -> None:
    parent = trained(example).save(tmp_path / "parent")
    whole = mapped(Model.load(parent)).save(tmp_path / "child")
    kept = delta.stored_form(whole, parent, tmp_path / "kept")
    again = delta.compose(kept, parent, tmp_path / "again")
    assert contents(again)["model.safetensors"] == contents(whole)["model.safetensors"]


@pytest.mark.slow
def test_a_chain_is_composed_across_hubs(hub: Hub, tmp_path: Path) -> None:
    Hub().push(trained("scpoli"), "atlas/blood")
    hub.push(mapped(Hub().pull("atlas/blood")), "lab/first", delta=True)
    second = mapped(hub.pull("lab/first"), SECOND_QUERY)
    ref = hub.push(second, "lab/second", delta=True)
    assert hub.pull("lab/second").manifest.digest == ref.digest
    elsewhere = Hub(tmp_path / "elsewhere")
    mirrored = elsewhere.push(hub.download("lab/first", tmp_path / "first"), "other/first")
    assert mirrored.digest == hub.resolve("lab/first").digest
    assert set(stored(elsewhere, "other/first", tmp_path / "mirror")) == set(stored(hub, "lab/first", tmp_path / "own"))


@pytest.mark.slow
def test_without_its_parent_it_is_not_pulled(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub().push(trained("scpoli"), "atlas/blood")
    hub.push(mapped(Hub().pull("atlas/blood")), "lab/first", delta=True)
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "empty"))
    with pytest.raises(errors.NotFound, match=r"the parent atlas/blood@1\.0\.0 .*in none of the hubs"):
        hub.pull("lab/first")
    with pytest.raises(errors.NotFound, match="the parent"):
        hub.download("lab/first", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_changed_byte_in_either_part_is_refused(tmp_path: Path) -> None:
    parent = trained("scpoli").save(tmp_path / "parent")
    kept = delta.stored_form(mapped(Model.load(parent)).save(tmp_path / "child"), parent, tmp_path / "kept")
    for name in ("README.md", "delta.safetensors"):
        whole = (kept / name).read_bytes()
        (kept / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(errors.IntegrityError):
            delta.compose(kept, parent, tmp_path / f"broken-{name}")
        (kept / name).write_bytes(whole)
    other = Model.build(trained("scpoli").manifest, seed=3).save(tmp_path / "other")
    with pytest.raises(errors.IntegrityError, match="was grown from"):
        delta.compose(kept, other, tmp_path / "of-another")
    assert delta.verify(kept).delta
    (kept / "delta.safetensors").write_bytes(b"x")
    with pytest.raises(errors.IntegrityError, match=r"delta\.safetensors has another sha256"):
        delta.verify(kept)


@pytest.mark.slow
def test_only_what_grew_is_kept_as_a_delta(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="names no parent"):
        hub.push(trained("scpoli"), "lab/blood", delta=True)
    hub.push(trained("scpoli"), "lab/blood")
    model = mapped(hub.pull("lab/blood"))
    tensors = model.network.tensors()
    tensors["encoder.mean.bias"] += 1
    model.network.load(tensors)
    with pytest.raises(errors.InvalidInput, match=r"encoder\.mean\.bias has other values.*whole"):
        hub.push(model, "lab/blood", version="2.0.0", delta=True)


@pytest.mark.slow
def test_surgery_on_a_delta_is_a_release_of_its_own(hub: Hub) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    hub.push(mapped(hub.pull("lab/blood")), "lab/blood", delta=True)
    grown = mapped(hub.pull("lab/blood"), SECOND_QUERY)
    assert grown.manifest.delta is None
    hub.push(grown, "lab/blood")
    assert hub.pull("lab/blood").manifest.delta is None


def test_a_delta_needs_a_parent_in_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"delta needs lineage\.parent"):
        release(tmp_path / "orphan", delta={"size": 1, "sha256": "0" * 64})


@pytest.mark.slow
def test_a_whole_copy_of_a_delta_is_bundled_by_its_name(hub: Hub, tmp_path: Path) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    hub.push(mapped(hub.pull("lab/blood")), "lab/blood", delta=True)
    whole = hub.download("lab/blood", tmp_path / "whole")
    with pytest.raises(errors.InvalidInput, match="by its name in a hub"):
        hub.bundle(whole, tmp_path / "whole.tar")
    assert not (tmp_path / "whole.tar").exists()
    assert hub.bundle("lab/blood", tmp_path / "delta.tar").stat().st_size < 60_000


# --- what the manifest of a delta leaves to an earlier one -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("example", ["scpoli", "expimap", "totalvi"])
def test_the_manifest_of_a_delta_repeats_no_genes_tensors_or_terms(tmp_path: Path, example: str) -> None:
    parent = trained(example).save(tmp_path / "parent")
    whole = mapped(Model.load(parent)).save(tmp_path / "child")
    kept = delta.stored_form(whole, parent, tmp_path / "kept")
    stated = json.loads((kept / "manifest.json").read_bytes())
    assert not any(stated.get(name) for name in ("genes", "terms", "tensors"))
    grown, reference = release_folder.verify(whole), release_folder.verify(parent)
    counts = {"genes": len(GENES), "tensors": len(reference.tensors), "terms": len(reference.terms)}
    assert stated["delta"]["inherits"] == {name: count for name, count in counts.items() if count}
    again = delta.compose(kept, parent, tmp_path / "again")
    assert contents(again)["inherited.json"] == contents(parent)["manifest.json"]
    found = release_folder.verify(again)
    assert (found.genes, found.terms, found.tensors) == (grown.genes, grown.terms, grown.tensors)
    assert found.digest == hashlib.sha256((kept / "manifest.json").read_bytes()).hexdigest()
    kept_again = delta.stored_form(again, parent, tmp_path / "kept-again")
    assert contents(kept_again) == contents(kept)
    pulled = Model.load(again)
    assert contents(pulled.save(tmp_path / "saved")) == contents(again)
    pulled.manifest = pulled.manifest.changed(lineage=None, delta=None)
    standing = json.loads((pulled.save(tmp_path / "standing") / "manifest.json").read_bytes())
    assert len(standing["genes"]["panel"]) == len(GENES), "what is a delta no longer states everything"


@pytest.mark.slow
def test_terms_that_surgery_added_stand_behind_those_inherited(tmp_path: Path) -> None:
    parent = trained("expimap").save(tmp_path / "parent")
    reference = Model.load(parent)
    cells = cells_for(reference.manifest, QUERY, cells=60, seed=1, labelled=False)
    own = Term(id="Q:1", name="a program of the query", genes=GENES[:9])
    model = surgery(reference, cells, extensions=Extensions(constrained=[own], unconstrained=1))
    whole = model.save(tmp_path / "child")
    kept = delta.stored_form(whole, parent, tmp_path / "kept")
    stated = json.loads((kept / "manifest.json").read_bytes())
    assert [term["id"] for term in stated["terms"]] == ["Q:1", "unconstrained_0"]
    assert stated["terms"][0]["genes"] == [*GENES[:9]]
    assert release_folder.verify(delta.compose(kept, parent, tmp_path / "again")).terms == model.manifest.terms


@pytest.mark.slow
def test_every_verb_knows_what_a_delta_inherits(hub: Hub, tmp_path: Path) -> None:
    hub.push(trained("scpoli"), "lab/blood")
    first = mapped(hub.pull("lab/blood"))
    hub.push(first, "lab/blood", delta=True)
    second = mapped(hub.pull("lab/blood"), SECOND_QUERY)
    shown = hub.preview(second, "lab/blood", delta=True)
    assert not {"genes", "tensors"} & {change.field for change in shown.fields}
    ref = hub.push(second, "lab/blood", delta=True)
    assert [one.genes for one in hub.search("blood", all_versions=True)] == [len(GENES)] * 3
    described = hub.manifest("lab/blood@1.2.0")
    assert described.genes == first.manifest.genes and described.digest == ref.digest
    assert [step.version for step in hub.lineage("lab/blood")] == ["1.2.0", "1.1.0", "1.0.0"]
    folder = hub.download("lab/blood", tmp_path / "whole")
    root = hub.download("lab/blood@1.0.0", tmp_path / "root")
    assert contents(folder)["inherited.json"] == contents(root)["manifest.json"], "a chain inherits from its root"
    assert hub.manifest(folder) == described
    assert hub.push(folder, "other/blood").digest == ref.digest


@pytest.mark.slow
def test_a_manifest_that_inherits_is_read_with_what_it_inherits_only(tmp_path: Path) -> None:
    parent = trained("scpoli").save(tmp_path / "parent")
    kept = delta.stored_form(mapped(Model.load(parent)).save(tmp_path / "child"), parent, tmp_path / "kept")
    document, earlier = (kept / "manifest.json").read_bytes(), (parent / "manifest.json").read_bytes()
    with pytest.raises(errors.ManifestError, match="whose genes, tensors are those of an earlier release: pull"):
        read_manifest(document, source="it")
    fields = json.loads(document)
    for changes, message in (
        ({"genes": json.loads(earlier)["genes"]}, "states the genes that it inherits"),
        ({"delta": fields["delta"] | {"inherits": {"genes": 61}}}, "61 entries of genes, which the earlier manifest"),
        ({"delta": fields["delta"] | {"inherits": {"tensors": 999}}}, "999 entries of tensors"),
        ({"delta": fields["delta"] | {"inherits": {"genes": 60, "labels": 1}}}, "inherits.labels"),
    ):
        with pytest.raises(errors.ManifestError, match=message):
            read_manifest(json.dumps(fields | changes).encode(), source="it", inherited=earlier)
    again = delta.compose(kept, parent, tmp_path / "again")
    (again / "inherited.json").write_bytes(earlier.replace(b'"g1"', b'"G1"'))
    with pytest.raises(errors.IntegrityError, match=r"inherited\.json has another sha256"):
        release_folder.verify(again)
    with pytest.raises(errors.IntegrityError, match=r"inherited\.json has another sha256"):
        Hub(tmp_path / "hub").manifest(again)


@pytest.mark.slow
def test_a_signed_delta_inherits_too(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    signing.new_key(key)
    hub = Hub(tmp_path / "hub")
    hub.push(trained("scpoli"), "lab/blood")
    signer = signing.Signer(publisher="My lab", key=key)
    ref = hub.push(mapped(hub.pull("lab/blood")), "lab/blood", delta=True, signer=signer)
    folder = hub.download("lab/blood", tmp_path / "whole")
    assert signing.check((folder / "manifest.json").read_bytes(), source="it")
    assert release_folder.verify(folder).digest == ref.digest
    assert "inherited.json" in contents(folder)


KEPT = Path(__file__).parents[1] / "manifests" / "delta-1.0"


@pytest.mark.slow
def test_a_delta_of_format_1_0_is_composed_and_kept_as_it_was(tmp_path: Path) -> None:
    """A parent and its delta as archzoo wrote them before manifests could inherit: digests and weights stay theirs."""
    whole = delta.compose(KEPT / "stored", KEPT / "parent", tmp_path / "whole")
    manifest = release_folder.verify(whole)
    assert manifest.digest == "7c2c6b7d6238a7b0531bffead7b2e7788b3551a1727301353e94050ffd7b4df4"
    weights = hashlib.sha256(contents(whole)["model.safetensors"]).hexdigest()
    assert weights == "44e9d744a7e57a05854f9344bbee0691c8624cf07fea1ce106be600a8be33cea"
    assert manifest.terms[0].genes == GENES[:10]
    assert contents(delta.stored_form(whole, KEPT / "parent", tmp_path / "kept")) == contents(KEPT / "stored")
    grown = mapped(Model.load(whole), SECOND_QUERY)
    kept = delta.stored_form(grown.save(tmp_path / "grown"), whole, tmp_path / "grown-kept")
    assert "genes" not in json.loads((kept / "manifest.json").read_bytes())
    assert release_folder.verify(delta.compose(kept, whole, tmp_path / "again")).terms == manifest.terms
