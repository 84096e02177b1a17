"""archzoo: a declarative zoo of single-cell reference models, and the hub client that maps your cells onto them.

The public names load on first use, so that ``import hub_client`` loads no torch.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hub_client._version import __version__ as __version__

if TYPE_CHECKING:
    from hub_client import plot, programs
    from hub_client.data.align import align
    from hub_client.hub.client import Hub, pull, pull_dataset, push, push_dataset, search
    from hub_client.interop.from_scvi import from_scvi
    from hub_client.interop.import_legacy import import_legacy
    from hub_client.labels.audit import audit_labels
    from hub_client.labels.evaluate import evaluate
    from hub_client.labels.novelty import novelty
    from hub_client.labels.predict import predict
    from hub_client.manifest.recommended import recommended
    from hub_client.manifest.v1 import Manifest
    from hub_client.mapping.map_query import map_query
    from hub_client.mapping.rank_references import rank_references
    from hub_client.models.embed import embed
    from hub_client.models.latent_uncertainty import latent_uncertainty
    from hub_client.models.model import Model
    from hub_client.models.surgery import Extensions, surgery
    from hub_client.models.train import train
    from hub_client.programs.enrichment import enrichment, term_scores
    from hub_client.programs.terms import term_genes

# Read by OpenMP when PyTorch loads: threads that wait sleep, so that other programs on the same cores do not make
# training a hundred times slower (docs/adr/0006). Whoever sets it otherwise is heard.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "Extensions": "models.surgery",
    "Hub": "hub.client",
    "Manifest": "manifest.v1",
    "Model": "models.model",
    "align": "data.align",
    "audit_labels": "labels.audit",
    "embed": "models.embed",
    "enrichment": "programs.enrichment",
    "evaluate": "labels.evaluate",
    "from_scvi": "interop.from_scvi",
    "import_legacy": "interop.import_legacy",
    "latent_uncertainty": "models.latent_uncertainty",
    "map_query": "mapping.map_query",
    "novelty": "labels.novelty",
    "predict": "labels.predict",
    "pull": "hub.client",
    "pull_dataset": "hub.client",
    "push": "hub.client",
    "push_dataset": "hub.client",
    "rank_references": "mapping.rank_references",
    "recommended": "manifest.recommended",
    "search": "hub.client",
    "surgery": "models.surgery",
    "term_genes": "programs.terms",
    "term_scores": "programs.enrichment",
    "train": "models.train",
}
_ROOMS = ("plot", "programs")
"""Public rooms, which load on first use as the verbs do."""
_MOVED = {"impute": "models.impute"}
"""Modules that documentation named before they moved."""

__all__ = [
    "Extensions",
    "Hub",
    "Manifest",
    "Model",
    "align",
    "audit_labels",
    "embed",
    "enrichment",
    "evaluate",
    "from_scvi",
    "import_legacy",
    "latent_uncertainty",
    "map_query",
    "novelty",
    "plot",
    "predict",
    "programs",
    "pull",
    "pull_dataset",
    "push",
    "push_dataset",
    "rank_references",
    "recommended",
    "search",
    "surgery",
    "term_genes",
    "term_scores",
    "train",
]


def _moved(old: str, new: str) -> ModuleType:
    """Return a module under its old name that looks its names up where they are now."""
    module = ModuleType(f"{__name__}.{old}", f"Moved to {__name__}.{new}.")

    def look_up(name: str) -> Any:
        if name.startswith("__"):  # whoever walks through sys.modules asks every module for its file
            raise AttributeError(name)
        return getattr(import_module(f"{__name__}.{new}"), name)

    module.__getattr__ = look_up  # type: ignore[method-assign]
    return module


sys.modules |= {f"{__name__}.{old}": _moved(old, new) for old, new in _MOVED.items()}


def __getattr__(name: str) -> Any:
    if name in _ROOMS or name in _MOVED:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
