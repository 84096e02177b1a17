from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from safetensors.torch import save

from hub_client import errors
from hub_client.files import safetensors, zarr_zip
from hub_client.manifest.v1 import Manifest
from hub_client.release import folder as release_folder
from tests import examples

ROOT = Path(__file__).parents[2]
FILES = ("manifest.json", "model.safetensors", "README.md", "reference.zarr.zip")


def reference_zip(*, zarr_format: int = 2, **arrays: Any) -> bytes:
    """Return a zipped zarr with a latent and labels, and more arrays by path."""
    store: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(store)
    root = zarr.open_group(memory, mode="w", zarr_format=zarr_format)
    root.create_array("obsm/X_latent", data=np.zeros((3, 2), dtype="float32"))
    for path, values in arrays.items():
        root.create_array(path.replace("__", "/"), data=values)
    return zipped({key: value.to_bytes() for key, value in store.items()})


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return release_folder.write(tmp_path / "release", examples.manifest(), examples.tensors())


def full(path: Path) -> Path:
    extra = {"reference.zarr.zip": reference_zip()}
    return release_folder.write(path, examples.manifest(), examples.tensors(), extra=extra)


def reseal(folder: Path, **content: bytes) -> None:
    """Replace files and write a manifest whose hashes agree, as a malicious author would."""
    for name, value in content.items():
        (folder / name).write_bytes(value)
    manifest = release_folder.read_manifest((folder / "manifest.json").read_bytes(), source="resealed")
    (folder / "manifest.json").write_bytes(release_folder.seal(manifest, folder).to_bytes())


def set_weights(folder: Path, content: bytes) -> None:
    reseal(folder, **{"model.safetensors": content})


# --- writing and reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", examples.KINDS)
def test_every_kind_survives_writing_and_reading(kind: str, tmp_path: Path) -> None:
    manifest = examples.of_kind(kind)
    tensors = examples.tensors(manifest)
    release = release_folder.read(release_folder.write(tmp_path / "release", manifest, tensors))
    assert release.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert release.tensors[name].dtype == tensor.dtype
        assert torch.equal(release.tensors[name], tensor)
    made_for = {"signature": None, "delta": None}  # both hold for the files they were made for
    assert release.manifest.changed(files=()) == manifest.changed(**made_for)
    assert {file.path for file in release.manifest.files} == {"README.md", "model.safetensors"}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = examples.tensors()
    first = release_folder.write(tmp_path / "a", examples.manifest(), tensors)
    second = release_folder.write(tmp_path / "b", examples.manifest(), dict(reversed(tensors.items())))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_the_bytes_are_those_of_the_library() -> None:
    """Of every type, in an order of neither names nor types; and the tensors themselves, not copies."""
    dtypes = {"BOOL": "bool", "U8": "uint8", "I32": "int32", "I64": "int64", "F32": "float32", "F64": "float64"}
    shapes = {"b": ["genes", "2"], "a_1": ["3"], "empty": ["0", "genes"], "scalar": []}
    specs = [
        {"name": f"{name}.{code}", "dtype": code, "shape": shape} for code in dtypes for name, shape in shapes.items()
    ]
    manifest = examples.manifest(tensors=specs, prototypes={})
    sizes = manifest.shapes()
    tensors = {
        spec.name: torch.arange(np.prod(sizes[spec.name]))
        .reshape(sizes[spec.name])
        .to(getattr(torch, dtypes[spec.dtype]))
        for spec in manifest.tensors
    }
    parts = safetensors.dump(tensors, manifest)
    assert b"".join(parts) == save(tensors)
    assert {part.nbytes for part in parts[1:]} == {t.nbytes for t in tensors.values()} - {0}
    ours = torch.frombuffer(parts[1], dtype=torch.int64)
    assert ours.data_ptr() in {tensor.data_ptr() for tensor in tensors.values()}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_value_is_written_or_read_that_is_no_number(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    code = {torch.float32: "F32", torch.float64: "F64"}[dtype]
    manifest = examples.manifest(tensors=[{"name": "one", "dtype": code, "shape": ["genes"]}], prototypes={})
    tensor = torch.tensor([0, 3.0, value, -1], dtype=dtype)
    with pytest.raises(errors.IntegrityError, match="NaN or an infinity"):
        release_folder.write(tmp_path / "release", manifest, {"one": tensor})
    with pytest.raises(errors.IntegrityError, match="NaN or an infinity"):
        safetensors.load(bytearray(save({"one": tensor})), manifest)


def test_the_digest_is_the_sha256_of_the_manifest_file(folder: Path) -> None:
    release = release_folder.read(folder)
    written = (folder / "manifest.json").read_bytes()
    assert release.manifest.to_bytes() == written
    assert release_folder.verify(folder).digest == release.manifest.digest


def test_reading_without_tensors_still_checks_them(folder: Path) -> None:
    assert release_folder.read(folder, load_tensors=False).tensors == {}
    set_weights(folder, save({"encoder.weight": torch.zeros(1)}))
    with pytest.raises(errors.IntegrityError):
        release_folder.verify(folder)


def test_verify_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys; from hub_client.release.folder import verify; verify(sys.argv[1]);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=ROOT)


