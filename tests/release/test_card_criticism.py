"""What a card states of a model's criticism."""

from __future__ import annotations

from typing import Any

import pytest

from hub_client.manifest.measures import left_out_name, left_out_split
from hub_client.manifest.v1 import Manifest
from hub_client.release import card
from hub_client.release.card_criticism import section
from tests import examples

LEVEL = "cell_type"


def metric(
    name: str, value: float, *, split: str = "trained on, and drawn anew", definition: str = "what it is"
) -> Any:
    return {"name": name, "definition": definition, "dataset": "blood", "split": split, "value": value, "n": 120}


def left_out(batch: str, method: str, *, accuracy: float, macro_f1: float, error: float = 0.05) -> list[Any]:
    figures = {"accuracy": accuracy, "macro_f1": macro_f1, "calibration_error": error}
    split = left_out_split(batch)
    return [metric(left_out_name(LEVEL, method, figure), value, split=split) for figure, value in figures.items()]


def described(*metrics: Any) -> Manifest:
    return examples.manifest(metrics=[metric("cell_type.accuracy", 0.93, split="held out"), *metrics])


def against(ours: float, theirs: float) -> str:
    """Return the section of a card where logistic regression has such a mean accuracy over two batches."""
    rows = [
        *left_out("a", "model", accuracy=ours - 0.1, macro_f1=0.8),
        *left_out("a", "logistic_regression", accuracy=theirs + 0.1, macro_f1=0.8),
        *left_out("b", "model", accuracy=ours + 0.1, macro_f1=0.8),
        *left_out("b", "logistic_regression", accuracy=theirs - 0.1, macro_f1=0.8),
    ]
    return section(described(*rows))


def test_a_card_without_such_metrics_has_no_section() -> None:
    assert section(described()) == ""
    assert "left out" not in card.render(described())


def test_a_model_that_loses_to_an_opponent_says_so() -> None:
    text = against(0.80, 0.83)
    sentence = "**Logistic regression labels `cell_type` of unseen batches better than this model does**: accuracy is "
    assert sentence + "0.800, 0.830 by it and macro-F1 is 0.800, 0.800 by it (means over 2 batches)." in text


@pytest.mark.parametrize("theirs", [0.79, 0.8, 0.809])
def test_within_the_margin_nothing_is_said(theirs: float) -> None:
    assert "better than this model" not in against(0.80, theirs)


def test_every_batch_and_method_has_its_row() -> None:
    lines = against(0.80, 0.83).splitlines()
    assert "| a | 120 | this model | 0.700 | 0.800 | 0.050 |" in lines
    assert "| b | 120 | logistic regression | 0.730 | 0.800 | 0.050 |" in lines
    assert "| Batch left out | Cells | Labels by | Accuracy | Macro-F1 | Calibration error |" in lines


def test_a_latent_that_loses_to_components_says_in_what() -> None:
    pairs = {"neighbour_labels": (0.7, 0.8), "batch_correction": (0.6, 0.3)}
    rows = [
        metric(f"integration.{space}.{figure}", value, split="trained on and held out, cell_type by batch")
        for figure, values in pairs.items()
        for space, value in zip(("latent", "pca"), values, strict=True)
    ]
    text = section(described(*rows))
    assert "**Principal components alone are better in: labels by neighbours in other batches.**" in text
    assert "| Batch correction (scib-metrics) | **0.600** | 0.300 |" in text


def test_a_model_that_does_not_reproduce_its_data_says_so_and_names_genes() -> None:
    worst = metric("reproduction.mean_log_ratio", 1.4, definition="ratio; fit worst: CD3D (x 30), LYZ (x 0.1)")
    text = section(described(metric("reproduction.mean_correlation", 0.4), worst))
    assert "**It reproduces its own data badly**: Mean of a gene: correlation of logs; Mean of a gene: median" in text
    assert "Genes that fit worst, drawn to observed mean: CD3D (x 30), LYZ (x 0.1)." in text
    good = section(described(metric("reproduction.mean_correlation", 0.98)))
    assert "badly" not in good and "**0.980**" in good


def test_the_table_of_labels_and_the_public_hub_keep_to_labels() -> None:
    manifest = described(metric("reproduction.mean_correlation", 0.4), *left_out("a", "model", accuracy=1, macro_f1=1))
    text = card.render(manifest)
    assert "`reproduction.mean_correlation`" not in text
    front = card.front_matter(manifest)["model-index"]
    assert [one["name"] for one in front[0]["results"][0]["metrics"]] == ["cell_type.accuracy"]
    assert (
        text.index("## How good it is") < text.index("### How well it reproduces") < text.index("## How far to trust")
    )
