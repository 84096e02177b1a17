"""scArches' documented classes: its names, parameters and defaults over our mathematics or scvi-tools'.

``import hub_client.compat as sca`` has them under scArches' own paths, too, with the helpers of its tutorials:
``sca.models``, ``sca.utils``, ``sca.plotting``, ``sca.dataset``. docs/moving-from-scarches.md lists old and new calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_client.compat import namespaces
from hub_client.compat.expimap import EXPIMAP
from hub_client.compat.scpoli import scPoli
from hub_client.compat.trvae import TRVAE

if TYPE_CHECKING:
    from hub_client.compat.scvi_tools import SCANVI, SCVI, TOTALVI

__all__ = ["EXPIMAP", "SCANVI", "SCVI", "TOTALVI", "TRVAE", "scPoli"]

_LAZY: namespaces.Members = {**namespaces.CLASSES, **namespaces.FUNCTIONS, **namespaces.NAMESPACES}
"""What loads on first use: scvi-tools takes seconds to import."""


def __getattr__(name: str) -> Any:
    if name in namespaces.NOT_OFFERED:
        raise AttributeError(f"{__name__} has no {name!r}: {namespaces.NOT_OFFERED[name]}.")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return namespaces.member(name, path=__name__, members=_LAZY)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
