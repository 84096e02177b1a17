"""Find the bundled zoo and its cards: in a wheel, an editable install and a plain checkout."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _first(*places: Path) -> Path:
    return next((place for place in places if place.is_dir()), places[0])


def released() -> Path:
    """Return the folder of bundled releases, ``<name>/<version>/``."""
    return _first(_HERE / "_zoo", _HERE.parent / "zoo" / "released")


def cards() -> Path:
    """Return the folder of model cards, ``<name>.md``."""
    return _first(_HERE / "_cards", _HERE.parent / "cards")
