"""Pack recordings of scArches into the files beside this one: ``python tests/golden/pack.py FOLDER [KIND ...]``.

FOLDER holds one folder per model (``state.npz``, ``forward.npz``, ``outputs.npz``, ...), the cells (``data_*.npz``) and
``index.json``; README.md says how they were recorded. What no test reads is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    for path in sorted(folder.glob("*_genes.json")):
        arrays |= {f"{path.stem}/{name}": values for name, values in _gene_lists(json.loads(path.read_text()))}
    np.savez_compressed(HERE / f"{folder.name}.npz", **arrays)


def _gene_lists(terms: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the genes of each term: its list, or each column of its table."""
    for term, found in terms.items():
        columns = found if isinstance(found, dict) else {"genes": found}
        yield from ((f"{term}/{column}", np.array(values)) for column, values in columns.items())


def pack_masks(recorded: Path) -> None:
    """Write the masks of all expiMaps as ``masks.npz``."""
    np.savez_compressed(HERE / "masks.npz", **np.load(recorded / "expimap_masks.npz", allow_pickle=False))


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


def pack_neighbors(recorded: Path) -> None:
    """Write the weighted nearest neighbours as ``neighbors.npz``."""
    np.savez_compressed(HERE / "neighbors.npz", **np.load(recorded / "knn_transfer.npz", allow_pickle=False))


def pack_operations(recorded: Path) -> None:
    """Write inputs and values of single losses and penalties as ``operations.npz``."""
    np.savez_compressed(HERE / "operations.npz", **np.load(recorded / "unit_ops.npz", allow_pickle=False))


def main(recorded: Path, *kinds: str) -> None:
    """Pack the cells and the models of the given kinds."""
    pack_cells(recorded)
    pack_masks(recorded)
    pack_neighbors(recorded)
    pack_operations(recorded)
    for kind in kinds or ("scpoli", "trvae", "expimap"):
        pack_facts(recorded, kind)
        for folder in sorted(recorded.glob(f"{kind}_*")):
            pack_model(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
