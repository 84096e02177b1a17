"""Where the cards that were released differ from what is rendered of their manifests now.

A released card is one of its release's files and never changes, so that a sentence which is corrected in the renderer
stays in it as it was. ``python -m hub_client.release.released_cards FILE`` writes the record, which CI compares: no
released card comes to differ unnoticed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

from hub_client import _resources
from hub_client.manifest.reading import read_manifest
from hub_client.release import card

_HEADS = ("---", "+++", "@@")
_PREFACE = """# Released cards

The card of a release is one of its files and never changes. Below is what the cards in `zoo/released` state (`-`) and
the cards in `cards/`, which are rendered of the same manifests now, state otherwise (`+`). A release that is not named
here has the same card in both. Written by `make generate`.
"""


def differences(released: Path) -> str:
    """Return, as Markdown, every line in which a released card differs from what is rendered of its manifest now.

    Parameters
    ----------
    released
        Release folders as ``<name>/<version>``.
    """
    parts = [_PREFACE]
    for manifest in sorted(released.glob("*/*/manifest.json")):
        if changed := list(_changed(manifest)):
            lines = "\n".join(["```diff", *changed, "```"])
            parts.append(f"## {manifest.parts[-3]} {manifest.parts[-2]}\n\n{lines}\n")
    return "\n".join(parts)


def _changed(manifest: Path) -> Iterator[str]:
    before = (manifest.parent / "README.md").read_text(encoding="utf-8").splitlines()
    now = card.render(read_manifest(manifest.read_bytes(), source=str(manifest))).splitlines()
    for line in unified_diff(before, now, lineterm="", n=0):
        if not line.startswith(_HEADS) and line[1:].strip():
            yield f"{line[0]} {line[1:]}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(differences(_resources.released()), encoding="utf-8")