def test_tensors_that_were_read_can_be_trained(folder: Path) -> None:
    weight = release_folder.read(folder).tensors["encoder.weight"]
    weight += 1.0
    assert torch.isfinite(weight).all()


def test_views_and_gradients_are_written_as_plain_values(tmp_path: Path) -> None:
    tensors = examples.tensors()
    plain = tensors["encoder.weight"]
    tensors["encoder.weight"] = plain.t().contiguous().t().requires_grad_()
    release = release_folder.read(release_folder.write(tmp_path / "release", examples.manifest(), tensors))
    assert torch.equal(release.tensors["encoder.weight"], plain)


def test_unaligned_tensors_are_read(folder: Path) -> None:
    tensors = examples.tensors()
    parts = {"U8": torch.uint8, "F32": torch.float32}
    spec = {"name": "mask", "dtype": "U8", "shape": ["3"]}
    manifest = examples.manifest(tensors=[spec, *examples.fields()["tensors"]])
    mask = torch.tensor([1, 2, 3], dtype=parts["U8"])
    content = raw({"mask": ("U8", [3], bytes(mask.tolist())), **{name: packed(t) for name, t in tensors.items()}})
    found = safetensors.load(bytearray(content), manifest)
    assert all(torch.equal(found[name], tensor) for name, tensor in {"mask": mask, **tensors}.items())


def test_empty_and_scalar_tensors_are_read(tmp_path: Path) -> None:
    specs = [{"name": "none", "dtype": "F32", "shape": ["0", "genes"]}, {"name": "one", "dtype": "F64", "shape": []}]
    manifest = examples.manifest(tensors=specs, prototypes={})
    tensors = {"none": torch.empty(0, 4), "one": torch.tensor(1.5, dtype=torch.float64)}
    release = release_folder.read(release_folder.write(tmp_path / "release", manifest, tensors))
    assert release.tensors["none"].shape == (0, 4)
    assert release.tensors["one"].item() == 1.5


def test_seal_describes_what_is_there(folder: Path) -> None:
    manifest = release_folder.read(folder).manifest
    assert release_folder.seal(manifest.changed(files=()), folder) == manifest
    (folder / "notes.txt").write_text("a note")
    with pytest.raises(errors.IntegrityError, match=r"notes\.txt"):
        release_folder.seal(manifest, folder)
    (folder / "notes.txt").unlink()
    (folder / "README.md").unlink()
    with pytest.raises(errors.IntegrityError, match=r"README\.md is missing"):
        release_folder.seal(manifest, folder)


