"""What a release states about itself, as pydantic records; no torch here."""

from hub_client.manifest.plan import EarlyStopping, ExpiMapOptions, Plan, ScanviOptions, ScPoliOptions, TotalViOptions
from hub_client.manifest.v1 import Manifest

__all__ = ["EarlyStopping", "ExpiMapOptions", "Manifest", "Plan", "ScPoliOptions", "ScanviOptions", "TotalViOptions"]
