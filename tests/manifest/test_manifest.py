from __future__ import annotations

import difflib
import hashlib
import json
import subprocess
import sys
import tomllib
from inspect import isabstract
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hub_client import errors
from hub_client.manifest import configs, v1
from hub_client.manifest.configs import CONFIGS
from hub_client.manifest.inputs import Gene
from hub_client.manifest.migrations import from_0_9, from_1_0
from hub_client.manifest.publishing import NEEDED, publishing_problems
from hub_client.manifest.reading import MAX_BYTES, read_manifest
from hub_client.manifest.schema import SCHEMAS, schema, text
from hub_client.manifest.v1 import Manifest
from tests import examples

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parents[1] / "manifests"
DOCUMENTED = {
    "trvae": {
        "hidden_layer_sizes": "hidden",
        "latent_dim": "latent",
        "dr_rate": "dropout",
        "use_mmd": "mmd",
        "mmd_on": "mmd_on",
        "mmd_boundary": "mmd_boundary",
        "recon_loss": "likelihood",
        "beta": "mmd_weight",
        "use_bn": "normalization",
        "use_ln": "normalization",
    },
    "expimap": {
        "hidden_layer_sizes": "hidden",
        "dr_rate": "dropout",
        "recon_loss": "likelihood",
        "use_l_encoder": "library_encoder",
        "use_bn": "normalization",
        "use_ln": "normalization",
        "decoder_last_layer": "last_layer",
        "soft_mask": "soft_mask",
        "n_ext": "unconstrained_extensions",
        "n_ext_m": "constrained_extensions",
        "use_hsic": "hsic",
        "hsic_one_vs_all": "hsic_one_vs_all",
        "soft_ext_mask": "soft_extension_mask",
    },
    "scvi": {
        "n_hidden": "hidden",
        "n_latent": "latent",
        "n_layers": "layers",
        "dropout_rate": "dropout",
        "dispersion": "dispersion",
        "gene_likelihood": "likelihood",
        "latent_distribution": "latent_distribution",
    },
    "scanvi": {
        "n_hidden": "hidden",
        "n_latent": "latent",
        "n_layers": "layers",
        "dropout_rate": "dropout",
        "dispersion": "dispersion",
        "gene_likelihood": "likelihood",
        "linear_classifier": "linear_classifier",
    },
    "totalvi": {
        "n_latent": "latent",
        "gene_dispersion": "gene_dispersion",
        "protein_dispersion": "protein_dispersion",
        "gene_likelihood": "gene_likelihood",
        "latent_distribution": "latent_distribution",
        "empirical_protein_background_prior": "empirical_protein_background_prior",
    },
}
"""Documented constructor argument to the config field that holds it."""
ELSEWHERE = {
    "conditions": "conditions",
    "condition_key": "conditions",
    "mask": "terms",
    "mask_key": "terms",
    "ext_mask": "terms",
    "override_missing_proteins": "proteins",
}
"""Documented constructor argument to the manifest field that holds it."""
API_NAMES = {"TRVAE": "trvae", "EXPIMAP": "expimap", "SCVI": "scvi", "SCANVI": "scanvi", "TOTALVI": "totalvi"}


def encoded(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def problem(**overrides: Any) -> str:
    with pytest.raises(errors.ManifestError) as caught:
        read_manifest(encoded(examples.fields() | overrides), source="example.json")
    assert caught.value.path == "example.json"
    assert caught.value.problems
    return "\n".join(caught.value.problems)


# --- the six kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", examples.KINDS)
def test_every_kind_survives_writing_and_reading(kind: str) -> None:
    manifest = examples.of_kind(kind)
    again = read_manifest(manifest.to_bytes(), source="example")
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()
    assert again.digest == manifest.digest == hashlib.sha256(manifest.to_bytes()).hexdigest()


def leaves(model: BaseModel) -> list[tuple[type[BaseModel], str]]:
    """Return each field that is set, in this record and those inside it."""
    found = [(type(model), name) for name in model.model_fields_set]
    for value in model.__dict__.values():
        parts = value if isinstance(value, tuple) else (value,)
        found += [leaf for part in parts if isinstance(part, BaseModel) for leaf in leaves(part)]
    return found


def records(module: Any) -> set[type[BaseModel]]:
    return {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, v1.Frozen) and value.__module__ == module.__name__
    }


