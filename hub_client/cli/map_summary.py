"""What ``archzoo map`` found, as one record: printed as tables, or as it is with ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_client import errors
from hub_client.cli import screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.data.cells import GeneReport
    from hub_client.labels.predict import LabelPrediction
    from hub_client.manifest.report import Report
    from hub_client.mapping.map_query import Mapping
    from hub_client.models.model import Model
    from hub_client.nn.training import History

MISSING_SHOWN = 10
COLOURS = {"green": "green", "amber": "yellow", "red": "bold red"}
"""How a terminal shows the words of a verdict, which are written out."""
GENES_SHOWN = 5


def summary(mapping: Mapping, reference: Model, *, judged: Report | None) -> dict[str, Any]:
    """Return what is worth reporting of a mapping, ready for JSON."""
    place = mapping.adata.uns["archzoo"]["reference"]
    return {
        "reference": {key: place.get(key) for key in ("name", "version", "digest", "commit", "hub")},
        "cells": mapping.adata.n_obs,
        "genes": _genes(mapping.alignment, total=len(reference.vocabulary.genes)),
        "training": _training(mapping.history) if mapping.history else None,
        "decision": {"train": mapping.decision.train, "reason": mapping.decision.reason} if mapping.decision else None,
        "programs": 0 if mapping.scores is None else mapping.scores.shape[1],
        "proteins": _proteins(mapping, reference),
        "labels": {level: _labels(found) for level, found in mapping.predictions.levels.items()},
        "unknown": {level: _unknown(found, level, mapping) for level, found in mapping.predictions.levels.items()},
        "label_sets": {level: _sets(found) for level, found in mapping.predictions.levels.items()},
        "novelty": mapping.novelty.record if mapping.novelty else None,
        "evaluation": judged.model_dump(mode="json")["levels"] if judged else None,
        "warnings": list(mapping.alignment.warnings),
        "verdict": mapping.verdict.as_json() | {"stated": mapping.verdict.stated} if mapping.verdict else None,
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


def _proteins(mapping: Mapping, reference: Model) -> dict[str, Any] | None:
    panel, found = reference.manifest.proteins, mapping.alignment.proteins
    if panel is None or found is None:
        return None
    return {"total": len(panel.panel), "missing": list(found.missing), "counts_from": found.source}


def _training(history: History) -> dict[str, Any]:
    return {
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "seconds": round(history.seconds, 2),
        "device": history.device,
    }


def _labels(found: LabelPrediction) -> list[dict[str, Any]]:
    import pandas as pd

    grouped = pd.Series(found.uncertainty).groupby(found.labels.astype(str)).agg(["size", "mean"])
    rows = grouped.sort_values("size", ascending=False, kind="stable").itertuples()
    return [{"label": str(row[0]), "cells": int(row[1]), "mean_uncertainty": float(row[2])} for row in rows]


def _unknown(found: LabelPrediction, level: str, mapping: Mapping) -> dict[str, Any]:
    """Return how many cells of a level are called unknown, and above which uncertainty; None where all are named."""
    from hub_client.labels.predict import UNKNOWN, threshold

    above = threshold(mapping.model, level, mapping.receipt.asked.unknown_above)
    return {"cells": int((found.labels == UNKNOWN).sum()), "above": above}


def _sets(found: LabelPrediction) -> dict[str, Any] | None:
    if found.sets is None:
        return None
    sizes = found.sets.to_numpy().sum(axis=1)
    return {"mean_size": float(sizes.mean()), "several": int((sizes > 1).sum())}


def show(record: dict[str, Any]) -> None:
    """Print a summary for people."""
    reference = record["reference"]
    commit = f", commit {reference['commit'][:12]}" if reference["commit"] else ""
    screen.say_facts(
        {
            "reference": f"{reference['name']} {reference['version']}{commit}",
            "cells": f"{record['cells']:,}",
            "genes": _gene_line(record["genes"]),
            "not measured": _missing_line(record["genes"]),
            "training": _training_line(record["training"], record["decision"]),
            **({"proteins": _protein_line(record["proteins"])} if record["proteins"] else {}),
            **({"gene programs": f"{record['programs']:,} scores a cell"} if record["programs"] else {}),
            "novel cells": _novelty_line(record["novelty"], cells=record["cells"]),
            "written": ", ".join(filter(None, record["written"].values())),
            **({"verdict": record["verdict"]["stated"]} if record["verdict"] else {}),
        }
    )
    for level, rows in record["labels"].items():
        screen.say()
        _show_labels(level, rows, total=record["cells"])
        _show_doubt(record["unknown"][level], record["label_sets"][level], total=record["cells"])
    strangers = record["novelty"]["clusters"] if record["novelty"] else []
    if strangers := [cluster for cluster in strangers if cluster["verdict"] != "known"]:
        screen.say()
        _show_strangers(strangers)
    for level in record["evaluation"] or ():
        screen.say()
        _show_evaluation(level)
    if record["verdict"]:
        screen.say()
        _show_verdict(record["verdict"]["checks"])


def _novelty_line(found: dict[str, Any] | None, *, cells: int) -> str:
    from hub_client.labels.novelty import UNTOLD

    if found is None:
        return f"not told: {UNTOLD}"
    share = found["novel"] / cells
    return f"{found['novel']:,} of {cells:,} ({share:.1%}; {found['declared']:.0%} of known cells are expected)"


def _show_strangers(clusters: list[dict[str, Any]]) -> None:
    """Print the clusters that are novel in part at least, and what sets them apart."""
    columns = [
        Column("cluster", text=lambda row: f"{row['cluster']}"),
        Column("", text=lambda row: row["verdict"]),
        Column("cells", "right", text=lambda row: f"{row['cells']:,}"),
        Column("novel", "right", text=lambda row: f"{row['share']:.0%}"),
        Column("nearest label", text=lambda row: row["label"] or "", rank=1),
        Column("higher than in the reference", text=lambda row: " ".join(row["up"][:GENES_SHOWN])),
        Column("lower", text=lambda row: " ".join(row["down"][:GENES_SHOWN]), rank=2),
    ]
    screen.say_table(columns, clusters)


def _training_line(training: dict[str, Any] | None, decision: dict[str, Any] | None) -> str:
    if decision is None:
        return "none: the model knew all conditions already"
    if training is None:
        return f"none, {decision['reason']}"
    return f"{training['epochs']} epochs in {training['seconds']:.1f} s on {training['device']} ({training['stopped']})"


def _gene_line(genes: dict[str, Any]) -> str:
    found = genes["total"] - genes["missing"]
    line = f"{found:,} of {genes['total']:,} measured ({genes['coverage']:.1%})"
    if genes["weighted_coverage"] is not None:
        line += f"; {genes['weighted_coverage']:.1%} of what the encoder reads"
    return f"{line}; matched by {genes['matched_by']}, counts from {genes['counts_from']}"


def _protein_line(proteins: dict[str, Any]) -> str:
    total, missing = proteins["total"], len(proteins["missing"])
    if proteins["counts_from"] is None:
        return f"none measured; all {total:,} imputed"
    return f"{total - missing:,} of {total:,} measured, counts from {proteins['counts_from']}; all {total:,} imputed"


def _missing_line(genes: dict[str, Any]) -> str:
    more = genes["missing"] - len(genes["most_used_missing"])
    return ", ".join(genes["most_used_missing"]) + (f" and {more:,} more" if more else "") or "none"


def _show_verdict(checks: list[dict[str, Any]]) -> None:
    """Print the checks that object, with what to do, and count the others."""
    against = [check for check in checks if check["colour"] in ("amber", "red")]
    columns = [
        Column("check", text=lambda check: check["name"]),
        Column("verdict", text=lambda check: check["colour"], style=lambda colour: COLOURS.get(colour, "dim")),
        Column("why, and what to do", text=lambda check: f"{check['what']} {check['advice']}".rstrip()),
    ]
    if against:
        screen.say_table(columns, against)
    green, unchecked = (sum(check["colour"] == word for check in checks) for word in ("green", "not checked"))
    screen.say(f"{green} checks are green and {unchecked} not made; --json and the output's uns have each")


def _show_labels(level: str, rows: list[dict[str, Any]], *, total: int) -> None:
    columns = [
        Column(level, text=lambda row: row["label"]),
        Column("cells", "right", text=lambda row: f"{row['cells']:,}"),
        Column("share", "right", text=lambda row: f"{row['cells'] / total:.1%}"),
        Column("mean uncertainty", "right", text=lambda row: f"{row['mean_uncertainty']:.3f}"),
    ]
    screen.say_table(columns, rows)


def _show_doubt(unknown: dict[str, Any], sets: dict[str, Any] | None, *, total: int) -> None:
    """Print how many cells are called unknown, and how large label sets are."""
    if unknown["above"] is not None:
        screen.say(f"called unknown: {unknown['cells']:,} of {total:,} (uncertainty above {unknown['above']:g})")
    if sets is not None:
        size, several = sets["mean_size"], sets["several"]
        screen.say(f"label sets: {size:.2f} labels in the mean, {several:,} of {total:,} cells have more than one")


def _show_evaluation(level: dict[str, Any]) -> None:
    left_out, never_true = sum(level["not_in_model"].values()), level["never_true"]
    given = errors.names(f"{name} ({count:,} cells)" for name, count in never_true.items())
    screen.say(
        f"{level['level']}: accuracy {level['accuracy']:.3f}, macro-F1 {level['macro_f1']:.3f} over {level['cells']:,} "
        f"cells"
        + (f"; {left_out:,} cells with labels unknown to the model left out" if left_out else "")
        + (f"; given and never true, each an F1 of 0 in the mean: {given}" if never_true else "")
    )
    if level["latent_accuracy"] is not None:
        accuracy, macro_f1 = level["latent_accuracy"], level["latent_macro_f1"]
        screen.say(f"from the latent alone: accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}")
    if level["named_accuracy"] is not None:
        screen.say(f"of cells that are not called unknown: accuracy {level['named_accuracy']:.3f}")
    if level["set_coverage"] is not None:
        coverage, size = level["set_coverage"], level["set_size"]
        screen.say(f"label sets: {coverage:.3f} of them hold the true label, with {size:.2f} labels in the mean")
    columns = [Column("label"), *(Column(name, "right") for name in ("cells", "precision", "recall", "F1"))]
    shares = [[f"{row[name]:.3f}" for name in ("precision", "recall", "f1")] for row in level["labels"]]
    rows = zip(level["labels"], shares, strict=True)
    screen.say_table(columns, [[row["label"], f"{row['cells']:,}", *each] for row, each in rows])
