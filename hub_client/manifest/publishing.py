"""What a manifest must state, beyond being valid, before a release goes to others."""

from __future__ import annotations

from hub_client.manifest.v1 import Manifest

NEEDED = {
    "title": "what the model is called",
    "summary": "a sentence on what it is",
    "created": "when it was made",
    "authors": "who made it",
    "citation": "what to cite: a doi or bibtex",
    "license": "the SPDX id of the weights' licence",
    "data_license": "the SPDX id of the training data's licence",
    "intended_use": "what it is for",
    "limitations": "what it is not for",
}
"""The fields that a published release fills, and what belongs there; name and version are there in every manifest."""


def publishing_problems(manifest: Manifest) -> list[str]:
    """Return one line for each thing that a release still lacks to be published; none if it is ready."""
    missing = [f"{field}: missing; state {what}" for field, what in NEEDED.items() if not getattr(manifest, field)]
    empty = manifest.citation and not (manifest.citation.doi or manifest.citation.bibtex)
    return [*missing, *(["citation: empty; give a doi or bibtex"] if empty else [])]