def test_examples_fill_every_field_of_the_format() -> None:
    filled = {leaf for kind in examples.KINDS for leaf in leaves(examples.of_kind(kind))}
    public = [record for record in records(v1) | records(configs) if not isabstract(record)]
    fields = {(record, name) for record in public for name in record.model_fields}
    files = {(v1.FileSpec, name) for name in v1.FileSpec.model_fields} | {(Manifest, "files")}
    assert {f"{record.__name__}.{name}" for record, name in fields - filled - files} == set()


def test_example_and_config_union_hold_the_same_kinds() -> None:
    assert set(examples.KINDS) == set(CONFIGS)
    mapping = schema("manifest-1.1.json")["properties"]["architecture"]["discriminator"]["mapping"]
    assert set(mapping) == set(CONFIGS)


@pytest.mark.parametrize("name", API_NAMES)
def test_every_documented_hyperparameter_has_its_field(name: str) -> None:
    contract = ROOT.parent / "shared" / "contract" / "documented_api.json"
    if not contract.exists():
        pytest.skip("needs the development file shared/contract/documented_api.json, which is not here")
    documented = set(json.loads(contract.read_text())[name]["init"]) - {"adata", "**kwargs", "**model_kwargs"}
    kind = API_NAMES[name]
    assert documented - DOCUMENTED[kind].keys() - ELSEWHERE.keys() == set()
    assert set(DOCUMENTED[kind].values()) <= set(CONFIGS[kind].model_fields)
    assert set(ELSEWHERE.values()) <= set(Manifest.model_fields)


# --- canonical bytes ----------------------------------------------------------------------------------------------


def shuffled(value: Any, random: Random) -> Any:
    if isinstance(value, dict):
        keys = random.sample(list(value), len(value))
        return {key: shuffled(value[key], random) for key in keys}
    return [shuffled(item, random) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=50)
