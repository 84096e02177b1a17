"""What ``archzoo map`` found, as one record: printed as tables, or as it is with ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_client.cli import screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    import pandas as pd

    from hub_client.data.cells import GeneReport
    from hub_client.mapping import Mapping
    from hub_client.model import Model

MISSING_SHOWN = 10


def summary(mapping: Mapping, reference: Model) -> dict[str, Any]:
    """Return what is worth telling about a mapping, ready for JSON."""
    return {
        "reference": _place(reference),
        "cells": mapping.adata.n_obs,
        "genes": _genes(mapping.alignment, total=len(reference.vocabulary.genes)),
        "training": _training(mapping),
        "labels": {level: _labels(mapping.adata.obs, level) for level in reference.vocabulary.labels},
        "warnings": list(mapping.alignment.warnings),
    }


def _place(model: Model) -> dict[str, Any]:
    ref = model.ref
    known = {"commit": ref.commit, "hub": ref.hub} if ref else {"commit": None, "hub": None}
    return {
        "name": ref.repo if ref else model.manifest.name,
        "version": model.manifest.version,
        "digest": model.manifest.digest,
        **known,
    }


def _genes(found: GeneReport, *, total: int) -> dict[str, Any]:
    return {
        "total": total,
        "coverage": found.coverage,
        "weighted_coverage": found.weighted_coverage,
        "missing": len(found.missing),
        "most_used_missing": list(found.missing[:MISSING_SHOWN]),
        "matched_by": found.id_type,
        "counts_from": found.source,
    }


def _training(mapping: Mapping) -> dict[str, Any]:
    history = mapping.history
    return {
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "seconds": round(history.seconds, 2),
        "device": history.device,
    }


def _labels(obs: pd.DataFrame, level: str) -> list[dict[str, Any]]:
    uncertainty = obs[f"{level}_uncertainty"].groupby(obs[f"{level}_pred"].astype(str))
    table = uncertainty.agg(["size", "mean"]).sort_values("size", ascending=False)
    return [
        {"label": str(label), "cells": int(row["size"]), "mean_uncertainty": float(row["mean"])}
        for label, row in table.iterrows()
    ]


def show(record: dict[str, Any]) -> None:
    """Print a summary for people."""
    genes, training = record["genes"], record["training"]
    screen.say_facts(
        {
            "reference": _reference_line(record["reference"]),
            "cells": f"{record['cells']:,}",
            "genes": _gene_line(genes),
            "missing": _missing_line(genes),
            "training": f"{training['epochs']} epochs in {training['seconds']:.1f} s on {training['device']}, "
            f"{training['stopped']}",
        }
    )
    for level, rows in record["labels"].items():
        screen.say()
        _show_labels(level, rows, total=record["cells"])


def _reference_line(reference: dict[str, Any]) -> str:
    commit = f", commit {reference['commit'][:12]}" if reference["commit"] else ""
    return f"{reference['name']} {reference['version']}{commit}"


def _gene_line(genes: dict[str, Any]) -> str:
    found = genes["total"] - genes["missing"]
    line = f"{found:,} of {genes['total']:,} measured ({genes['coverage']:.1%})"
    if genes["weighted_coverage"] is not None:
        line += f"; {genes['weighted_coverage']:.1%} of what the encoder reads"
    return f"{line}; matched by {genes['matched_by']}, counts from {genes['counts_from']}"


def _missing_line(genes: dict[str, Any]) -> str:
    more = genes["missing"] - len(genes["most_used_missing"])
    return ", ".join(genes["most_used_missing"]) + (f" and {more:,} more" if more else "") or "none"


LABEL_COLUMNS = [Column(""), Column("cells", "right"), Column("share", "right"), Column("mean uncertainty", "right")]


def _show_labels(level: str, rows: list[dict[str, Any]], *, total: int) -> None:
    columns = [Column(level), *LABEL_COLUMNS[1:]]
    screen.say_table(
        columns,
        [
            [row["label"], f"{row['cells']:,}", f"{row['cells'] / total:.1%}", f"{row['mean_uncertainty']:.3f}"]
            for row in rows
        ],
    )
