"""Which class builds which kind of architecture: a table, read by name so that nothing loads before it is used."""

from __future__ import annotations

from importlib import import_module

from hub_client import errors
from hub_client.models.architectures._network import Array, Decoded, Network, Scores, Start

ARCHITECTURES = {
    "expimap": "hub_client.models.architectures.expimap:ExpiMap",
    "scanvi": "hub_client.models.architectures.scvi.scanvi:ScANVI",
    "scpoli": "hub_client.models.architectures.scpoli:ScPoli",
    "scvi": "hub_client.models.architectures.scvi.network:ScVI",
    "totalvi": "hub_client.models.architectures.scvi.totalvi:TotalVI",
    "trvae": "hub_client.models.architectures.trvae:TrVAE",
}

__all__ = ["ARCHITECTURES", "Array", "Decoded", "Network", "Scores", "Start", "architecture"]


def architecture(kind: str) -> type[Network]:
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
    found: type[Network] = getattr(import_module(module), name)
    return found