@given(random=st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(random: Random) -> None:
    manifest = examples.of_kind("scpoli")
    other = Manifest.model_validate(shuffled(manifest.model_dump(mode="json"), random))
    assert other.digest == manifest.digest


def test_bytes_are_canonical() -> None:
    written = examples.manifest(title="Cellules dendritiques été").to_bytes()
    assert written.endswith(b"}\n")
    assert "été".encode() in written
    keys = list(json.loads(written))
    assert keys == sorted(keys)


def test_a_change_of_one_field_changes_the_digest() -> None:
    manifest = examples.manifest()
    assert manifest.changed(title="Another").digest != manifest.digest
    assert manifest.changed(title=manifest.title).digest == manifest.digest


def test_digest_is_that_of_the_file_however_it_was_formatted() -> None:
    loose = json.dumps(examples.fields(), indent=7).encode()
    manifest = read_manifest(loose, source="loose")
    assert manifest.digest == hashlib.sha256(loose).hexdigest()
    changed = manifest.model_copy(update={"title": "Another"})
    assert changed.digest == hashlib.sha256(changed.to_bytes()).hexdigest()


def test_a_change_is_validated() -> None:
    with pytest.raises(errors.ManifestError, match=r"version"):
        examples.manifest().changed(version="one")
    with pytest.raises(errors.ManifestError, match=r"colour"):
        examples.manifest().changed(colour="blue")


# --- reading other versions ---------------------------------------------------------------------------------------


def test_the_0_9_draft_is_migrated_in_memory() -> None:
    data = (KEPT / "0.9.json").read_bytes()
    manifest = read_manifest(data, source="0.9.json")
    assert manifest.schema_version == v1.SCHEMA_VERSION
    assert manifest.genes.names == ("GAPDH", "EEF1A1", "CD4", "CD8A")
    assert (manifest.license, manifest.data_license) == ("CC-BY-4.0", "CC0-1.0")
    assert manifest.digest == hashlib.sha256(data).hexdigest()
    assert read_manifest(manifest.to_bytes(), source="migrated") == manifest


FROZEN = {
    "1.0-expimap.json": "49da4d1bf328686c66c5fcac2c1ac86fb7fc9846c8a070e60e359f04e87ab773",
    "1.0-trvae.json": "946edec915577e237acf6286dea67ce46dbec12d82001136f115710c56861fce",
    "1.0-totalvi.json": "edbab48eb3fa4a2ec16749863357992f212abf7f403ac5f92f0746d15db38896",
}
"""Manifests that archzoo wrote in format 1.0, and their sha256."""


@pytest.mark.parametrize("name", FROZEN)
def test_format_1_0_is_migrated_in_memory_and_stays_the_release_it_was(name: str) -> None:
    data = (KEPT / name).read_bytes()
    manifest = read_manifest(data, source=name)
    assert manifest.schema_version == v1.SCHEMA_VERSION
    assert manifest.as_read and manifest.to_bytes() == data
    assert manifest.digest == FROZEN[name]
    assert manifest.changed(title=manifest.title).to_bytes() == data
    other = manifest.changed(title="Another")
    assert json.loads(other.to_bytes())["schema_version"] == v1.SCHEMA_VERSION
    assert read_manifest(other.to_bytes(), source="other").changed(title=manifest.title) == manifest


def test_positions_of_format_1_0_become_names() -> None:
    expimap = read_manifest((KEPT / "1.0-expimap.json").read_bytes(), source="1.0-expimap.json")
    assert [term.genes for term in expimap.terms] == [("GAPDH", "CD4"), ("EEF1A1",), ()]
    assert json.loads((KEPT / "1.0-expimap.json").read_bytes())["terms"][0]["genes"] == [0, 2]
    totalvi = read_manifest((KEPT / "1.0-totalvi.json").read_bytes(), source="1.0-totalvi.json")
    assert totalvi.proteins is not None and totalvi.proteins.measured == {"b": ("CD3",)}


def test_genes_of_a_panel_of_ids_are_named_by_ids() -> None:
    old = json.loads((KEPT / "1.0-expimap.json").read_bytes())
    old["genes"]["id_type"] = "ensembl"
    assert Manifest.model_validate(old).terms[0].genes == ("ENSG00000111640", "ENSG00000010610")


@pytest.mark.parametrize(
    ("genes", "problem"),
    [
        ([4], "term 'R-HSA-1' names genes that are not of the panel: ['position 4']"),
        ([0, -1], "term 'R-HSA-1' names genes that are not of the panel: ['position -1']"),
        ([True], "terms.0.genes.0: Input should be a valid string"),
        ([0, 1.0], "terms.0.genes.1: Input should be a valid string"),
    ],
)
def test_positions_that_are_none_are_refused(genes: list[object], problem: str) -> None:
    old = json.loads((KEPT / "1.0-expimap.json").read_bytes())
    old["terms"][0]["genes"] = genes
    with pytest.raises(errors.ManifestError, match=r"is not a valid manifest of format 1\.0:") as caught:
        read_manifest(encoded(old), source="old.json")
    assert problem in str(caught.value)


def test_a_gene_more_in_the_panel_changes_no_mask() -> None:
    """In format 1.0 every number behind the new gene changed."""
    before = examples.of_kind("expimap")
    panel = (Gene(symbol="A1BG"), *before.genes.panel)
    after = before.changed(genes=before.genes.model_copy(update={"panel": panel}))
    old, new = (manifest.to_bytes().decode().splitlines() for manifest in (before, after))
    differing = [line for line in difflib.ndiff(old, new) if line[0] in "+-"]
    assert differing and all(line[0] == "+" for line in differing) and len(differing) == 4


def test_the_schema_of_format_1_0_is_frozen() -> None:
    schema_1_0 = (ROOT / "schemas" / "manifest-1.0.json").read_bytes()
    assert hashlib.sha256(schema_1_0).hexdigest() == "f57b8c0ec0aa06f1477ed3d650b4fe0576eee426da4cd67c526ad2cbc50d53f3"
    validator = jsonschema.Draft202012Validator(json.loads(schema_1_0))
    for name in FROZEN:
        validator.validate(json.loads((KEPT / name).read_bytes()))


def test_migration_is_pure() -> None:
    draft = json.loads((KEPT / "0.9.json").read_bytes())
    kept = json.dumps(draft)
    first = from_0_9(draft)
    assert json.dumps(draft) == kept
    assert from_0_9(draft) == first
    old = json.loads((KEPT / "1.0-expimap.json").read_bytes())
    kept = json.dumps(old)
    assert from_1_0(old) == from_1_0(json.loads(kept)) and json.dumps(old) == kept


def test_a_malformed_draft_is_a_manifest_error() -> None:
    draft = json.loads((KEPT / "0.9.json").read_bytes())
    with pytest.raises(errors.ManifestError, match=r"genes\.panel\.1\.symbol"):
        read_manifest(encoded(draft | {"genes": ["GAPDH", 7]}), source="draft")
    with pytest.raises(errors.ManifestError, match="genes"):
        read_manifest(encoded(draft | {"genes": "GAPDH"}), source="draft")


def test_a_newer_minor_loads_with_its_unknown_keys_and_cannot_be_saved_again() -> None:
    data = (KEPT / "1.3.json").read_bytes()
    manifest = read_manifest(data, source="1.3.json")
    assert manifest.schema_version == "1.3"
    assert manifest.unknown == {
        "funding": ["a grant"],
        "architecture.attention": {"heads": 4},
        "genes.panel.1.strand": -1,
        "conditions.0.colour": "teal",
        "conditions.0.encoding.sparse": True,
    }
    assert manifest.digest == hashlib.sha256(data).hexdigest()
    for attempt in (manifest, manifest.changed(title="Another"), manifest.model_copy(update={"title": "Another"})):
        with pytest.raises(errors.ManifestError, match=r"upgrade to an archzoo that writes 1\.3"):
            attempt.to_bytes()


def test_a_newer_minor_must_still_be_valid() -> None:
    newer = json.loads((KEPT / "1.3.json").read_bytes())
    with pytest.raises(errors.ManifestError, match=r"version"):
        read_manifest(encoded(newer | {"version": "one"}), source="1.3.json")


NEWER = {
    "a kind of architecture": ({"architecture": {"kind": "linear", "rank": 3}}, "architecture: unknown kind 'linear'"),
    "a kind of encoding": (
        {"conditions": [examples.fields()["conditions"][0] | {"encoding": {"kind": "spline"}}]},
        "conditions.0.encoding: unknown kind 'spline'; known are 'one-hot', 'embedding'",
    ),
    "a value": ({"suspension_type": "organoid"}, "suspension_type: unknown value 'organoid'; known are 'cell'"),
    "a label rule": (
        {"trust": {"calibrations": [{"level": "cell_type", "temperature": 1, "transfer": "cosine"}]}},
        "trust.calibrations.0.transfer: unknown value 'cosine'; known are 'prototypes'",
    ),
}


@pytest.mark.parametrize("what", NEWER)
def test_what_a_newer_minor_added_needs_a_newer_archzoo(what: str) -> None:
    changes, line = NEWER[what]
    newer = json.loads((KEPT / "1.3.json").read_bytes()) | changes
    with pytest.raises(errors.ManifestError, match=r"is of format 1\.3 and needs a newer archzoo") as caught:
        read_manifest(encoded(newer), source="1.3.json")
    assert "reads format 1.1 and not what is listed below. Install one that reads format 1.3: pip" in str(caught.value)
    (problem,) = caught.value.problems
    assert problem.startswith(line)
    with pytest.raises(errors.ManifestError, match=r"is not a valid manifest of format 1\.0:"):
        read_manifest(encoded(newer | {"schema_version": "1.0"}), source="1.0.json")


@pytest.mark.parametrize(
    ("recorded", "wanted"),
    [
        ("9.2.0", 'Install 9.2.0, which trained it, or newer: pip install --upgrade "archzoo>=9.2.0".'),
        ("0.0.1", "Install one that reads format 1.3: pip install --upgrade archzoo."),
        ("9.0; rm", "Install one that reads format 1.3: pip install --upgrade archzoo."),
        (["9.2.0"], "Install one that reads format 1.3: pip install --upgrade archzoo."),
    ],
)
def test_the_archzoo_that_trained_a_newer_manifest_is_named(recorded: object, wanted: str) -> None:
    newer = json.loads((KEPT / "1.3.json").read_bytes()) | {"architecture": {"kind": "linear"}}
    with pytest.raises(errors.ManifestError) as caught:
        read_manifest(encoded(newer | {"training": {"versions": {"archzoo": recorded}}}), source="1.3.json")
    assert wanted in str(caught.value)


def test_a_newer_major_is_refused_by_name() -> None:
    with pytest.raises(errors.ManifestError, match=r"format 2\.0.*newer archzoo") as caught:
        read_manifest((KEPT / "2.0.json").read_bytes(), source="2.0.json")
    assert caught.value.path == "2.0.json"


@pytest.mark.parametrize("version", [None, 1.0, "1", "1.x", "", "0.3", "1.0.0"])
def test_a_version_that_is_none_is_refused(version: object) -> None:
    with pytest.raises(errors.ManifestError, match=r"format|schema_version"):
        read_manifest(encoded(examples.fields() | {"schema_version": version}), source="example")


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\x80abc", "not UTF-8"),
        (b"{", "line 1, column 2"),
        (b"[]", "list, not an object"),
        (b'{"name": "a", "name": "b"}', "repeats the key 'name'"),
        (b'{"extensions": {"x-a": {"b": 1, "b": 2}}}', "repeats the key 'b'"),
        (b'{"value": NaN}', "NaN"),
        (b'{"value": -Infinity}', "-Infinity"),
        (b'{"value": 1e999}', "1e999"),
        (b'{"value": ' + b"1" * 5000 + b"}", "4300"),
        (b"[" * 200_000, "nests too deeply"),
        (b'{"title": "\\ud800"}', "half a character"),
        (b" " * (MAX_BYTES + 1), "larger than"),
    ],
    ids=lambda value: str(value[:12]) if isinstance(value, bytes) else None,
)
def test_what_is_no_proper_json_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(errors.ManifestError, match=message) as caught:
        read_manifest(data, source="bad.json")
    assert caught.value.path == "bad.json"
    assert str(caught.value).startswith("bad.json ")


