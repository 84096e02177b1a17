"""The AnnData that scArches' classes save with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anndata import AnnData, read_h5ad


def write_beside(dir_path: str, adata: AnnData, **options: Any) -> None:
    """Write an AnnData to ``<dir_path>.h5ad``; ``options`` are those of ``AnnData.write_h5ad``.

    Text columns are written as text unless asked otherwise: anndata would turn them into categories in the caller's
    AnnData too.
    """
    adata.write_h5ad(_beside(dir_path), **({"convert_strings_to_categoricals": False} | options))


def read_beside(dir_path: str) -> AnnData | None:
    """Return the AnnData at ``<dir_path>.h5ad``; None where there is none."""
    path = _beside(dir_path)
    return read_h5ad(path) if path.exists() else None


def _beside(dir_path: str) -> Path:
    return Path(f"{Path(dir_path)}.h5ad")
