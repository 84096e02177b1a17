"""The card's sections on how a model was criticised: beside simple opponents, beside PCA, and against its own data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from hub_client.files import markdown as md
from hub_client.manifest.calibration import Metric
from hub_client.manifest.measures import (
    INTEGRATION,
    LATENT,
    LEFT_OUT,
    MARGIN,
    METHODS,
    OURS,
    PCA,
    REPRODUCTION,
    criticises,
    left_out_batch,
    measure,
)
from hub_client.manifest.v1 import Manifest

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "calibration_error": "calibration error"}
"""Figures of label transfer, and what a card calls them."""
COMPARED = ("accuracy", "macro_f1")
"""Those by which a model loses to an opponent."""
SCORES = {
    "neighbour_labels": "Labels by neighbours in other batches",
    "batch_correction": "Batch correction (scib-metrics)",
    "bio_conservation": "Bio conservation (scib-metrics)",
}
REPRODUCTIONS = {
    "mean_correlation": "Mean of a gene: correlation of logs",
    "mean_log_ratio": "Mean of a gene: median absolute log ratio",
    "variance_correlation": "Variance of a gene: correlation of logs",
    "variance_log_ratio": "Variance of a gene: median absolute log ratio",
    "zeros_difference": "Share of cells without a gene: mean absolute difference",
    "total_log_ratio": "Total of a cell: median absolute log ratio",
    "detected_correlation": "Genes detected in a cell: correlation of logs",
    "detected_log_ratio": "Genes detected in a cell: median absolute log ratio",
}


def others(manifest: Manifest) -> list[Metric]:
    """Return the metrics that have no section here: of labels, and whatever else somebody measured."""
    return [metric for metric in manifest.metrics if not criticises(metric.name)]


def section(manifest: Manifest) -> str:
    """Return how the model does beside simple opponents and PCA, and how well it reproduces its data; "" if unknown."""
    parts = (_left_out(manifest), _integration(manifest), _reproduction(manifest))
    return "\n\n".join(part for part in parts if part)


# --- batches that were left out ------------------------------------------------------------------------------------


def _left_out(manifest: Manifest) -> str:
    return "\n\n".join(part for level in manifest.labels for part in _left_out_of(manifest, level.key))


def _left_out_of(manifest: Manifest, level: str) -> Iterator[str]:
    """Yield heading, table and sentences on one level's labels of batches that were left out; nothing without any."""
    table = left_out(manifest.metrics, level)
    if not table:
        return
    cells = {left_out_batch(metric.split): metric.n for metric in manifest.metrics if _is_of(metric, level)}
    yield f"### {md.code(level)} of batches that were left out"
    yield (
        "Each batch was labelled by a model that was trained on the others, and by two simple opponents that know the "
        "same cells: logistic regression with CellTypist's settings, and the 15 nearest cells after PCA."
    )
    rows = [
        (md.text(batch), f"{cells[batch]:,}", METHODS[method], *_shown(figures))
        for batch, methods in table.items()
        for method, figures in methods.items()
    ]
    yield md.table(
        ["Batch left out", "Cells", "Labels by", *(f"{name[0].upper()}{name[1:]}" for name in FIGURES.values())], rows
    )
    yield from (loss for method in METHODS if method != OURS and (loss := lost(table, level, method)))


