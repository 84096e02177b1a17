"""scArches' documented classes as a thin coat over archzoo: its names, parameters and defaults, our mathematics."""

from __future__ import annotations

from hub_client.compat.expimap import EXPIMAP
from hub_client.compat.scpoli import scPoli
from hub_client.compat.trvae import TRVAE

__all__ = ["EXPIMAP", "TRVAE", "scPoli"]
