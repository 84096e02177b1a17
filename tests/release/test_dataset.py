"""Data sets in a hub: they come back as they were, and nothing but plain arrays is opened."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata.tests.helpers import assert_equal
from scipy import sparse

import hub_client
from hub_client import errors
from hub_client.data.fingerprint import fingerprint
from hub_client.data.open_query import read_cells
from hub_client.files import atomic
from hub_client.hub.client import Hub
from hub_client.release import dataset
from hub_client.store.folder.folder_store import FolderStore
from tests.releases import contents

FACTS = {"license": "CC-BY-4.0", "source": "made up for the tests"}


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


@pytest.fixture
def cells() -> anndata.AnnData:
    """Cells with some of everything an AnnData can hold."""
    generator = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(generator.choice(["T", "B"], 30), categories=["T", "B", "NK"]),
            "donor": generator.choice(["d1", "d2"], 30).astype(object),
            "depth": generator.normal(size=30),
        },
        index=[f"cell-{number}" for number in range(30)],
    )
    counts = sparse.csr_matrix(generator.poisson(0.5, (30, 12)).astype(np.float32))
    adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{number}" for number in range(12)]))
    adata.layers["dense"] = counts.toarray()
    adata.obsm["X_pca"] = generator.normal(size=(30, 3))
    adata.obsp["near"] = sparse.random(30, 30, 0.1, format="csc", random_state=0)
    adata.uns["about"] = {"title": "made up", "numbers": np.arange(3)}
    return adata


def push(hub: Hub, adata: anndata.AnnData, name: str = "lab/cells", version: str = "1.0.0", **facts: Any) -> Any:
    return hub.push_dataset(adata, name, version=version, **FACTS | facts)


def test_a_data_set_comes_back_as_it_was(hub: Hub, cells: anndata.AnnData) -> None:
    push(hub, cells)
    again = hub.pull_dataset("lab/cells")
    assert_equal(again, cells)
    assert fingerprint(again) == fingerprint(cells)


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "backed", "view"])
def test_every_form_of_it_can_be_pushed(hub: Hub, cells: anndata.AnnData, tmp_path: Path, form: str) -> None:
    given = {
        "csr": lambda: cells,
        "csc": lambda: with_x(cells, cells.X.tocsc()),
        "dense": lambda: with_x(cells, cells.X.toarray()),
        "backed": lambda: backed(cells, tmp_path),
        "view": lambda: cells[:, :],
    }[form]()
    push(hub, given)
    assert fingerprint(hub.pull_dataset("cells")) == fingerprint(cells)


def test_a_push_does_not_write_to_the_callers_data(hub: Hub, cells: anndata.AnnData) -> None:
    before = cells.copy()
    push(hub, cells)
    assert_equal(cells, before, exact=True)
    assert cells.obs["donor"].dtype == object


def test_the_same_cells_give_the_same_bytes(hub: Hub, cells: anndata.AnnData, tmp_path: Path) -> None:
    ref = push(hub, cells)
    assert push(hub, cells.copy()) == ref
    assert push(Hub(tmp_path / "other"), cells).digest == ref.digest


def test_the_record_says_what_it_is(hub: Hub, cells: anndata.AnnData, tmp_path: Path) -> None:
    ref = push(hub, cells, title="Thirty cells", doi="10.1000/example")
    folder = FolderStore(tmp_path / "hub", kind="datasets").fetch(ref, tmp_path / "out")
    record = json.loads((folder / "dataset.json").read_text())
    (file,) = record.pop("files")
    assert record == {
        "schema_version": "1.0",
        "name": "cells",
        "version": "1.0.0",
        "title": "Thirty cells",
        "license": "CC-BY-4.0",
        "source": "made up for the tests",
        "doi": "10.1000/example",
        "cells": 30,
        "genes": 12,
        "fingerprint": fingerprint(cells),
    }
    assert file["size"] == (folder / file["path"]).stat().st_size
    assert fingerprint(read_cells(folder / "data.zarr.zip")) == record["fingerprint"]


def test_data_sets_have_versions_parents_and_a_listing(hub: Hub, cells: anndata.AnnData) -> None:
    first = push(hub, cells, title="Blood")
    second = push(hub, cells[:20].copy(), version="1.1.0", title="Blood")
    assert [found.version for found in hub.search_datasets("blood")] == ["1.1.0"]
    assert hub.search_datasets("lung") == []
    assert hub.pull_dataset("cells@1.0.0").n_obs == 30
    assert hub.pull_dataset(f"cells@{second.commit}").n_obs == 20
    with pytest.raises(errors.TransportError, match="never changes"):
        push(hub, cells[:10].copy())
    with pytest.raises(errors.TransportError, match="moved on"):
        push(hub, cells[:10].copy(), version="1.2.0", parent=first.commit)
    assert push(hub, cells[:10].copy(), version="1.2.0", parent="1.1.0").version == "1.2.0"


def test_models_and_data_sets_do_not_meet(hub: Hub, cells: anndata.AnnData) -> None:
    push(hub, cells)
    with pytest.raises(errors.NotFound, match="no model is called"):
        hub.pull("lab/cells")
    with pytest.raises(errors.NotFound, match="no data set is called"):
        hub.pull_dataset("lab/cels")
    assert hub.search() == []


def test_the_verbs_use_the_default_hub(cells: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "default"))
    ref = hub_client.push_dataset(cells, "lab/cells", version="1.0.0", **FACTS)
    assert ref.hub == str(tmp_path / "default")
    assert hub_client.pull_dataset("cells").n_obs == 30


@pytest.mark.parametrize(
    "facts", [{"license": "do what you like"}, {"version": "1.0"}, {"source": ""}, {"doi": "https://doi.org/10.1/x"}]
)
def test_a_record_that_says_too_little_is_refused(
    hub: Hub, cells: anndata.AnnData, tmp_path: Path, facts: dict[str, str]
) -> None:
    with pytest.raises(errors.ManifestError, match=next(iter(facts))):
        push(hub, cells, **facts)
    assert not (tmp_path / "hub").exists()


def test_what_is_no_plain_array_is_refused(hub: Hub, cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.uns["function"] = print
    with pytest.raises(errors.InvalidInput, match="plain arrays"):
        push(hub, cells)
    assert not (tmp_path / "hub").exists()


def test_cells_without_counts_are_refused(hub: Hub) -> None:
    with pytest.raises(errors.InvalidInput, match="matrix"):
        push(hub, anndata.AnnData(obs=pd.DataFrame(index=["a", "b"])))


def test_a_flipped_byte_is_found(hub: Hub, cells: anndata.AnnData, tmp_path: Path) -> None:
    push(hub, cells)
    (stored,) = (tmp_path / "hub").rglob("lfs/objects/*/*/*")
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(data)
    with pytest.raises(errors.IntegrityError, match=r"data\.zarr\.zip"):
        hub.pull_dataset("cells")


HARM = {
    "pickle codec": {"filters": [{"id": "pickle"}], "zarr_format": 2, "dtype": "|O", "shape": [1], "chunks": [1]},
    "unknown codec": {"codecs": [{"name": "run-me"}], "data_type": "float32", "shape": [1], "node_type": "array"},
    "huge array": {"codecs": [{"name": "bytes"}], "data_type": "float32", "shape": [2**40], "node_type": "array"},
}


@pytest.mark.parametrize("metadata", HARM.values(), ids=HARM)
def test_a_release_with_anything_but_plain_arrays_is_not_opened(
    hub: Hub, cells: anndata.AnnData, tmp_path: Path, metadata: dict[str, Any]
) -> None:
    name = ".zarray" if metadata.get("zarr_format") == 2 else "zarr.json"
    forge(hub, cells, tmp_path, {f"uns/harm/{name}": json.dumps(metadata).encode()})
    with pytest.raises(errors.IntegrityError, match="was not opened"):
        hub.pull_dataset("cells")


def test_a_member_that_leaves_the_zip_is_not_opened(hub: Hub, cells: anndata.AnnData, tmp_path: Path) -> None:
    forge(hub, cells, tmp_path, {"../outside": b"x"})
    with pytest.raises(errors.IntegrityError, match="unsafe path"):
        hub.pull_dataset("cells")
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cells": 31}, errors.IntegrityError),
        ({"fingerprint": "0" * 64}, errors.IntegrityError),
        ({"files": []}, errors.IntegrityError),
        ({"extra": 1}, errors.ManifestError),
        ({"schema_version": "2.0"}, errors.ManifestError),
    ],
)
def test_a_record_that_contradicts_its_data_is_refused(
    hub: Hub, cells: anndata.AnnData, tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    forge(hub, cells, tmp_path, {}, **change)
    with pytest.raises(error):
        hub.pull_dataset("cells")


def test_a_release_with_another_file_is_refused(hub: Hub, cells: anndata.AnnData, tmp_path: Path) -> None:
    folder = forged(hub, cells, tmp_path, {})
    (folder / "run.py").write_text("")
    FolderStore(tmp_path / "hub", kind="datasets").commit("lab/more", folder, message="", parent=None)
    with pytest.raises(errors.IntegrityError, match=r"run\.py"):
        hub.pull_dataset("more")


@pytest.mark.slow
def test_real_cells_come_back(hub: Hub, shared_data: Any) -> None:
    real = anndata.read_h5ad(shared_data("pbmc3k_10x.h5ad"))
    push(hub, real, name="lab/pbmc3k")
    assert_equal(hub.pull_dataset("pbmc3k"), real)


def with_x(adata: anndata.AnnData, x: Any) -> anndata.AnnData:
    other = adata.copy()
    other.X = x
    return other


def backed(adata: anndata.AnnData, folder: Path) -> anndata.AnnData:
    adata.copy().write_h5ad(folder / "cells.h5ad")
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r")


def forged(hub: Hub, adata: anndata.AnnData, tmp_path: Path, members: dict[str, bytes], **change: Any) -> Path:
    """Write a release whose hashes are right and whose content is not what an honest push writes."""
    ref = push(hub, adata, name="lab/honest")
    folder = FolderStore(tmp_path / "hub", kind="datasets").fetch(ref, tmp_path / "forged")
    with zipfile.ZipFile(folder / dataset.DATA, "a") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = contents(folder)[dataset.DATA]
    described = {"path": dataset.DATA, "size": len(data), "sha256": atomic.sha256(folder / dataset.DATA)}
    record = json.loads((folder / dataset.RECORD).read_text()) | {"files": [described], "name": "cells"} | change
    (folder / dataset.RECORD).write_text(json.dumps(record))
    return folder


def forge(hub: Hub, adata: anndata.AnnData, tmp_path: Path, members: dict[str, bytes], **change: Any) -> None:
    """Release such a forgery as lab/cells."""
    folder = forged(hub, adata, tmp_path, members, **change)
    FolderStore(tmp_path / "hub", kind="datasets").commit("lab/cells", folder, message="", parent=None)