def left_out(metrics: Iterable[Metric], level: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of one level's labels, by the batch that was left out and by the method."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for metric in metrics:
        method, _, figure = metric.name.removeprefix(f"{level}.{LEFT_OUT}.").partition(".")
        if _is_of(metric, level) and method in METHODS and figure in FIGURES:
            found.setdefault(left_out_batch(metric.split), {}).setdefault(method, {})[figure] = metric.value
    return found


def _is_of(metric: Metric, level: str) -> bool:
    return metric.name.startswith(f"{level}.{LEFT_OUT}.")


def _shown(figures: Mapping[str, float]) -> list[str]:
    return [f"{figures[figure]:.3f}" if figure in figures else "" for figure in FIGURES]


def lost(table: Mapping[str, Mapping[str, Mapping[str, float]]], level: str, method: str) -> str:
    """Return that a model loses to an opponent, in the mean over batches by more than the margin; "" if not."""
    means = {figure: _means(table, method, figure) for figure in COMPARED}
    known = {figure: pair for figure, pair in means.items() if pair is not None}
    if not any(theirs - ours > MARGIN for ours, theirs in known.values()):
        return ""
    figures = " and ".join(
        f"{FIGURES[figure]} is {ours:.3f}, {theirs:.3f} by it" for figure, (ours, theirs) in known.items()
    )
    return (
        f"**{METHODS[method].capitalize()} labels {md.code(level)} of unseen batches better than this model does**: "
        f"{figures} (means over {len(table)} {'batch' if len(table) == 1 else 'batches'})."
    )


def _means(
    table: Mapping[str, Mapping[str, Mapping[str, float]]], method: str, figure: str
) -> tuple[float, float] | None:
    """Return a figure's mean over the batches that both have, ours and an opponent's."""
    pairs = [
        (methods[OURS][figure], methods[method][figure])
        for methods in table.values()
        if figure in methods.get(OURS, {}) and figure in methods.get(method, {})
    ]
    return (
        (float(np.mean([ours for ours, _ in pairs])), float(np.mean([theirs for _, theirs in pairs])))
        if pairs
        else None
    )


# --- the latent beside PCA, and draws beside data --------------------------------------------------------------------


def _integration(manifest: Manifest) -> str:
    values = {metric.name: metric for metric in manifest.metrics}
    rows, worse = [], []
    for figure, shown in SCORES.items():
        latent, pca = (values.get(f"{INTEGRATION}.{space}.{figure}") for space in (LATENT, PCA))
        if latent is not None and pca is not None:
            rows.append((shown, f"**{latent.value:.3f}**", f"{pca.value:.3f}"))
            worse += [f"{shown[0].lower()}{shown[1:]}"] if pca.value - latent.value > MARGIN else []
    if not rows:
        return ""
    first = next(metric for metric in manifest.metrics if metric.name.startswith(f"{INTEGRATION}."))
    told = (
        f"Of {first.n:,} cells ({md.text(first.split)}), in the latent and in 50 principal components of log counts; "
        "higher is better."
    )
    losses = f"**Principal components alone are better in: {', '.join(worse)}.**" if worse else ""
    table = md.table(["", "Latent", "PCA"], rows)
    return "\n\n".join(filter(None, ["### The latent beside PCA", told, table, losses]))


def _reproduction(manifest: Manifest) -> str:
    found = {metric.name.partition(".")[2]: metric for metric in manifest.metrics if _is_reproduction(metric)}
    if not found:
        return ""
    rows = [(shown, f"**{found[name].value:.3f}**") for name, shown in REPRODUCTIONS.items() if name in found]
    failed = [REPRODUCTIONS[name] for name, metric in found.items() if name in REPRODUCTIONS and fails(metric)]
    first, ratio = next(iter(found.values())), found.get("mean_log_ratio")
    told = (
        f"What the model draws anew for {first.n:,} of its own cells, beside those cells. A correlation of 1 and a "
        "ratio or difference of 0 are a perfect copy; 0.69 is a factor of two."
    )
    worst = f"Genes that fit worst, drawn to observed mean: {md.text(names)}." if (names := _worst(ratio)) else ""
    verdict = (
        f"**It reproduces its own data badly**: {'; '.join(failed)}. What is read off its decoder deserves no trust."
        if failed
        else ""
    )
    return "\n\n".join(
        filter(None, ["### How well it reproduces its own data", told, md.table(["", "Value"], rows), worst, verdict])
    )


def _is_reproduction(metric: Metric) -> bool:
    return metric.name.startswith(f"{REPRODUCTION}.")


def fails(metric: Metric) -> bool:
    """Return whether a figure of reproduction is beyond what a model that reproduces its data has."""
    known = measure(metric.name)
    return known is not None and known.fails(metric.value)


def _worst(metric: Metric | None) -> str:
    return "" if metric is None else metric.definition.partition("; fit worst: ")[2]