# --- tampering ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.9])
def test_a_flipped_byte_in_any_file_is_found(name: str, place: float, tmp_path: Path) -> None:
    folder = full(tmp_path / "release")
    digest = release_folder.verify(folder).digest
    path = folder / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x01
    path.write_bytes(content)
    if name == "manifest.json":
        try:
            assert release_folder.verify(folder).digest != digest
        except (errors.ManifestError, errors.IntegrityError):
            return
        return
    with pytest.raises(errors.IntegrityError, match="sha256") as caught:
        release_folder.read(folder)
    assert caught.value.file == name
    assert caught.value.expected != caught.value.actual


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = full(tmp_path / "release")
    (folder / name).unlink()
    with pytest.raises(errors.IntegrityError, match="is missing") as caught:
        release_folder.read(folder)
    assert caught.value.file == name


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"x", lambda content: b""])
def test_a_file_of_another_length_is_found(name: str, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    folder = full(tmp_path / "release")
    size = (folder / name).stat().st_size
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(errors.IntegrityError, match="bytes") as caught:
        release_folder.read(folder)
    assert (caught.value.file, caught.value.expected) == (name, size)


@pytest.mark.parametrize("name", ["notes.txt", "Model.safetensors", "model.pkl", ".hidden"])
def test_an_uninvited_file_is_refused(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"hello")
    with pytest.raises(errors.IntegrityError, match="holds nothing else") as caught:
        release_folder.read(folder)
    assert caught.value.file == name


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = full(tmp_path / "release")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(errors.IntegrityError) as caught:
        release_folder.read(folder)
    assert caught.value.file == name


def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    with pytest.raises(errors.IntegrityError, match="plain files"):
        release_folder.read(folder)
    (folder / "README.md").rmdir()
    os.mkfifo(folder / "README.md")
    with pytest.raises(errors.IntegrityError, match="plain files"):
        release_folder.read(folder)


def test_a_manifest_that_lists_another_kind_of_file_is_refused(folder: Path) -> None:
    manifest = release_folder.read(folder).manifest
    (folder / "setup.py").write_bytes(b"")
    strange = {
        "path": "setup.py",
        "size": 0,
        "sha256": "e3b0c442" + "98fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
    files = [*manifest.model_dump(mode="json")["files"], strange | {"role": "card"}]
    (folder / "manifest.json").write_bytes(manifest.changed(files=files).to_bytes())
    with pytest.raises(errors.IntegrityError, match=r"setup\.py is listed as card"):
        release_folder.read(folder)


def test_an_unknown_key_in_the_manifest_is_named(folder: Path) -> None:
    fields = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(fields | {"licence": "MIT"}))
    with pytest.raises(errors.ManifestError, match=r"licence: not a key of this format \(did you mean license"):
        release_folder.read(folder)


def test_a_folder_that_is_no_release_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(errors.NotFound, match="not a release folder"):
            release_folder.read(folder)


# --- safetensors --------------------------------------------------------------------------------------------------


def packed(tensor: torch.Tensor) -> tuple[str, list[int], bytes]:
    codes = {torch.float32: "F32", torch.int64: "I64"}
    return codes[tensor.dtype], list(tensor.shape), tensor.numpy().tobytes()


def raw(tensors: dict[str, tuple[str, list[int], bytes]], **more: Any) -> bytes:
    """Return a safetensors file written by hand, tensors in the order given."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    return framed(json.dumps(header | more).encode(), data)


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def valid(**changes: Any) -> dict[str, Any]:
    """Return the header of the example's weights, entries changed by name."""
    content = save(examples.tensors())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: entry | changes.get(name.replace(".", "_"), {}) for name, entry in header.items()}


def data() -> bytes:
    content = save(examples.tensors())
    return content[8 + int.from_bytes(content[:8], "little") :]


def header(value: Any) -> bytes:
    return framed(json.dumps(value).encode(), data())


