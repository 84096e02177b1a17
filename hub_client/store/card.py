"""The card: a release in a page that a biologist reads, generated from its manifest and nothing else."""

from __future__ import annotations

from hub_client.manifest.v1 import Manifest


def render(manifest: Manifest) -> str:
    """Return the card of a release as Markdown."""
    return f"# {manifest.title or manifest.name}\n\n{manifest.summary}\n"
