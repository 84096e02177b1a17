"""Read a folder that scvi-tools saved without running anything that is in it, and write it again from what was read.

scvi-tools keeps a model in one file, ``model.pt``: a zip archive of PyTorch with a pickle of tensors, arrays, frames
and its registry. Before 0.15 there were three: ``model_params.pt``, ``attr.pkl`` and ``var_names.csv``. Its own
functions unpickle them, which runs what a stranger put there; with :func:`safe_copy` they get a copy that holds plain
values alone.
"""

from __future__ import annotations

import copy
import pickle
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hub_client import errors
from hub_client.interop import pickled_frames, pickled_values, pickles, scarches_files, torch_files
from hub_client.interop.pickles import Pickled
from hub_client.interop.scarches_files import Request, bounded, named_attributes, originals
from hub_client.manifest.provenance import OriginalFile
from hub_client.models.architectures.scvi.modules import scvi_tools
from hub_client.models.architectures.scvi.tables import KINDS

MODEL = "model.pt"
TRIPLE = scarches_files.NEEDED
MOST = scarches_files.MAX_BYTES[scarches_files.WEIGHTS]
CELLS = ("adata.h5ad", "mdata.h5mu")
REGISTRY, SETUP, UNLABELLED = "registry_", "scvi_setup_dict_", "unlabeled_category_"
"""Attributes with what scvi-tools read from data: since 0.15, and before."""
STATE, GENES, ATTRIBUTES = "model_state_dict", "var_names", "attr_dict"
"""What ``model.pt`` holds, by scvi-tools' names."""
PYRO = "pyro_param_store"
"""Stands among the tensors; nothing of it belongs to these models."""
MARKS = {"SCANVI": "classifier.", "TOTALVI": "background_pro_"}
"""How tensors are called in one class alone; before 0.15 the class was not saved."""
UNSET = ("_scvi_batch", "_scvi_labels")
"""What scvi-tools called the columns that it made itself where it was given no key."""
Genes = NDArray[Any] | dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    folder: Path
    prefix: str
    """Where it lies, and what its files' names begin with."""
    attributes: dict[str, Any]
    """The model's attributes, by the names scvi-tools has for them, with their trailing underscore."""
    state: dict[str, Tensor]
    """Its tensors by name, on the CPU."""
    genes: Genes
    """Its genes in order; of a MuData, by modality where scvi-tools kept them so."""
    cells: Path | None
    """Its AnnData's or MuData's file, if it was saved too."""
    files: tuple[OriginalFile, ...]
    """Every file with its sha256."""

    @property
    def is_old(self) -> bool:
        """Whether it was saved before 0.15."""
        return REGISTRY not in self.attributes


def is_saved(folder: Path, *, prefix: str = "") -> bool:
    """Return whether this is a folder that scvi-tools saved; nothing is loaded."""
    if (folder / f"{prefix}{MODEL}").is_file():
        return True
    attributes = folder / f"{prefix}{scarches_files.ATTRIBUTES}"
    if not attributes.is_file():
        return False
    content = bounded(attributes, most=pickles.MAX_BYTES)
    if not any(name.encode() in content for name in (REGISTRY, SETUP)):
        return False
    value = pickles.read(content, file=attributes.name).value
    return isinstance(value, dict) and not value.keys().isdisjoint({REGISTRY, SETUP})


def read(folder: str | Path, *, prefix: str = "") -> Saved:
    """Return what scvi-tools saved in a folder: ``model.pt``, or the three files from before 0.15.

    Parameters
    ----------
    folder
        The folder.
    prefix
        What its files' names begin with.

    Raises
    ------
    NotFound
        If there is no such folder, or files are missing from it.
    IntegrityError
        If a file is damaged, or asks for anything that a saved model does not need: every such name is listed, and
        nothing is loaded.
    InvalidInput
        If the prefix is none of a file's name.
    """
    place = Path(folder).expanduser()
    _check(place, prefix)
    read_parts = _model_parts if (place / f"{prefix}{MODEL}").is_file() else _triple_parts
    attributes, state, genes, contents = read_parts(place, prefix)
    cells = next((path for name in CELLS if (path := place / f"{prefix}{name}").is_file()), None)
    attributes = named_attributes(plain(attributes), file=next(iter(contents)))
    return Saved(place, prefix, attributes, state, genes, cells, originals(contents, cells))


def _check(folder: Path, prefix: str) -> None:
    """Refuse a folder that scvi-tools did not save."""
    if prefix != Path(prefix).name:
        raise errors.InvalidInput(
            f"prefix is {prefix!r}; it is what the names of the folder's files begin with.", facts={"prefix": prefix}
        )
    if not folder.is_dir():
        raise errors.NotFound(f"{folder}: no such folder.", name=str(folder))
    missing = [name for name in TRIPLE if not (folder / f"{prefix}{name}").is_file()]
    if missing and not (folder / f"{prefix}{MODEL}").is_file():
        raise errors.NotFound(
            f"{folder} has no {prefix}{MODEL}. What scvi-tools saves of a model is a folder with that file, or before "
            f"0.15 with {errors.names(f'{prefix}{name}' for name in TRIPLE)}: give that one, whole.",
            name=str(folder),
            suggestions=[str(path.parent) for path in sorted(folder.glob(f"*/{prefix}{MODEL}"))],
        )


