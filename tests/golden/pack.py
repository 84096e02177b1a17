"""Pack recordings of scArches into the files beside this one: ``python tests/golden/pack.py FOLDER [KIND ...]``.

FOLDER holds one folder per model (``state.npz``, ``forward.npz``, ``outputs.npz``, ...), the cells (``data_*.npz``) and
``index.json``; README.md says how they were recorded. What no test reads is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LEFT_OUT = ("classify_sampled", "num_batches_tracked", "protoinfo_labeled_obs__batch", "protoinfo_unlabeled_obs__batch")
KEPT = ("attrs", "train", "encoders", "trainable")


def pack_model(folder: Path) -> None:
    """Write one model's arrays as ``<model>.npz``, each under ``<recording>/<array>``."""
    arrays = {
        f"{path.stem}/{name}": values
        for path in sorted(folder.glob("*.npz"))
        for name, values in np.load(path, allow_pickle=False).items()
        if not any(part in name for part in LEFT_OUT)
    }
    np.savez_compressed(HERE / f"{folder.name}.npz", **arrays)


def pack_facts(recorded: Path, kind: str) -> None:
    """Write what is known of all models of a kind as ``<kind>.json``."""
    models = json.loads((recorded / "index.json").read_text())["models"]
    facts = {name: {key: m[key] for key in KEPT if key in m} for name, m in models.items() if name.startswith(kind)}
    for path in sorted(recorded.glob(f"{kind}*/mapping.json")):
        facts.setdefault(path.parent.name, {})["mapping"] = json.loads(path.read_text())
    (HERE / f"{kind}.json").write_text(json.dumps(facts, indent=1) + "\n")


def pack_cells(recorded: Path) -> None:
    """Write all cells as ``cells.npz``, each data set under ``<set>/<array>``."""
    arrays = {
        f"{path.stem.removeprefix('data_')}/{name}": values
        for path in sorted(recorded.glob("data_*.npz"))
        for name, values in np.load(path, allow_pickle=False).items()
    }
    np.savez_compressed(HERE / "cells.npz", **arrays)


def main(recorded: Path, *kinds: str) -> None:
    """Pack the cells and the models of the given kinds."""
    pack_cells(recorded)
    for kind in kinds or ("scpoli", "trvae"):
        pack_facts(recorded, kind)
        for folder in sorted(recorded.glob(f"{kind}_*")):
            pack_model(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
