"""archzoo: a declarative zoo of single-cell reference models, and the hub client that maps your cells onto them.

The public names load on first use, so that ``import hub_client`` loads no torch.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub_client import plot, programs
    from hub_client.client import Hub, pull, pull_dataset, push, push_dataset, search
    from hub_client.data.align import align
    from hub_client.enrichment import enrichment, term_scores
    from hub_client.evaluate import evaluate
    from hub_client.from_scvi import from_scvi
    from hub_client.legacy.importing import import_legacy
    from hub_client.manifest.v1 import Manifest
    from hub_client.mapping import map_query
    from hub_client.model import Model
    from hub_client.predict import embed, predict
    from hub_client.surgery import Extensions, surgery
    from hub_client.terms import term_genes
    from hub_client.train import train

__version__ = "0.1.0"

# Read by OpenMP when PyTorch loads: threads that wait sleep, so that other programs on the same cores do not make
# training a hundred times slower (docs/adr/0006). Whoever sets it otherwise is heard.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "Extensions": "surgery",
    "Hub": "client",
    "Manifest": "manifest.v1",
    "Model": "model",
    "align": "data.align",
    "embed": "predict",
    "enrichment": "enrichment",
    "evaluate": "evaluate",
    "from_scvi": "from_scvi",
    "import_legacy": "legacy.importing",
    "map_query": "mapping",
    "predict": "predict",
    "pull": "client",
    "pull_dataset": "client",
    "push": "client",
    "push_dataset": "client",
    "search": "client",
    "surgery": "surgery",
    "term_genes": "terms",
    "term_scores": "enrichment",
    "train": "train",
}
_MODULES = ("plot", "programs")
"""Public modules, which load on first use as the verbs do."""

__all__ = [
    "Extensions",
    "Hub",
    "Manifest",
    "Model",
    "align",
    "embed",
    "enrichment",
    "evaluate",
    "from_scvi",
    "import_legacy",
    "map_query",
    "plot",
    "predict",
    "programs",
    "pull",
    "pull_dataset",
    "push",
    "push_dataset",
    "search",
    "surgery",
    "term_genes",
    "term_scores",
    "train",
]


class _Package(ModuleType):
    """A package whose verbs are not hidden by the modules they live in.

    Importing ``hub_client.train`` makes Python set the package's attribute ``train`` to that module, but
    ``hub_client.train`` is the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
