"""scArches' documented classes: its names, parameters and defaults over our mathematics or scvi-tools'."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hub_client.compat.expimap import EXPIMAP
from hub_client.compat.scpoli import scPoli
from hub_client.compat.trvae import TRVAE

if TYPE_CHECKING:
    from hub_client.compat.scvi_tools import SCANVI, SCVI, TOTALVI

__all__ = ["EXPIMAP", "SCANVI", "SCVI", "TOTALVI", "TRVAE", "scPoli"]

_FROM_SCVI_TOOLS = ("SCANVI", "SCVI", "TOTALVI")
"""They load on first use: scvi-tools takes seconds to import."""


def __getattr__(name: str) -> Any:
    if name not in _FROM_SCVI_TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.scvi_tools"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM_SCVI_TOOLS])
