"""What figures a build measures of its model: their names, what each is, and which way is better.

A metric's name is ``<subject>.<figure>``. The subject is a label level, ``reproduction`` or ``integration.<space>``; of
label transfer onto a batch that was left out it is ``<level>.left_out.<method>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

REPRODUCTION = "reproduction"
INTEGRATION = "integration"
LEFT_OUT = "left_out"
LATENT, PCA = "latent", "pca"
"""The spaces that integration is measured in: the model's, and principal components of z-scored log counts."""
OURS, LINEAR, NEIGHBOURS = "model", "logistic_regression", "neighbours_after_pca"
"""Who labels a batch that was left out: the model, and its two simple opponents."""
METHODS = {OURS: "this model", LINEAR: "logistic regression", NEIGHBOURS: "neighbours after PCA"}
"""What each is called on a card."""
MARGIN = 0.01
"""How much worse a figure may be before it counts as worse."""


@dataclass(frozen=True)
class Measure:
    """One figure."""

    definition: str
    better: Literal["higher", "lower"]
    bound: float | None = None
    """What it is at worst in a model that reproduces its data; None where there is no such bound."""

    def fails(self, value: float) -> bool:
        """Return whether a value is beyond the bound."""
        return self.bound is not None and (value < self.bound if self.better == "higher" else value > self.bound)


_GENES = "over genes that at least 10 of the cells express"
_RATIO = "median over genes of the absolute log ratio (natural) of drawn and observed"
REPRODUCED: Mapping[str, Measure] = {
    "mean_correlation": Measure(
        f"Pearson correlation of the log mean of each gene, drawn and observed, {_GENES}", "higher", 0.9
    ),
    "mean_log_ratio": Measure(f"{_RATIO} mean", "lower", 0.4),
    "variance_correlation": Measure("as mean_correlation, of the log variance of each gene", "higher", 0.8),
    "variance_log_ratio": Measure(f"{_RATIO} variance", "lower", 1.1),
    "zeros_difference": Measure(
        "mean over genes of the absolute difference of the share of cells that are 0, drawn and observed", "lower", 0.05
    ),
    "total_log_ratio": Measure(
        "median over cells of the absolute log ratio (natural) of a cell's total, drawn and observed", "lower", 0.4
    ),
    "detected_correlation": Measure(
        "Pearson correlation over cells of the log number of genes that are not 0, drawn and observed", "higher", 0.7
    ),
    "detected_log_ratio": Measure(
        "median over cells of the absolute log ratio (natural) of the number of genes that are not 0", "lower", 0.4
    ),
}
"""How well draws from the model are like its data. Every model of the zoo is within all of the bounds, and one whose
decoder gives genes each other's means is beyond several."""
NOT_OF_MEANS = frozenset(
    {"variance_log_ratio", "zeros_difference", "total_log_ratio", "detected_correlation", "detected_log_ratio"}
)
"""What is not asked of models of log1p values, whose decoders state a mean and no spread."""
INTEGRATED: Mapping[str, Measure] = {
    "neighbour_labels": Measure(
        "share of cells whose label is the one that most of their 15 nearest cells of other batches have", "higher"
    ),
    "batch_correction": Measure("scib-metrics' aggregate of batch correction", "higher"),
    "bio_conservation": Measure("scib-metrics' aggregate of bio conservation", "higher"),
}
"""How well a space mixes batches and keeps labels apart."""
TRANSFERRED: Mapping[str, Measure] = {
    "accuracy": Measure("share of cells whose predicted label is the true one", "higher"),
    "macro_f1": Measure("mean of F1 over the labels that cells have or are given (scikit-learn's)", "higher"),
    "calibration_error": Measure("expected calibration error of the uncertainty over ten bins", "lower"),
}
"""How well labels are transferred onto a batch that was left out."""
SETS: Mapping[str, Measure] = {"set_size": Measure("mean number of labels in a label set", "lower")}
"""Of label sets. How often they hold the true label is no better the higher it is: it is to be what was stated."""


def left_out_name(level: str, method: str, figure: str) -> str:
    """Return what the figure of a method's labels of a batch that was left out is called."""
    return f"{level}.{LEFT_OUT}.{method}.{figure}"


def left_out_split(batch: str) -> str:
    """Return what the split of a batch that was left out is called."""
    return f"{_LEFT_OUT_SPLIT}{batch}"


def left_out_batch(split: str) -> str:
    """Return the batch of such a split."""
    return split.removeprefix(_LEFT_OUT_SPLIT)


def measure(name: str) -> Measure | None:
    """Return what is known of a metric's figure by its name; None of figures that archzoo does not measure."""
    subject, figure = name.partition(".")[0], name.rpartition(".")[2]
    tables = {REPRODUCTION: REPRODUCED, INTEGRATION: INTEGRATED}
    return tables.get(subject, {**TRANSFERRED, **SETS}).get(figure.removeprefix("latent_"))


def criticises(name: str) -> bool:
    """Return whether a metric is one of those that a card shows in sections of their own."""
    return name.partition(".")[0] in (REPRODUCTION, INTEGRATION) or f".{LEFT_OUT}." in name


_LEFT_OUT_SPLIT = "left out: "
