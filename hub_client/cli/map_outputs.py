"""What ``archzoo map`` writes: tried before training, written after it, and saved elsewhere where that fails."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_client import errors
from hub_client.files import atomic

if TYPE_CHECKING:
    from anndata import AnnData

    from hub_client.mapping.map_query import Mapping


@dataclass(frozen=True)
class Outputs:
    """Where the results of a mapping go."""

    cells: Path
    """The mapped query, ``.h5ad`` or ``.zarr``."""
    model: Path | None
    """The updated model, if it is asked for."""
    force: bool
    """Whether what is there may be replaced."""

    @property
    def receipt(self) -> Path:
        """Where the receipt of a mapping goes: beside its cells."""
        return self.cells.with_suffix(".receipt.json")

    def check(self) -> None:
        """Refuse before training what could not be written after it.

        Raises
        ------
        InvalidInput
            If the name is no format's, something is there already, or the place cannot be written to.
        """
        from hub_client.release import folder as release_folder

        out = self.cells
        if out.suffix.lower() not in WRITERS:
            raise errors.InvalidInput(f"--out {out}: the name must end in {' or '.join(WRITERS)}.", facts={"out": out})
        for path in (out, self.receipt):
            if path.exists() and not self.force:
                raise errors.InvalidInput(
                    f"--out {out}: {path} exists already. Choose another name, or replace it with --force.",
                    facts={"out": out},
                )
        _check_writable("--out", out)
        if self.model and self.model.resolve() in (out.resolve(), self.receipt.resolve()):
            raise errors.InvalidInput(
                f"--save-model {self.model} is where the cells or their receipt go: one would replace the other. "
                "Choose another name.",
                facts={"out": out, "save_model": self.model},
            )
        if self.model:
            release_folder.check_target(self.model, overwrite=self.force)
            _check_writable("--save-model", self.model)

    def rehearse(self, query: AnnData) -> None:
        """Write all of a query but its matrices, and remove it: what the format cannot hold is found before training.

        Raises
        ------
        InvalidInput
            If a part cannot be written; the message names it.
        TransportError
            If the place cannot be written to, or has no room for the whole.
        """
        from hub_client.data import elements

        try:
            with _writing(self.cells), _staged(self.cells) as part:
                _reserve(query, part)
                _write(_without_matrices(query), part)
        except errors.TransportError:
            raise
        except elements.FOREIGN as error:
            part_name = elements.culprit(error) or "a part of the query"
            raise errors.InvalidInput(
                f"--out {self.cells}: {part_name} cannot be written as {self.cells.suffix}: {elements.reason(error)}. "
                "Drop or rename it in the query, or choose the other format of --out; nothing was trained yet.",
                facts={"part": part_name, "out": self.cells},
            ) from error

    def write(self, mapping: Mapping) -> None:
        """Write a mapping's cells, receipt and, if asked for, model.

        Raises
        ------
        TransportError
            If one cannot be written. The model and the labels are then saved where they can be, and the message states
            where.
        """
        from hub_client.data import elements

        steps = {"model": self._write_model, "cells": self._write_cells, "receipt": self._write_receipt}
        written = []
        try:
            for what, step in steps.items():
                step(mapping)
                written.append(what)
        except elements.FOREIGN as error:
            raise self._rescued(mapping, error, model=self.model if "model" in written else None) from error

    def _write_model(self, mapping: Mapping) -> None:
        if self.model:
            mapping.model.save(self.model, overwrite=self.force)

    def _write_cells(self, mapping: Mapping) -> None:
        """Write beside the target and rename, so that a failed or killed run leaves no half a file."""
        with _writing(self.cells), _staged(self.cells) as part:
            _write(mapping.adata, part)
            if self.cells.is_dir():
                self.cells.rename(part.with_name("replaced"))
            part.replace(self.cells)

    def _write_receipt(self, mapping: Mapping) -> None:
        with _writing(self.cells):
            atomic.write(self.receipt.absolute(), mapping.receipt.to_bytes())

    def _rescued(self, mapping: Mapping, error: BaseException, *, model: Path | None) -> errors.TransportError:
        """Save a model and labels wherever they can be saved, and return the error that states where."""
        from hub_client.data import elements

        why = f"the mapping could not be written: {elements.reason(error)}"
        for place in (self.cells.absolute().parent, Path(tempfile.gettempdir()), Path.home()):
            try:
                found = _saved_at(mapping, place, name=self.cells.stem, model=model is None)
            except elements.FOREIGN:
                continue
            saved = errors.names(sorted(path.name for path in found.iterdir()))
            also = f", and the model in {model}" if model else ""
            return errors.TransportError(f"{why}. Nothing is lost: {saved} were saved in {found}{also}.")
        return errors.TransportError(f"{why}, and no other place could be written to either.")


def _saved_at(mapping: Mapping, place: Path, *, name: str, model: bool) -> Path:
    """Return a new folder with what a mapping found: the model, labels, latent and receipt."""
    import numpy as np

    folder = Path(tempfile.mkdtemp(prefix=f"{name}.rescued-", dir=place))
    mapping.predictions.to_frame().to_csv(folder / "labels.csv")
    if model:
        mapping.model.save(folder / "model")
    np.save(folder / "latent.npy", mapping.predictions.latent, allow_pickle=False)
    (folder / "receipt.json").write_bytes(mapping.receipt.to_bytes())
    return folder


def _writing(out: Path) -> Any:
    return atomic.writing(f"the place of --out {out}", otherwise="choose another place")


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Give a path in a folder beside ``out`` that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / out.name


def _check_writable(option: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent).cleanup()
    except OSError as error:
        raise errors.InvalidInput(
            f"{option} {path}: nothing can be written to {path.parent} ({error.strerror}). Choose another place.",
            facts={option: path},
        ) from error


def _without_matrices(query: AnnData) -> AnnData:
    """Return a query without X, layers, obsp and varp, which hold numbers only."""
    from anndata import AnnData
    from scipy import sparse

    from hub_client.data.cells import cell_names

    obs, raw = query.obs.copy(), query.raw
    obs.index = cell_names(query.obs_names)
    return AnnData(
        obs=obs,
        var=query.var.copy(),
        obsm=dict(query.obsm),
        varm=dict(query.varm),
        uns=dict(query.uns),
        raw=None if raw is None else {"X": sparse.csr_matrix(raw.shape, dtype="float32"), "var": raw.var.copy()},
    )


def _write(adata: AnnData, path: Path) -> None:
    """Write cells; nullable text, which files of pandas 3 hold, as it is."""
    import anndata

    with anndata.settings.override(allow_write_nullable_strings=True):
        WRITERS[path.suffix.lower()](adata, path)


def _write_zarr(adata: AnnData, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2|zarr v3 autosharding")  # news of anndata's next release
        adata.write_zarr(path)


def _write_h5ad(adata: AnnData, path: Path) -> None:
    _reserve(adata, path)
    adata.write_h5ad(path)


def _reserve(adata: AnnData, path: Path) -> None:
    """Make sure of the room for an .h5ad: HDF5 that runs out of room takes the process down."""
    if path.suffix.lower() == ".zarr":
        return
    raw = 0 if adata.raw is None else type(adata)(adata.raw.X).__sizeof__(with_disk=True)
    size = adata.__sizeof__(with_disk=True) + raw  # about as many bytes, in memory and in an uncompressed file
    atomic.reserve(path, int(1.1 * size) + 2**20)


WRITERS = {".h5ad": _write_h5ad, ".zarr": _write_zarr}