def requests(folder: Path, *, prefix: str = "") -> tuple[Request, ...]:
    """Return all that a folder's files ask for, without loading anything.

    Raises
    ------
    NotFound, InvalidInput
        As :func:`read`.
    IntegrityError
        If a file is damaged.
    """
    _check(folder, prefix)
    file = f"{prefix}{MODEL}"
    if (folder / file).is_file():
        model, beside = pickled(bounded(folder / file, most=MOST), file=file)
        return tuple(scarches_files.requests(file, model.names, allowed={*pickled_values.READERS, *beside}))
    contents = _triple(folder, prefix)
    file, tensors = f"{prefix}{scarches_files.ATTRIBUTES}", f"{prefix}{scarches_files.WEIGHTS}"
    named = pickles.read(contents[file], file=file).names
    wanted = torch_files.names(contents[tensors], file=tensors)
    return (
        *scarches_files.requests(file, named, allowed=pickled_values.READERS),
        *scarches_files.requests(tensors, wanted, allowed=torch_files.ALLOWED),
    )


@contextmanager
def safe_copy(folder: str | Path, *, prefix: str = "") -> Iterator[Path]:
    """Make a copy of a folder that scvi-tools' own functions can read: nothing of a stranger's pickle is in it.

    Its files are written from what :func:`read` made of the folder's: dictionaries, lists, texts, numbers, arrays,
    tensors and frames. ``model.pt`` is there for folders from before 0.15 too, besides their own three files. Saved
    cells lie beside it under their name. The copy is gone afterwards.

    Parameters
    ----------
    folder
        What scvi-tools saved.
    prefix
        What its files' names begin with, there and in the copy.

    Yields
    ------
    Path
        The copy.

    Raises
    ------
    NotFound, IntegrityError, InvalidInput
        As :func:`read`.
    Unsupported
        If it is from before 0.15, and of a kind that archzoo does not know.

    Examples
    --------
    >>> with safe_copy("lung_atlas") as copy:  # doctest: +SKIP
    ...     model = scvi.model.SCANVI.load(copy, adata)
    """
    saved = read(folder, prefix=prefix)
    with tempfile.TemporaryDirectory(prefix="archzoo-") as temporary:
        place = Path(temporary)
        if saved.is_old:
            _write_triple(saved, place)
        write_model(place / f"{prefix}{MODEL}", current(saved))
        if saved.cells:
            cells = place / saved.cells.name
            try:
                cells.symlink_to(saved.cells.resolve())
            except OSError:  # where links are not allowed
                shutil.copyfile(saved.cells, cells)
        yield place


def current(saved: Saved) -> Saved:
    """Return what was saved as scvi-tools has saved it since 0.15: with a registry.

    Raises
    ------
    Unsupported
        If it is of a kind that archzoo does not know.
    IntegrityError
        If its attributes are not those of a model.
    """
    if not saved.is_old:
        return saved
    kind = kind_of(saved)
    attributes = copy.deepcopy({name: value for name, value in saved.attributes.items() if name != SETUP})
    model_class = getattr(scvi_tools().model, KINDS[kind].model)
    from scvi.data._compat import registry_from_setup_dict

    try:
        setup = copy.deepcopy(saved.attributes[SETUP])
        registry = registry_from_setup_dict(model_class, setup, attributes.get(UNLABELLED))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise errors.IntegrityError(
            f"{saved.prefix}{scarches_files.ATTRIBUTES} lacks what scvi-tools saved of such a model before 0.15 "
            f"({type(error).__name__}: {error}). Copy the folder again from where it was saved.",
            file=f"{saved.prefix}{scarches_files.ATTRIBUTES}",
        ) from None
    registry["setup_args"] = {name: None if key in UNSET else key for name, key in registry["setup_args"].items()}
    return replace(saved, attributes=attributes | {REGISTRY: registry})


def kind_of(saved: Saved) -> str:
    """Return the kind of a saved model, by its class, or by its tensors where that was not saved.

    Raises
    ------
    Unsupported
        If archzoo does not know the kind.
    """
    names = {kind.model: name for name, kind in KINDS.items()}
    registry = saved.attributes.get(REGISTRY)
    if isinstance(registry, dict) and "model_name" in registry:
        model = str(registry["model_name"])
    else:
        model = next((name for name, mark in MARKS.items() if any(key.startswith(mark) for key in saved.state)), "SCVI")
    if model not in names:
        raise errors.Unsupported(
            f"{saved.files[0].path} is of a {pickles.printable(model)}; archzoo knows {errors.names(names)} of "
            "scvi-tools. Give the folder of another model.",
            kind=model,
            verb="import",
        )
    return names[model]


# --- reading ---------------------------------------------------------------------------------------------------------


