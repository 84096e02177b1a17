"""What must not leave a lab is found in every kind of file, and in nothing that may be there."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from hub_client import _resources, errors
from hub_client.checks import validate
from hub_client.data import persons
from hub_client.hub.client import Hub
from hub_client.manifest.v1 import Manifest
from hub_client.release import atlas_file, consent, privacy
from hub_client.release import folder as release_folder
from tests import examples
from tests.releases import release, unfit

SALTS = {
    "a cell barcode": ["AAACCTGAGAAACCAT-1", "pbmc_AAACATACAACCAC", "TTTGTCATCTTGTTTG"],
    "a file path": [
        "/home/jane/project/counts.h5ad",
        "see file:///data/x",
        "~/atlas/query.h5ad",
        r"C:\Users\jane\x.h5ad",
        r"\\nas01\group\x.h5ad",
        "trained in /scratch/run7/out",
    ],
    "an e-mail address": ["jane.doe@lab.example.org", "<jane+cells@uni-x.example>"],
    "a birth date": ["Jane Doe, born 1961-03-04", "DOB 03/04/1961", "geb. 04.03.1961", "J. Doe, born in 1961"],
    "a record number": [
        "MRN: 00123456",
        "medical record no. 4471182",
        "NHS number 943 476 5919",
        "Patient_id 12345678",
    ],
    "a person": [
        "Jane Doe 04.03.1961",
        "Doe, Jane (1961-03-04)",
        "JANE DOE 19610304",
        "Mary O'Connor, b. 4 March 1961",
        "jane_doe_1961-03-04",
        "1961-03-04 Jane Doe",
        "DOE^JANE 19610304",
        "Jane Doe, record number 4471182",
        "patient Jane Doe 4471182",
        "J. Doe, b. 1961-03-04",
        "Jane van der Doe 1961-03-04",
        "Jane Doe, Fallnummer 4471182",
    ],
    "a table of donors": ["donor,age,sex\nD1,43,F", "| patient_id | diagnosis |", "Subject\tAge\tSmoking", "donor;bmi"],
}
CASES = [(what, salt) for what, salts in SALTS.items() for salt in salts]
OTHER_LETTERS = ["née le 4 mars 1961", "Frau Doe, 4. März 1961", "Łucja Żak, 04.03.1961", "Иван Петров, 04.03.1961"]
OTHER_LETTERS += ["Γιώργος Δόου 04.03.1961", "李明 1961年3月4日"]
HARMLESS = [
    "pbmc-scpoli@1.0.0 and name@sha256:8c41d0e2b7aa",
    "https://example.org/home/data/cells, doi:10.1038/s41587-021-01001-7",
    "GATA3, CCAT1 and TTC39C-AS1 of CD4/CD8 T cells; 10x 3' v3 and/or 5'",
    "donors differ in age, sex and diagnosis",
    "about ~5/10 of the cells, see src/data/x or batch/donor",
    "Cell Ontology 2024-01-04, PBMC 3k 2016-05-26, batch_run_2019-05-01, Human Cell Atlas 20210304",
    "Kang, H. M. et al. Nat. Biotechnol. 36, 89-94 (2018); Ada Lovelace 0000-0002-1825-0097",
    "Cell Ranger 3.1.0, Zenodo record 7041848, 10x Genomics Chromium 3' v3 1000075, a case of 12000 cells",
    "E. coli 2001-01-25, H. sapiens 2004-10-21, R. Lopez 2018, 人类细胞 2021-03-04",
    "github.com/Wang-Cankun/iris3api (data/ifnb_2800.rda at ec6b742)",
]


def _checked(folder: Path) -> list[privacy.Leak]:
    return list(privacy.leaks(release_folder.read(folder)))


def found(folder: Path) -> list[tuple[str, str]]:
    return [(leak.file, leak.what) for leak in _checked(folder) if leak.severity == "error"]


@pytest.mark.parametrize(("what", "salt"), CASES)
def test_text_gives_it_away(what: str, salt: str) -> None:
    assert what in [found.split(" (")[0] for found in privacy.found_in(salt)]
    assert what in [found.split(" (")[0] for found in privacy.found_in(f"once upon a time, {salt} was there")]


@pytest.mark.parametrize("text", OTHER_LETTERS)
def test_names_and_dates_of_other_languages_are_found(text: str) -> None:
    assert list(privacy.found_in(text))


@pytest.mark.parametrize(("category", "named"), [("J.D. 04/03/1961", True), ("J. D. 2021-03-04", False)])
def test_initials_with_a_birth_date_are_a_category_of_one(category: str, named: bool) -> None:
    assert (persons.named(category) == category) is named


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_does_not(text: str) -> None:
    assert list(privacy.found_in(text)) == []


def test_no_bundled_release_gives_anything_away() -> None:
    for document in _resources.released().glob("*/*/manifest.json"):
        assert _checked(document.parent) == []
        assert validate.validate(document.parent, load=False).publishable


# each kind of file

PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "limitations": lambda salt: {"limitations": salt},
    "data set": lambda salt: {
        "training": {"datasets": [{"name": "x", "cells": 1, "fingerprint": "0" * 64, "source": salt}]}
    },
    "extensions": lambda salt: {"extensions": {"x-lab": {"notes": ["fine", {salt: 1}]}}},
    "imported": lambda salt: {"imported_from": {"format": "x", "files": [{"path": salt, "sha256": "0" * 64}]}},
    "condition": lambda salt: {
        "conditions": [examples.fields()["conditions"][0] | {"categories": [salt, "b"]}],
    },
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", SALTS)
def test_a_salted_manifest(tmp_path: Path, what: str, place: str) -> None:
    folder = release(tmp_path / "salted", **PLACES[place](SALTS[what][0]))
    severity = {("an e-mail address", "limitations"): "warning"}.get((what, place), "error")
    leaks = [leak for leak in _checked(folder) if leak.what.startswith(what)]
    assert {leak.severity for leak in leaks} == {severity}
    assert {leak.file for leak in leaks} == {release_folder.MANIFEST}


def test_a_category_that_is_a_name_and_a_number(tmp_path: Path) -> None:
    """In prose it may be anything; a category is a name that was given to cells."""
    assert list(privacy.found_in("John Smith, 12345678")) == []
    for category in ("John Smith, 12345678", "Doe_Jane_00441234"):
        folder = release(tmp_path / category, **PLACES["condition"](category))
        assert found(folder) == [(release_folder.MANIFEST, f"a person ({category})")]


@pytest.mark.parametrize("fact", ["dob", "birth_date", "MRN", "medical_record_number"])
def test_one_fact_that_is_a_persons_own_is_enough(tmp_path: Path, fact: str) -> None:
    row = {"x-lab": {"sample": "s1", fact: "1"}}
    assert (release_folder.MANIFEST, "a table of donors") in found(release(tmp_path / "row", extensions=row))


def donors(folder: Path, *categories: str, **changes: Any) -> list[privacy.Leak]:
    condition = examples.fields()["conditions"][0] | {"categories": categories} | changes.pop("condition", {})
    return _checked(release(folder, conditions=[condition], **changes))


def test_conditions_that_look_like_donors_are_refused_unless_stated(tmp_path: Path) -> None:
    (leak,) = donors(tmp_path / "names", "donor_1", "donor_2")
    assert leak.severity == "error" and "publish_donors=True (--publish-donors)" in leak.what
    (leak,) = donors(tmp_path / "told", "donor_1", extensions={consent.PUBLISHED: ["batch"]})
    assert leak.severity == "info" and "stated may be published" in leak.what
    (leak,) = donors(tmp_path / "column", "1488", "107", extensions={consent.COLUMNS: {"batch": "donor_id"}})
    assert leak.severity == "error" and "its obs column, 'donor_id'" in leak.what
    (leak,) = donors(tmp_path / "other", "donor_1", extensions={consent.PUBLISHED: "batch"})
    assert leak.severity == "error"
    assert donors(tmp_path / "plain", "lib1", "lib2") == []


def test_records_of_donors_in_extensions(tmp_path: Path) -> None:
    rows = {"x-lab": [{"donor_id": "D1", "age": 43}, {"donor_id": "D2", "age": 51}]}
    assert (release_folder.MANIFEST, "a table of donors") in found(release(tmp_path / "rows", extensions=rows))
    columns = {"x-lab": {"sex": ["F", "M"], "age": [43, 51]}}
    assert (release_folder.MANIFEST, "a table of donors") in found(release(tmp_path / "columns", extensions=columns))
    assert found(release(tmp_path / "fine", extensions={"x-lab": {"age": "of the reference", "url": "x"}})) == []


def resealed(folder: Path, name: str, content: bytes) -> Path:
    """Change a file of a release, and its manifest with it, as somebody who made it so would."""
    (folder / name).write_bytes(content)
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(release_folder.seal(manifest, folder).to_bytes())
    return folder


@pytest.mark.parametrize(("what", "salt"), CASES)
def test_a_salted_card(tmp_path: Path, what: str, salt: str) -> None:
    folder = release(tmp_path / "salted")
    resealed(folder, "README.md", (folder / "README.md").read_bytes() + f"\n{salt}\n".encode())
    assert [(file, what.split(" (")[0]) for file, what in found(folder)] == [("README.md", what)]


@pytest.mark.parametrize(("what", "salt"), CASES)
def test_salted_weights(tmp_path: Path, what: str, salt: str) -> None:
    manifest = examples.manifest()
    noted = save(examples.tensors(manifest), metadata={"made by": salt})
    folder = resealed(unfit(tmp_path / "noted"), "model.safetensors", noted)
    assert {file for file, leak in found(folder) if leak.startswith(what)} == {"model.safetensors"}
    spelled = torch.tensor([[float(code)] for code in salt.encode()])
    spec = {"name": "spelled", "dtype": "F32", "shape": [str(len(spelled)), "1"]}
    described = examples.manifest(tensors=[*examples.fields()["tensors"], spec])
    other = release_folder.write(tmp_path / "spelled", described, examples.tensors(manifest) | {"spelled": spelled})
    assert {file for file, leak in found(other) if leak.startswith(what)} == {"model.safetensors"}


def atlas(**columns: list[str]) -> anndata.AnnData:
    made = atlas_file.atlas(np.ones((3, 3), np.float32), conditions={"batch": ["a", "b", "a"]}, labels={})
    for name, values in columns.items():
        made.obs[name] = pd.Categorical(values)
    return made


def with_atlas(folder: Path, made: anndata.AnnData | bytes) -> Path:
    manifest = examples.manifest()
    content = made if isinstance(made, bytes) else atlas_file.dump(made)
    return release_folder.write(folder, manifest, examples.tensors(manifest), extra={release_folder.REFERENCE: content})


def test_a_plain_reference_gives_nothing_away(tmp_path: Path) -> None:
    assert found(with_atlas(tmp_path / "plain", atlas(cell_type=["T cell", "B cell", "T cell"]))) == []


def test_names_of_cells_in_the_reference(tmp_path: Path) -> None:
    named = atlas()
    named.obs_names = ["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCAA-1", "AAACCTGAGAAACCAC-1"]
    ((file, what),) = found(with_atlas(tmp_path / "named", named))
    assert file == release_folder.REFERENCE and "cells have names (AAACCTG" in what


@pytest.mark.parametrize("column", ["notes", "donor", "age"])
def test_columns_that_are_not_the_manifests(tmp_path: Path, column: str) -> None:
    ((file, what),) = found(with_atlas(tmp_path / "more", atlas(**{column: ["x", "y", "z"]})))
    assert file == release_folder.REFERENCE and "neither a condition nor a label" in what


def test_free_text_in_a_known_column(tmp_path: Path) -> None:
    ((_, what),) = found(with_atlas(tmp_path / "free", atlas(cell_type=["T cell", "B cell", "she had the flu"])))
    assert "she had the flu" in what


def test_donors_in_a_condition_of_donors(tmp_path: Path) -> None:
    condition = examples.fields()["conditions"][0] | {"role": "donor"}
    manifest = examples.manifest(conditions=[condition])
    folder = release_folder.write(
        tmp_path / "donors",
        manifest,
        examples.tensors(manifest),
        extra={release_folder.REFERENCE: atlas_file.dump(atlas())},
    )
    assert [file for file, _ in found(folder)] == [release_folder.REFERENCE]
    assert [leak.severity for leak in _checked(folder) if leak.file == release_folder.MANIFEST] == ["info"]


def rezipped(extra: dict[str, bytes], *, comment: bytes = b"") -> bytes:
    """Return a reference with more in its zip than its maker put there."""
    before, after = zipfile.ZipFile(io.BytesIO(atlas_file.dump(atlas()))), io.BytesIO()
    with zipfile.ZipFile(after, "w") as archive:
        for name in before.namelist():
            archive.writestr(name, before.read(name))
        for name, content in extra.items():
            archive.writestr(name, content)
        archive.comment = comment
    return after.getvalue()


def test_what_else_is_in_the_zip(tmp_path: Path) -> None:
    hidden = rezipped({"obs/donor/c/0": b"D1"})
    assert "is no part of a reference" in [what for _, what in found(with_atlas(tmp_path / "hidden", hidden))]
    note = rezipped({}, comment=b"from /home/jane/cells")
    assert [what.split(" (")[0] for _, what in found(with_atlas(tmp_path / "note", note))] == ["a file path"]
    aside = rezipped({"uns/donors.csv": b"donor,age\n"})
    assert found(with_atlas(tmp_path / "aside", aside))


def test_a_push_refuses_it_and_says_where(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    with pytest.raises(
        errors.InvalidInput, match=r"lab/x is not released:\n.*manifest\.json, limitations: a file path"
    ):
        hub.push(release(tmp_path / "salted", limitations="see /home/jane/cells"), "lab/x")
    assert not (tmp_path / "hub").exists()