MALFORMED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "too few for a header"),
    "shorter than its length": (lambda: b"\x01\x00", "too few for a header"),
    "header beyond the end": (lambda: (10**9).to_bytes(8, "little") + b"{}", "announces a header"),
    "header length of 2**64": (lambda: b"\xff" * 8 + b"{}", "announces a header"),
    "header over the cap": (lambda: framed(b"{}" + b" " * safetensors.MAX_HEADER), "announces a header"),
    "header not JSON": (lambda: framed(b"{"), "not JSON"),
    "header not UTF-8": (lambda: framed(b'{"\xff": 1}'), "not UTF-8"),
    "header a list": (lambda: framed(b"[]"), "not a JSON object"),
    "header nested": (lambda: framed(b"[" * 100_000), "nests too deeply"),
    "tensor twice": (lambda: framed(b'{"steps": 1, "steps": 1}'), "repeats the key 'steps'"),
    "tensor's key twice": (lambda: framed(b'{"steps": {"dtype": "I64", "dtype": "I64"}}'), "repeats the key 'dtype'"),
    "too many tensors": (
        lambda: framed(
            json.dumps({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_001)}).encode()
        ),
        "more than the 10,000",
    ),
    "metadata not text": (lambda: header(valid() | {"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (lambda: header(valid() | {"__metadata__": []}), "__metadata__"),
    "entry a list": (lambda: header(valid() | {"steps": []}), "otherwise than by dtype"),
    "entry with more": (lambda: header(valid(steps={"stride": 1})), "otherwise than by dtype"),
    "dtype unknown": (lambda: header(valid(steps={"dtype": "F8_E4M3"})), "unknown dtype"),
    "dtype a list": (lambda: header(valid(steps={"dtype": ["I64"]})), "unknown dtype"),
    "shape negative": (lambda: header(valid(steps={"shape": [-1]})), "not whole numbers"),
    "shape a float": (lambda: header(valid(steps={"shape": [1.0]})), "not whole numbers"),
    "shape true": (lambda: header(valid(steps={"shape": [True]})), "not whole numbers"),
    "shape beyond 64 bits": (lambda: header(valid(steps={"shape": [2**63]})), "not whole numbers"),
    "one offset": (lambda: header(valid(steps={"data_offsets": [0]})), "not whole numbers"),
    "offsets backwards": (lambda: header(valid(steps={"data_offsets": [8, 0]})), "its shape needs 8"),
    "shape times dtype is not the size": (lambda: header(valid(steps={"dtype": "I32"})), "its shape needs 4"),
    "gap at the start": (lambda: framed(json.dumps(valid()).encode(), data())[:-8] + bytes(16), "gaps or overlaps"),
    "data cut short": (lambda: header(valid())[:-1], "gaps or overlaps"),
    "data after the end": (lambda: header(valid()) + b"x", "gaps or overlaps"),
    "overlap": (lambda: header(valid(steps={"data_offsets": [8, 16]})), "gaps or overlaps"),
    "missing tensor": (lambda: save({k: v for k, v in examples.tensors().items() if k != "steps"}), "lacks .* steps"),
    "uninvited tensor": (lambda: save(examples.tensors() | {"backdoor": torch.zeros(1)}), "does not name: backdoor"),
    "other shape": (lambda: save(examples.tensors() | {"encoder.weight": torch.zeros(4, 5)}), r"F32 \(5, 4\)"),
    "other rank": (lambda: save(examples.tensors() | {"steps": torch.zeros(1, dtype=torch.int64)}), r"I64 \(1,\)"),
    "other dtype": (lambda: save(examples.tensors() | {"steps": torch.tensor(0, dtype=torch.int32)}), "I32"),
    "NaN": (lambda: save(examples.tensors() | {"encoder.weight": torch.full((5, 4), torch.nan)}), "encoder.weight"),
    "infinity": (lambda: save(examples.tensors() | {"encoder.weight": torch.full((5, 4), -torch.inf)}), "infinity"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_weights_are_refused_even_when_their_hash_agrees(case: str, folder: Path) -> None:
    content, message = MALFORMED[case]
    set_weights(folder, content())
    with pytest.raises(errors.IntegrityError, match=message) as caught:
        release_folder.read(folder)
    assert caught.value.file == "model.safetensors"


def test_weights_written_by_hand_are_read(folder: Path) -> None:
    tensors = examples.tensors()
    set_weights(folder, raw({name: packed(tensor) for name, tensor in tensors.items()}, __metadata__={"a": "b"}))
    found = release_folder.read(folder).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_booleans_are_zero_or_one() -> None:
    manifest = examples.manifest(tensors=[{"name": "mask", "dtype": "BOOL", "shape": ["2"]}], prototypes={})
    good, bad = (raw({"mask": ("BOOL", [2], content)}) for content in (b"\0\1", b"\0\2"))
    assert safetensors.load(bytearray(good), manifest)["mask"].tolist() == [False, True]
    with pytest.raises(errors.IntegrityError, match="neither 0 nor 1"):
        safetensors.load(bytearray(bad), manifest)


@pytest.mark.parametrize("cut", [0, 7, 8, 60, 300, -1])
def test_truncated_weights_are_refused(cut: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    with pytest.raises(errors.IntegrityError):
        release_folder.read(folder)
    set_weights(folder, content)
    with pytest.raises(errors.IntegrityError):
        release_folder.read(folder)


# --- the zipped reference -----------------------------------------------------------------------------------------


def array_metadata(**changes: Any) -> bytes:
    plain = {"zarr_format": 2, "shape": [3], "chunks": [3], "dtype": "<f4", "compressor": None, "fill_value": 0}
    return json.dumps(plain | {"filters": None, "order": "C"} | changes).encode()


def array_metadata_3(**changes: Any) -> bytes:
    plain = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3],
        "data_type": "float32",
        "codecs": [{"name": "bytes"}],
    }
    return json.dumps(plain | changes).encode()


def consolidated(array: bytes, *, version: int) -> dict[str, bytes]:
    entry = json.loads(array)
    if version == 2:
        return {".zmetadata": json.dumps({"metadata": {"obs/a/.zarray": entry}}).encode()}
    group = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": {"obs/a": entry}}}
    return {"zarr.json": json.dumps(group).encode()}


PICKLE = {"filters": [{"id": "pickle", "protocol": 5}], "dtype": "|O"}
SHARD = {"name": "sharding_indexed", "configuration": {"codecs": [{"name": "numcodecs.pickle"}]}}
HOSTILE: dict[str, tuple[dict[str, bytes] | bytes, str]] = {
    "no zip": (b"hello", "not a readable zip file"),
    "parent": ({"../evil": b""}, "unsafe path"),
    "absolute": ({"/etc/passwd": b""}, "unsafe path"),
    "backslash": ({"obs\\..\\evil": b""}, "unsafe path"),
    "drive": ({"C:evil": b""}, "unsafe path"),
    "case collision": ({"obs/a": b"", "OBS/a": b""}, "names a member twice"),
    "counts": ({"X/c/0/0": b"1234"}, "no counts"),
    "counts in a layer": ({"layers/counts/0.0": b"1234"}, "no counts"),
    "raw counts": ({"raw/X/data/0": b"1234"}, "no counts"),
    "pickle filter": ({"obs/a/.zarray": array_metadata(**PICKLE)}, "pickle"),
    "pickle compressor": ({"obs/a/.zarray": array_metadata(compressor={"id": "pickle"})}, "pickle"),
    "objects without a codec": ({"obs/a/.zarray": array_metadata(dtype="|O")}, "'|O'"),
    "objects disguised": ({"obs/a/.zarray": array_metadata(dtype="|O", data_type="int8")}, "'|O'"),
    "structured": ({"obs/a/.zarray": array_metadata(dtype=[["a", "<f4"]])}, "not trusted"),
    "consolidated pickle 2": (consolidated(array_metadata(**PICKLE), version=2), "pickle"),
    "codec 3": ({"obs/a/zarr.json": array_metadata_3(codecs=[{"name": "numcodecs.pickle"}])}, "numcodecs.pickle"),
    "codec in a shard": ({"obs/a/zarr.json": array_metadata_3(codecs=[SHARD])}, "numcodecs.pickle"),
    "consolidated codec 3": (consolidated(array_metadata_3(codecs=[SHARD]), version=3), "numcodecs.pickle"),
    "dtype 3": ({"obs/a/zarr.json": array_metadata_3(data_type="object")}, "not trusted"),
    "no dtype 3": ({"obs/a/zarr.json": json.dumps({"node_type": "array", "shape": []}).encode()}, "not trusted"),
    "a huge array of nothing": ({"obs/a/.zarray": array_metadata(shape=[10**12])}, "whole numbers"),
    "a huge array by two sides": ({"obs/a/.zarray": array_metadata(shape=[10**6, 10**6])}, "entries"),
    "metadata no JSON": ({"zarr.json": b"{"}, "not JSON"),
    "metadata with a key twice": ({"obs/a/.zarray": b'{"dtype": "<f4", "dtype": "|O"}'}, "repeats the key"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_reference_is_refused_before_it_is_opened(case: str, folder: Path, tmp_path: Path) -> None:
    members, message = HOSTILE[case]
    content = members if isinstance(members, bytes) else zipped(members)
    reseal(folder, **{"reference.zarr.zip": content})
    with pytest.raises(errors.IntegrityError, match=message.replace("|", r"\|")) as caught:
        release_folder.read(folder)
    assert "reference.zarr.zip" in caught.value.file
    with pytest.raises(errors.IntegrityError):
        release_folder.write(
            tmp_path / "other", examples.manifest(), examples.tensors(), extra={"reference.zarr.zip": content}
        )
    assert not (tmp_path / "other").exists()


def test_a_link_or_a_bomb_in_the_zip_is_refused() -> None:
    link = zipfile.ZipInfo("obs/link")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(errors.IntegrityError, match="a link"):
        zarr_zip.check(buffer, name="reference.zarr.zip")
    bomb = bytearray(zipped({"obs/a/0": b"\0" * 10, "obs/b/0": b"\0" * 10}))
    for start in (index for index in range(len(bomb)) if bomb[index : index + 4] == b"PK\x01\x02"):
        bomb[start + 24 : start + 28] = (2**32 - 2).to_bytes(4, "little")
    with pytest.raises(errors.IntegrityError, match="unpacks to more"):
        zarr_zip.check(io.BytesIO(bomb), name="reference.zarr.zip")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_of_numbers_is_welcome(zarr_format: int, tmp_path: Path) -> None:
    content = reference_zip(zarr_format=zarr_format, obs__codes=np.arange(3, dtype="int8"))
    extra = {"reference.zarr.zip": content}
    folder = release_folder.write(tmp_path / "release", examples.manifest(), examples.tensors(), extra=extra)
    assert [file.role for file in release_folder.verify(folder).files] == ["card", "weights", "reference"]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore:.*[Cc]onsolidated.*")
def test_an_anndata_reference_is_welcome_and_its_counts_are_not(zarr_format: int, tmp_path: Path) -> None:
    obs = pd.DataFrame({"cell_type": pd.Categorical(["a", "b", "a"]), "note": ["x", "y", "z"]}, index=["0", "1", "2"])
    latent = {"X_latent": np.zeros((3, 2), dtype="float32")}
    with ad.settings.override(zarr_write_format=zarr_format):
        ad.AnnData(obs=obs, obsm=latent).write_zarr(tmp_path / "plain.zarr")
        ad.AnnData(np.eye(3, dtype="float32"), obs=obs).write_zarr(tmp_path / "counts.zarr")
    plain, counts = (
        zipped({str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()})
        for root in (tmp_path / "plain.zarr", tmp_path / "counts.zarr")
    )
    zarr_zip.check(io.BytesIO(plain), name="reference.zarr.zip")
    zarr_zip.check(io.BytesIO(counts), name="data.zarr.zip", counts=True)
    with pytest.raises(errors.IntegrityError, match="no counts"):
        zarr_zip.check(io.BytesIO(counts), name="reference.zarr.zip")


# --- refusing to write --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.weight": torch.zeros(4, 5)}, "encoder.weight"),
        ({"encoder.weight": torch.zeros(5, 4, dtype=torch.float64)}, "F64"),
        ({"encoder.weight": torch.zeros(5, 4, dtype=torch.float16)}, "float16"),
        ({"encoder.weight": torch.full((5, 4), torch.nan)}, "NaN"),
        ({"more": torch.zeros(1)}, "more"),
    ],
)
def test_tensors_that_are_not_the_manifests_are_not_written(
    change: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.IntegrityError, match=message):
        release_folder.write(tmp_path / "release", examples.manifest(), examples.tensors() | change)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensor_is_not_written(tmp_path: Path) -> None:
    tensors = examples.tensors()
    del tensors["steps"]
    with pytest.raises(errors.IntegrityError, match="steps"):
        release_folder.write(tmp_path / "release", examples.manifest(), tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_changed_without_a_check_is_not_written(tmp_path: Path) -> None:
    broken = examples.manifest().model_copy(update={"version": "one"})
    with pytest.raises(errors.ManifestError, match="version"):
        release_folder.write(tmp_path / "release", broken, examples.tensors())
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_a_newer_format_is_not_written(tmp_path: Path) -> None:
    newer = Manifest.model_validate(examples.fields() | {"schema_version": "1.3"})
    with pytest.raises(errors.ManifestError, match=r"1\.3"):
        release_folder.write(tmp_path / "release", newer, examples.tensors())
    assert list(tmp_path.iterdir()) == []


def test_only_a_reference_may_come_along(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match=r"evil\.py"):
        release_folder.write(tmp_path / "release", examples.manifest(), examples.tensors(), extra={"evil.py": b""})


def test_a_release_is_replaced_only_when_asked(folder: Path) -> None:
    before = release_folder.read(folder).manifest.digest
    with pytest.raises(errors.InvalidInput, match="overwrite=True"):
        release_folder.write(folder, examples.manifest(), examples.tensors(seed=1))
    assert release_folder.read(folder).manifest.digest == before
    release_folder.write(folder, examples.manifest(), examples.tensors(seed=1), overwrite=True)
    assert release_folder.read(folder).manifest.digest != before
    assert list(folder.parent.iterdir()) == [folder]


def test_what_is_no_release_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    (folder / "thesis.tex").write_text("years of work")
    for place in (home, file, folder):
        with pytest.raises(errors.InvalidInput, match="not a release folder"):
            release_folder.write(place, examples.manifest(), examples.tensors(), overwrite=True)
    assert (home / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert release_folder.verify(release_folder.write(place, examples.manifest(), examples.tensors()))


def test_a_link_to_a_release_keeps_being_one(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    release_folder.write(link, examples.manifest(), examples.tensors(seed=1), overwrite=True)
    assert link.is_symlink()
    assert release_folder.read(link).manifest.digest == release_folder.read(folder).manifest.digest
    assert {path.name for path in tmp_path.iterdir()} == {"release", "link"}


def test_writing_below_a_file_is_a_transport_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(errors.TransportError, match="cannot be written"):
        release_folder.write(tmp_path / "file" / "release", examples.manifest(), examples.tensors())


def test_a_read_only_folder_is_a_transport_error(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK):
        place.rmdir()
        place = Path("/proc/closed")
        if not Path("/proc").is_dir():
            pytest.skip("needs a user who cannot write everywhere, or /proc")
    with pytest.raises(errors.TransportError, match=r"cannot be written|read-only"):
        release_folder.write(place / "release", examples.manifest(), examples.tensors())


WRITE = """
import resource, signal, sys
from hub_client import errors
from hub_client.release import folder as release_folder
from tests import examples

manifest = examples.manifest()
tensors = examples.tensors()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    release_folder.write(sys.argv[1], manifest, tensors, overwrite=True)
except errors.TransportError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs file size limits")
def test_a_file_that_does_not_fit_leaves_the_old_release_and_no_debris(folder: Path) -> None:
    before = release_folder.read(folder).manifest.digest
    command = [sys.executable, "-c", WRITE, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "has no room left" in done.stdout
    assert release_folder.read(folder).manifest.digest == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Return a file system of 64 kB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs; the file size limit test covers a failed write")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_release_and_no_debris(small_disk: Path) -> None:
    folder = release_folder.write(small_disk / "release", examples.manifest(), examples.tensors())
    before = release_folder.read(folder).manifest.digest
    big = examples.manifest(tensors=[{"name": "big", "dtype": "F32", "shape": ["100000"]}], prototypes={})
    with pytest.raises(errors.TransportError, match="has no room left"):
        release_folder.write(folder, big, {"big": torch.zeros(100_000)}, overwrite=True)
    assert release_folder.read(folder).manifest.digest == before
    assert list(small_disk.iterdir()) == [folder]


KILL = """
import itertools, os, signal, sys, time
from pathlib import Path
from hub_client.release import folder as release_folder
from tests import examples

folder = Path(sys.argv[1])
manifest = examples.manifest()
choices = [examples.tensors(seed=seed) for seed in (0, 1)]
for milliseconds in range(0, 75, 3):
    written, write = os.pipe()
    child = os.fork()
    if not child:
        for tensors in itertools.cycle(choices):
            release_folder.write(folder, manifest, tensors, overwrite=True)
            os.write(write, b"x")
    os.read(written, 1)
    time.sleep(milliseconds / 1000)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(release_folder.read(folder).manifest.digest)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="needs a system call that swaps two folders")
def test_a_writer_killed_at_any_moment_leaves_a_whole_release(folder: Path) -> None:
    whole = {release_folder.read(folder).manifest.digest}
    release_folder.write(folder, examples.manifest(), examples.tensors(seed=1), overwrite=True)
    whole.add(release_folder.read(folder).manifest.digest)
    command = [sys.executable, "-W", "error", "-c", KILL, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found = done.stdout.split()
    assert len(found) == 25
    assert set(found) <= whole
