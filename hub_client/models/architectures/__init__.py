"""Which class builds which kind of architecture: a table, read by name so that nothing loads before it is used."""

from __future__ import annotations

from importlib import import_module

from hub_client import errors
from hub_client.models.architectures._base import Architecture, Scores, Start

ARCHITECTURES = {
    "expimap": "hub_client.models.architectures.expimap:ExpiMap",
    "scanvi": "hub_client.models.architectures.scvi.network:ScviTools",
    "scpoli": "hub_client.models.architectures.scpoli:ScPoli",
    "scvi": "hub_client.models.architectures.scvi.network:ScviTools",
    "totalvi": "hub_client.models.architectures.scvi.network:ScviTools",
    "trvae": "hub_client.models.architectures.trvae:TrVae",
}

__all__ = ["ARCHITECTURES", "Architecture", "Scores", "Start", "architecture"]


def architecture(kind: str) -> type[Architecture]:
    """Return the class that builds networks of this kind.

    Raises
    ------
    Unsupported
        If this version of archzoo reads manifests of the kind but cannot run them.
    """
    if kind not in ARCHITECTURES:
        raise errors.Unsupported(
            f"this version of archzoo cannot run {kind!r} models; it runs {errors.names(ARCHITECTURES)}.",
            kind=kind,
            verb="build",
        )
    module, name = ARCHITECTURES[kind].split(":")
    found: type[Architecture] = getattr(import_module(module), name)
    return found