@pytest.mark.parametrize(
    ("overrides", "place", "meant"),
    [
        ({"licence": "MIT"}, "licence", "license"),
        ({"architecture": {"kind": "scpoli", "latent_dim": 3}}, "architecture.scpoli.latent_dim", "latent"),
        ({"input": {"size_factors": "total"}}, "input.size_factors", "size_factor"),
        ({"training": {"plan": {"epoch": 3}}}, "training.plan.epoch", "epochs"),
    ],
)
def test_an_unknown_key_is_named_with_what_may_have_been_meant(
    overrides: dict[str, Any], place: str, meant: str
) -> None:
    (line,) = problem(**overrides).splitlines()
    assert line.startswith(f"{place}: not a key of this format (did you mean ")
    assert meant in line.partition("did you mean")[2]


def test_an_unknown_key_like_no_other_is_named_alone() -> None:
    assert problem(zzzzzz=1) == "zzzzzz: not a key of this format"


def test_problems_name_their_place() -> None:
    wrong = [{"key": "batch", "categories": [], "encoding": {"kind": "embedding"}}]
    assert problem(conditions=wrong).startswith("conditions.0.categories: ")


SCVI = {"kind": "scvi", "hidden": 5, "latent": 3}
CONDITION = examples.fields()["conditions"][0]
TENSORS = examples.fields()["tensors"]
LABEL = examples.fields()["labels"][0]
PANEL = examples.fields()["genes"]["panel"]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "gene twice": ({"genes": {"id_type": "symbol", "panel": [*PANEL, PANEL[0]]}}, "gene names must be unique"),
    "gene without its name": ({"genes": {"id_type": "ensembl", "panel": [{"symbol": "CD4"}]}}, "ensembl name"),
    "gene id of another kind": ({"genes": {"id_type": "ensembl", "panel": [{"id": "7157"}]}}, "genes.panel.0.id"),
    "coverage upside down": (
        {"genes": {"id_type": "symbol", "panel": PANEL, "coverage_warn": 0.4, "coverage_refuse": 0.5}},
        "coverage_refuse",
    ),
    "mean without means": ({"genes": {"id_type": "symbol", "panel": PANEL, "missing": "mean"}}, "gene_means"),
    "condition twice": ({"conditions": [CONDITION, CONDITION]}, "covariate keys must be unique"),
    "category twice": ({"conditions": [CONDITION | {"categories": ["a", "a"]}]}, "categories of condition 'batch'"),
    "category added before": ({"conditions": [CONDITION | {"added_in": {"a": "1.1.0"}}]}, "oldest version first"),
    "category added but unknown": ({"conditions": [CONDITION | {"added_in": {"z": "1.1.0"}}]}, "unknown categories"),
    "one-hot scPoli": ({"conditions": [CONDITION | {"encoding": {"kind": "one-hot"}}]}, "scpoli has embedding"),
    "log1p for counts": ({"input": {"kind": "log1p"}}, "reads counts"),
    "target sum for counts": ({"input": {"target_sum": 1e4}}, "log1p input only"),
    "combinations of one condition": ({"combinations": [{"values": ["a", "b"]}]}, "two or more conditions"),
    "ontology incomplete": ({"labels": [LABEL | {"ontology": {"T cell": None}}]}, "an id or null for each"),
    "unlabelled is a label": ({"labels": [LABEL | {"unlabelled": "T cell"}]}, "also a category"),
    "parent of no level": ({"labels": [LABEL | {"parents": {"T cell": "lymphoid"}}]}, "labels of no other level"),
    "prototypes of no level": ({"prototypes": {"levels": [{"level": "fine", "means": "steps"}]}}, "fine"),
    "prototypes without tensor": ({"prototypes": {"levels": [{"level": "cell_type", "means": "gone"}]}}, "gone"),
    "classifier of no level": (
        {"trust": {"classifiers": [{"level": "fine", "weight": "w", "bias": "b", "centre": "c"}]}},
        "fine",
    ),
    "classifier without its tensors": (
        {"trust": {"classifiers": [{"level": "cell_type", "weight": "w", "bias": "b", "centre": "c"}]}},
        "tensors named but not described",
    ),
    "calibration of no level": ({"trust": {"calibrations": [{"level": "fine", "temperature": 1}]}}, "fine"),
    "tensor twice": ({"tensors": [*TENSORS, TENSORS[0]]}, "tensor names must be unique"),
    "axis unknown": ({"tensors": [*TENSORS, {"name": "x", "dtype": "F32", "shape": ["gene"]}]}, "'gene'"),
    "axis that only looks whole": ({"tensors": [*TENSORS, {"name": "x", "dtype": "F32", "shape": ["²"]}]}, "²"),
    "terms for scPoli": ({"terms": [{"id": "t", "name": "t"}]}, "terms are for expimap"),
    "proteins for scPoli": ({"proteins": {"panel": ["CD3"]}}, "proteins are for totalvi"),
    "totalVI without proteins": (
        {"architecture": {"kind": "totalvi", "hidden": 5, "latent": 3}},
        "totalvi needs proteins",
    ),
    "expiMap without terms": (
        {"architecture": {"kind": "expimap", "hidden": [5]}, "conditions": []},
        "needs annotated terms",
    ),
    "file twice": (
        {"files": [{"path": path, "size": 1, "sha256": "0" * 64, "role": "card"} for path in ("A.md", "a.md")]},
        "file paths",
    ),
    "file outside": (
        {"files": [{"path": "../README.md", "size": 1, "sha256": "0" * 64, "role": "card"}]},
        "files.0.path",
    ),
    "infinite": ({"trust": {"calibrations": [{"level": "cell_type", "temperature": 0}]}}, "temperature"),
    "version without patch": ({"version": "1.0"}, "version"),
    "name with a slash": ({"name": "lab/model"}, "name"),
    "created without zone": ({"created": "2024-01-01T00:00:00"}, "created"),
    "import path as kind": ({"architecture": {"kind": "os.system"}}, "architecture"),
    "extension of no one": ({"extensions": {"mine": 1}}, "extensions"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_manifest_that_contradicts_itself_is_refused(case: str) -> None:
    overrides, message = WRONG[case]
    assert message in problem(**overrides)


EXPIMAP = examples.KINDS["expimap"]
WRONG_EXPIMAP: dict[str, tuple[dict[str, Any], str]] = {
    "gene beyond the panel": (
        {"terms": [EXPIMAP["terms"][0] | {"genes": ["TP53"]}, *EXPIMAP["terms"][1:]]},
        "not of the panel",
    ),
    "extensions first": ({"terms": EXPIMAP["terms"][::-1]}, "order"),
    "annotated after an extension": (
        {"terms": [EXPIMAP["terms"][1], EXPIMAP["terms"][0], EXPIMAP["terms"][2]]},
        "order annotated, constrained, unconstrained",
    ),
    "newer extensions first": (
        {"terms": [EXPIMAP["terms"][0], EXPIMAP["terms"][1] | {"added_in": "1.10.0"}, EXPIMAP["terms"][2]]},
        "of an older version first",
    ),
    "a softmax of log counts": (
        {
            "architecture": {"kind": "expimap", "likelihood": "mse", "last_layer": "softmax"},
            "terms": EXPIMAP["terms"][:1],
        },
        "softmax gives shares of counts",
    ),
    "negative counts": (
        {"architecture": {"kind": "expimap", "last_layer": "identity"}, "terms": EXPIMAP["terms"][:1]},
        "identity gives negative means",
    ),
    "a size factor nothing is multiplied by": (
        {
            "architecture": {"kind": "expimap", "last_layer": "exp", "library_encoder": True},
            "terms": EXPIMAP["terms"][:1],
        },
        "library_encoder infers a size factor",
    ),
    "extensions miscounted": (
        {"architecture": EXPIMAP["architecture"] | {"constrained_extensions": 2}},
        "constrained_extensions is 2, but 1 terms",
    ),
}


@pytest.mark.parametrize("case", WRONG_EXPIMAP)
def test_gene_programs_that_contradict_the_rest_are_refused(case: str) -> None:
    overrides, message = WRONG_EXPIMAP[case]
    with pytest.raises(ValidationError, match=message):
        examples.of_kind("expimap", **overrides)


def test_extensions_are_appended_version_by_version() -> None:
    """Columns of the latent are only ever appended, whatever kind of term a later version adds."""
    old, later = EXPIMAP["terms"], {"kind": "constrained", "added_in": "1.10.0"}
    terms = [*old, {"id": "new-3", "name": "constrained 2", "genes": ["GAPDH"], **later}]
    described = examples.of_kind(
        "expimap", terms=terms, architecture=EXPIMAP["architecture"] | {"constrained_extensions": 2}
    )
    assert [[term.id for term in block] for block in described.term_blocks] == [
        ["R-HSA-1"],
        ["new-1", "new-2"],
        ["new-3"],
    ]
    sizes = described.axes()
    assert [sizes[f"terms.{position}"] for position in range(3)] == [1, 2, 1]
    assert (sizes["terms"], sizes["latent"], sizes["terms.constrained"]) == (4, 4, 2)


@pytest.mark.parametrize(("likelihood", "layer"), [("nb", "softmax"), ("mse", "identity")])
def test_the_last_layer_follows_from_the_likelihood(likelihood: Any, layer: str) -> None:
    assert configs.ExpiMapConfig(likelihood=likelihood).mean_layer == layer


def test_combinations_name_one_known_category_each() -> None:
    for values in (["a", "v9"], ["a", "v2", "v3"]):
        with pytest.raises(ValidationError, match="one known category per condition"):
            examples.of_kind("scpoli", combinations=[{"values": values}])


def test_measured_proteins_are_of_known_batches() -> None:
    with pytest.raises(ValidationError, match="no condition's"):
        examples.of_kind("totalvi", proteins={"panel": ["CD3"], "measured": {"z": ["CD3"]}})
    with pytest.raises(ValidationError, match="not of the panel: \\['CD4'\\]"):
        examples.of_kind("totalvi", proteins={"panel": ["CD3"], "measured": {"b": ["CD4"]}})


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"lineages": "novelty.labels.0"}, "not described: \\['lineages'\\]"), ({"cell_type": "lost"}, "\\['lost'\\]")],
)
def test_labels_kept_for_novelty_are_of_known_levels_and_tensors(labels: dict[str, str], message: str) -> None:
    trust = examples.fields_of_kind("scpoli")["trust"]
    with pytest.raises(ValidationError, match=message):
        examples.of_kind("scpoli", trust=trust | {"novelty": trust["novelty"] | {"labels": labels}})


