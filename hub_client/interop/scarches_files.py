"""Read a folder that scArches saved, attributes, tensors and genes, without running anything that is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hub_client import errors
from hub_client.interop import pickled_values, pickles, torch_files
from hub_client.manifest.provenance import OriginalFile

ATTRIBUTES, WEIGHTS, GENES, CELLS = "attr.pkl", "model_params.pt", "var_names.csv", "adata.h5ad"
NEEDED = (ATTRIBUTES, WEIGHTS, GENES)
MAX_BYTES = {ATTRIBUTES: pickles.MAX_BYTES, WEIGHTS: 1 << 35, GENES: 1 << 26}
"""The most that is read of each file; no model's has so much."""
SIZES = {"embedding_dim_", "embedding_dims_", "hidden_layer_sizes_", "input_dim_", "latent_dim_", "n_ext_", "n_ext_m_"}
"""Attributes that are sizes of tensors."""
POSITIONS = "labeled_indices_"
"""The attribute with positions of cells."""


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    folder: Path
    """Where it lies."""
    attributes: dict[str, Any]
    """The model's attributes, by the names scArches has for them, with their trailing underscore."""
    state: dict[str, Tensor]
    """Its tensors by name, on the CPU."""
    genes: tuple[str, ...]
    """Its genes, in order."""
    cells: Path | None
    """Its AnnData's file, if it was saved too."""
    files: tuple[OriginalFile, ...]
    """Every file with its sha256."""


@dataclass(frozen=True)
class Request:
    """A class or function that a file asks for, as ``module:name``, and whether it is allowed."""

    file: str
    name: str
    allowed: bool


@dataclass(frozen=True)
class Contents:
    """What a folder holds by its own account, with nothing loaded."""

    attributes: dict[str, Any]
    """The model's attributes as :mod:`hub_client.interop.pickles` reads them."""
    requests: tuple[Request, ...]
    """All that its files ask for."""
    shapes: dict[str, tuple[int, ...]] | None
    """The sizes of each tensor; None where the file of tensors is refused."""
    genes: tuple[str, ...]
    """The genes, in order."""
    cells: Path | None
    """Its AnnData's file, if it was saved too."""


def read(path: str | Path) -> Saved:
    """Return what scArches saved in a folder.

    Raises
    ------
    NotFound
        If there is no such folder, or files are missing from it.
    IntegrityError
        If a file is damaged, or asks for anything that a saved model does not need: every such name is listed, and
        nothing is loaded.
    """
    folder = Path(path).expanduser()
    contents, cells = _contents(folder), _cells(folder)
    pickled = pickles.read(contents[ATTRIBUTES], file=ATTRIBUTES)
    attributes = named_attributes(pickled_values.rebuilt(pickled, file=ATTRIBUTES))
    _check_ranges(attributes)
    state = torch_files.state(contents[WEIGHTS], file=WEIGHTS)
    _check_sizes(attributes, state)
    return Saved(folder, attributes, state, _genes(contents[GENES], attributes), cells, originals(contents, cells))


def look(folder: Path) -> Contents:
    """Return what a folder holds by its own account, without loading it.

    Raises
    ------
    NotFound, IntegrityError
        As :func:`read`, but for names that are refused.
    """
    contents = _contents(folder)
    pickled, content = pickles.read(contents[ATTRIBUTES], file=ATTRIBUTES), contents[WEIGHTS]
    attributes = named_attributes(pickled.value)
    named = requests(ATTRIBUTES, pickled.names, allowed=pickled_values.READERS)
    wanted = requests(WEIGHTS, torch_files.names(content, file=WEIGHTS), allowed=torch_files.ALLOWED)
    shapes = None
    if all(request.allowed for request in wanted):
        shapes = {name: tuple(tensor.shape) for name, tensor in torch_files.state(content, file=WEIGHTS).items()}
    return Contents(attributes, (*named, *wanted), shapes, _genes(contents[GENES], attributes), _cells(folder))


def requests(file: str, names: Iterable[str], *, allowed: Container[str]) -> list[Request]:
    """Return what a file asks for, with whether it is among what is allowed."""
    return [Request(file, name, name in allowed) for name in names]