def pickled(content: bytes, *, file: str) -> tuple[Pickled, Mapping[str, pickled_values.Reader]]:
    """Return the pickle in ``model.pt``, and what it may ask for besides: storages in the same file."""
    archive = torch_files.archive(content, file=file)
    beside = dict.fromkeys(torch_files.DTYPES, pickled_frames.unread) | {pickles.PERSISTENT: archive.storage}
    return archive.pickled, beside


Parts = tuple[Any, dict[str, Tensor], Genes, dict[str, bytes]]
"""A model's attributes, tensors and genes, and the files they were read from, that of the attributes first."""


def _model_parts(folder: Path, prefix: str) -> Parts:
    file = f"{prefix}{MODEL}"
    content = bounded(folder / file, most=MOST)
    model, beside = pickled(content, file=file)
    parts = pickled_values.rebuilt(model, file=file, beside=beside)
    if not isinstance(parts, dict) or not all(isinstance(parts.get(name), dict) for name in (STATE, ATTRIBUTES)):
        raise errors.IntegrityError(
            f"{file} does not hold what scvi-tools saves: {errors.names([STATE, GENES, ATTRIBUTES])}. Give a folder "
            "that model.save() wrote.",
            file=file,
            actual=type(parts).__name__,
        )
    tensors = {name: value for name, value in parts[STATE].items() if name != PYRO}
    state = torch_files.named(tensors, file=file, size=len(content))
    return parts[ATTRIBUTES], state, _genes(plain(parts.get(GENES)), file=file), {file: content}


def _triple_parts(folder: Path, prefix: str) -> Parts:
    contents = _triple(folder, prefix)
    file, weights, genes = contents
    attributes = pickled_values.rebuilt(pickles.read(contents[file], file=file), file=file)
    state = torch_files.state(contents[weights], file=weights)
    return attributes, state, np.array(scarches_files.lines(contents[genes]), dtype=object), contents


def _triple(folder: Path, prefix: str) -> dict[str, bytes]:
    limits = {f"{prefix}{name}": scarches_files.MAX_BYTES[name] for name in TRIPLE}
    return {name: bounded(folder / name, most=most) for name, most in limits.items()}


def _genes(genes: Any, *, file: str) -> Genes:
    """Return genes as texts, by modality where they are."""
    if isinstance(genes, dict):
        return {str(modality): _texts(names, file=file) for modality, names in genes.items()}
    return _texts(genes, file=file)


def _texts(genes: Any, *, file: str) -> NDArray[Any]:
    names = np.asarray(genes, dtype=object)
    if names.ndim != 1 or not len(names) or not all(isinstance(name, str) for name in names):
        raise errors.IntegrityError(
            f"{file} does not name its genes. Give a folder that model.save() wrote.",
            file=file,
            actual=type(genes).__name__,
        )
    return names


# --- plain values ----------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value in which all that could not be read is None.

    So is a range: no model has one, and a few bytes can stand for more numbers than any memory holds.
    """
    made = _PLAIN.get(type(value))
    return made(value) if made else None


def _plain_array(value: NDArray[Any]) -> NDArray[Any]:
    if not value.dtype.hasobject:
        return value
    items = np.empty(value.size, dtype=object)
    items[:] = [plain(item) for item in value.ravel()]
    return items.reshape(value.shape)


def _plain_frame(value: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose columns of objects are plain."""
    frame = value.copy()
    for position, dtype in enumerate(value.dtypes):
        if isinstance(dtype, np.dtype) and dtype.hasobject:
            frame.isetitem(position, _plain_array(value.iloc[:, position].to_numpy()))
    return frame


_PLAIN: Mapping[type, Callable[[Any], Any]] = {
    **dict.fromkeys((str, bytes, bool, int, float, complex, type(None), slice, Tensor), lambda value: value),
    dict: lambda value: {plain(key): plain(item) for key, item in value.items()},
    list: lambda value: [plain(item) for item in value],
    tuple: lambda value: tuple(plain(item) for item in value),
    set: lambda value: {plain(item) for item in value},
    frozenset: lambda value: frozenset(plain(item) for item in value),
    np.ndarray: _plain_array,
    pd.DataFrame: _plain_frame,
}


# --- writing ---------------------------------------------------------------------------------------------------------


def write_model(path: Path, saved: Saved) -> None:
    """Write ``model.pt`` from plain values."""
    torch.save({STATE: OrderedDict(saved.state), GENES: saved.genes, ATTRIBUTES: saved.attributes}, path)


def _write_triple(saved: Saved, folder: Path) -> None:
    torch.save(OrderedDict(saved.state), folder / f"{saved.prefix}{scarches_files.WEIGHTS}")
    (folder / f"{saved.prefix}{scarches_files.ATTRIBUTES}").write_bytes(pickle.dumps(saved.attributes))
    lines = "".join(f"{name}\n" for name in saved.genes)
    (folder / f"{saved.prefix}{scarches_files.GENES}").write_text(lines, encoding="utf-8")