# --- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("trvae", {"encoder.0.condition": (6, 2)}),
        ("expimap", {"decoder.annotated": (4, 1), "decoder.extended": (4, 2), "encoder.mean": (3, 6)}),
        (
            "scpoli",
            {
                "theta": (4, 2),
                "embeddings": (2, 2),
                "encoder.condition": (5, 5),
                "prototypes.means": (2, 3),
                "prototypes.covariances": (2, 3, 3),
                "prototypes.unlabelled": (2, 3),
                "test.input": (2, 4),
                "expression.0.weight": (2, 4),
                "expression.0.bias": (2,),
                "expression.0.centre": (4,),
                **{f"novelty.{part}": (4,) for part in ("mean", "spread", "share", "between")},
                "novelty.loadings": (4, 2),
                "novelty.scores": (5, 2),
                "novelty.ranks": (2, 3),
                "novelty.labels.0": (5,),
            },
        ),
        ("scvi", {"encoder.0": (6, 8), "seen": (2,)}),
        ("scanvi", {"classifier": (2, 3), "steps": ()}),
        ("totalvi", {"gene_means": (4,), "background": (2, 2)}),
    ],
)
def test_shapes_follow_from_axis_names(kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    manifest = examples.of_kind(kind)
    assert manifest.shapes() == shapes
    assert {spec.name: manifest.shape(spec) for spec in manifest.tensors} == shapes


def test_without_a_list_every_combination_has_its_column() -> None:
    assert examples.of_kind("scpoli", combinations=[]).axes()["combinations"] == 4
    assert examples.manifest().axes()["combinations"] == 2


# --- schemas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_file_is_current(name: str) -> None:
    assert (ROOT / "schemas" / name).read_text(encoding="utf-8") == text(name), "run `make generate`"


@pytest.mark.slow
def test_the_schema_module_writes_the_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hub_client.manifest.schema", str(tmp_path)], check=True, cwd=ROOT)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {n: text(n) for n in SCHEMAS}


@pytest.mark.parametrize("kind", examples.KINDS)
def test_examples_satisfy_the_json_schema(kind: str) -> None:
    validator = jsonschema.Draft202012Validator(schema("manifest-1.1.json"))
    validator.check_schema(validator.schema)
    validator.validate(json.loads(examples.of_kind(kind).to_bytes()))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(examples.fields_of_kind(kind) | {"licence": "MIT"})


@pytest.mark.parametrize("path", sorted((ROOT / "zoo" / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_satisfy_the_json_schema(path: Path) -> None:
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema("recipe-1.json"))
    validator.validate(recipe)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(recipe | {"licence": "MIT"})


# --- publishing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", examples.KINDS)
def test_a_full_manifest_can_be_published(kind: str) -> None:
    assert publishing_problems(examples.of_kind(kind)) == []


@pytest.mark.parametrize("field", NEEDED)
def test_each_needed_field_is_asked_for(field: str) -> None:
    empty = {"citation": None, "license": None, "data_license": None, "created": None, "authors": []}
    manifest = examples.of_kind("scpoli", **{field: empty.get(field, "")})
    (line,) = publishing_problems(manifest)
    assert line.startswith(f"{field}: missing")


def test_an_empty_citation_does_not_do() -> None:
    assert publishing_problems(examples.of_kind("scpoli", citation={})) == ["citation: empty; give a doi or bibtex"]
