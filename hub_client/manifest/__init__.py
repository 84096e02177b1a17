"""What a release says about itself, as pydantic records; no torch here."""

from hub_client.manifest.plan import EarlyStopping, Plan
from hub_client.manifest.v1 import Manifest

__all__ = ["EarlyStopping", "Manifest", "Plan"]
