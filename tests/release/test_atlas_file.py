"""The reference atlas: what is in it, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import zarr
from anndata import AnnData

from hub_client import errors
from hub_client.release import atlas_file

CELLS = 60


@pytest.fixture
def latent() -> np.ndarray:
    return np.arange(CELLS * 3, dtype=np.float32).reshape(CELLS, 3)


@pytest.fixture
def made(latent: np.ndarray) -> AnnData:
    batches = np.repeat(["one", "two"], CELLS // 2)
    labels = np.array(["B", "T", ""] * (CELLS // 3))
    return atlas_file.atlas(latent, conditions={"batch": batches}, labels={"cell_type": labels}, seed=1)


def rewritten(content: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def edited(name: str, **fields: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[name] = json.dumps(json.loads(files[name]) | fields).encode()

    return change


def test_round_trip(made: AnnData) -> None:
    again = atlas_file.load(atlas_file.dump(made))
    np.testing.assert_array_equal(again.obsm["X_latent"], made.obsm["X_latent"])
    assert again.obs.astype(object).equals(made.obs.astype(object))


def test_cells_keep_their_labels_but_not_their_order_or_names(made: AnnData, latent: np.ndarray) -> None:
    rows = (made.obsm["X_latent"][:, 0] / 3).astype(int)
    assert sorted(rows) == list(range(CELLS)) and list(rows) != list(range(CELLS))
    assert list(made.obs_names) == [str(i) for i in range(CELLS)]
    assert list(made.obs["batch"]) == ["one" if row < CELLS // 2 else "two" for row in rows]
    assert list(made.obs["cell_type"].isna()) == [row % 3 == 2 for row in rows]
    assert made.X is None


def test_the_same_atlas_gives_the_same_bytes(made: AnnData) -> None:
    assert atlas_file.dump(made) == atlas_file.dump(made.copy())


def test_anndata_reads_the_file(made: AnnData, tmp_path) -> None:
    import anndata

    (tmp_path / atlas_file.FILE).write_bytes(atlas_file.dump(made))
    with zarr.storage.ZipStore(tmp_path / atlas_file.FILE, mode="r") as store:
        again = anndata.io.read_zarr(store)
    np.testing.assert_array_equal(again.obsm["X_latent"], made.obsm["X_latent"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited("obs/batch/codes/zarr.json", codecs=[{"name": "numcodecs.pickle"}]), "numcodecs.pickle"),
        (edited("obsm/X_latent/zarr.json", shape=[10**5, 10**5]), "entries"),
        (edited("obsm/X_latent/zarr.json", shape=[-1, 3]), "shape"),
        (lambda files: files.update({"obs/zarr.json": b"{"}), "not JSON"),
        (lambda files: files.pop("obsm/X_latent/zarr.json"), "cannot be read"),
        (lambda files: [files.pop(name) for name in list(files) if name.startswith("obsm/X_latent")], "finite"),
        (lambda files: files.update({"obsm/X_latent/c/0/0": b"short"}), "cannot be read"),
        (
            lambda files: files.update({"obsm/X_latent/c/0/0": np.full((CELLS, 3), np.nan, np.float32).tobytes()}),
            "finite",
        ),
    ],
)
def test_files_that_are_not_plain_arrays_are_refused(made: AnnData, change, words: str) -> None:
    broken = rewritten(atlas_file.dump(made), change)
    with pytest.raises(errors.IntegrityError, match=words) as caught:
        atlas_file.load(broken)
    assert caught.value.file.startswith(atlas_file.FILE)


def test_no_zip_is_refused() -> None:
    with pytest.raises(errors.IntegrityError, match="zip"):
        atlas_file.load(b"PK nothing of the kind")


def test_a_flipped_byte_is_noticed(made: AnnData) -> None:
    content = bytearray(atlas_file.dump(made))
    content[len(content) // 2] ^= 255
    with pytest.raises(errors.IntegrityError):
        atlas_file.load(content)


def test_a_zip_that_lies_about_a_size_is_refused(made: AnnData) -> None:
    content = atlas_file.dump(made)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = archive.getinfo("obsm/X_latent/c/0/0").file_size.to_bytes(4, "little")
    with pytest.raises(errors.IntegrityError):
        atlas_file.load(content.replace(size, (1).to_bytes(4, "little")))