def _contents(folder: Path) -> dict[str, bytes]:
    """Return a folder's files, if scArches saved it: each is read once, and what is hashed is what is parsed."""
    if not folder.is_dir():
        raise errors.NotFound(f"{folder}: no such folder.", name=str(folder))
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise errors.NotFound(
            f"{folder} has no {errors.names(missing)}. What scArches saves of a model is a folder with "
            f"{errors.names(NEEDED)}, and what scvi-tools saves is one with model.pt: give that one, whole.",
            name=str(folder),
            suggestions=[str(path.parent) for path in sorted(folder.glob(f"*/{ATTRIBUTES}"))],
        )
    return {name: bounded(folder / name, most=most) for name, most in MAX_BYTES.items()}


def is_saved(folder: Path) -> bool:
    """Return whether this is a folder that scArches saved."""
    return (folder / ATTRIBUTES).is_file()


def bounded(path: Path, *, most: int) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    IntegrityError
        If it has more than ``most``.
    """
    if (size := path.stat().st_size) > most:
        raise errors.IntegrityError(
            f"{path.name} has {size:,} bytes; no model's has more than {most:,}.",
            file=path.name,
            expected=most,
            actual=size,
        )
    return path.read_bytes()


def named_attributes(attributes: Any, *, file: str = ATTRIBUTES) -> dict[str, Any]:
    """Return an object as a model's attributes.

    Raises
    ------
    IntegrityError
        If it holds none by name.
    """
    if not isinstance(attributes, dict) or not all(isinstance(name, str) for name in attributes):
        raise errors.IntegrityError(
            f"{file} does not hold a model's attributes by name. Give a folder that a model was saved to.",
            file=file,
            actual=type(attributes).__name__,
        )
    return attributes


def _check_ranges(attributes: Mapping[str, Any]) -> None:
    """Refuse a range that names would be read from: a few bytes can stand for more of them than any memory holds."""
    if _has_range([value for name, value in attributes.items() if name != POSITIONS]):
        raise errors.IntegrityError(
            f"{ATTRIBUTES} has a range of numbers in an attribute other than {POSITIONS}, which no model has.",
            file=ATTRIBUTES,
        )


def _check_sizes(attributes: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse sizes that the weights cannot have, before anything is made of that size."""
    numbers = sum(tensor.numel() for tensor in state.values())
    for name in sorted(SIZES & attributes.keys()):
        value = attributes[name]
        sizes = value if isinstance(value, list | tuple) else [value]
        if len(sizes) > len(state) or any(isinstance(size, int) and size > numbers for size in sizes):
            raise errors.IntegrityError(
                f"{ATTRIBUTES} claims more than {WEIGHTS} holds: {name} is {sizes!r:.60}, and there are {numbers:,} "
                f"numbers in {len(state):,} tensors. Copy the folder again from where it was saved.",
                file=ATTRIBUTES,
                actual=sizes,
            )


def _has_range(values: Iterable[Any]) -> bool:
    kinds = set(map(type, values))
    if range in kinds:
        return True
    nested = (
        [value for value in values if isinstance(value, list | tuple | dict)] if kinds & {list, tuple, dict} else []
    )
    return any(_has_range(value.values() if isinstance(value, dict) else value) for value in nested)


def _genes(content: bytes, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the genes, as many as the model reads."""
    genes = lines(content)
    expected = attributes.get("input_dim_")
    if isinstance(expected, int) and len(genes) != expected:
        raise errors.IntegrityError(
            f"{GENES} names {len(genes):,} genes, the model reads {expected:,}. Copy it again from where it was saved.",
            file=GENES,
            expected=expected,
            actual=len(genes),
        )
    return genes


def lines(content: bytes) -> tuple[str, ...]:
    """Return the lines of a file of genes: names may hold commas, blanks and number signs."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # numpy writes text in the encoding of the computer it runs on
        text = content.decode("latin-1")
    return tuple(line.rstrip("\r") for line in text.rstrip("\r\n").split("\n"))


def _cells(folder: Path) -> Path | None:
    path = folder / CELLS
    return path if path.is_file() else None


def originals(contents: Mapping[str, bytes], cells: Path | None = None) -> tuple[OriginalFile, ...]:
    """Return the files of a folder with their sha256: those that were read, and that of cells if there is one."""
    digests = {name: hashlib.sha256(content) for name, content in contents.items()}
    if cells:
        with cells.open("rb") as file:
            digests[cells.name] = hashlib.file_digest(file, "sha256")
    return tuple(OriginalFile(path=name, sha256=digest.hexdigest()) for name, digest in digests.items())
