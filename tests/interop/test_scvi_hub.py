"""What repositories of scvi-hub say beside their model: facts are kept, and nothing is believed that cannot be."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from hub_client import errors, import_legacy
from hub_client.interop.scvi_hub import EXTENSION
from tests import scvi_folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scvi_folders.repository(tmp_path_factory.mktemp("hub") / "lung")


def test_facts_of_a_repository_are_kept(minified: Path) -> None:
    found = import_legacy(minified).manifest
    assert found.license == "CC-BY-4.0"
    assert found.tissue == ()
    assert found.extensions[EXTENSION] == {
        "anndata_version": version("anndata"),
        "annotated": ["True"],
        "modality": ["rna"],
        "model_parent_module": "scvi.model",
        "tissue": ["lung", "nose"],
    }
    assert found.imported_from is not None
    assert [file.path for file in found.imported_from.files][2:] == ["_scvi_required_metadata.json", "README.md"]
    assert "README.md: its text" in found.imported_from.lost


@pytest.mark.parametrize(
    ("metadata", "match"),
    [("{", "is no JSON"), ("[]", "does not hold names"), ('{"model_cls_name": "SCVI"}', "names a 'SCVI'")],
)
def test_metadata_that_cannot_be(metadata: str, match: str, minified: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.IntegrityError, match=match) as refused:
        import_legacy(scvi_folders.edited(minified, tmp_path / "lung", metadata=metadata))
    assert refused.value.file == "_scvi_required_metadata.json"


@pytest.mark.parametrize(
    "card",
    [
        "",
        "no metadata",
        "---\nlicense: [\n---\n",
        "---\n- a\n---\n",
        f"---\n{'[' * 5000}\n---\n",
        "---\nlicense: !!python/object/apply:os.system ['true']\n---\n",
    ],
)
def test_a_card_that_says_nothing(card: str, minified: Path, tmp_path: Path) -> None:
    found = import_legacy(scvi_folders.edited(minified, tmp_path / "lung", card=card)).manifest
    assert found.license is None


def test_a_licence_without_an_identifier(minified: Path, tmp_path: Path) -> None:
    found = import_legacy(
        scvi_folders.edited(minified, tmp_path / "lung", card="---\nlicense: other\ntags: [tissue:x, 3]\n---\n")
    )
    assert found.manifest.license is None
    assert found.manifest.imported_from is not None
    assert "README.md: the licence 'other', which is no identifier of SPDX" in found.manifest.imported_from.lost
