"""Models of a reference without one of its parts: what they know, and that they learn nothing of the part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from hub_client.build import left_out as module
from hub_client.build.left_out import LeftOut, joined, left_out, parts
from hub_client.data.cells import Cells
from hub_client.manifest.plan import Plan
from hub_client.models.model import Model
from hub_client.models.train import train
from tests.simulated import CLASSES, REFERENCE, cells_for, manifest


def fitted(model: Model, cells: Cells) -> Model:
    train(model, cells, plan=Plan(epochs=2, learning_rate=5e-3), progress=False, accelerator="cpu")
    return model


def seen(model: Model, cells: Cells, *, chosen: dict[str, NDArray[np.bool_]] | None = None) -> list[LeftOut]:
    studies = cells.conditions["batch"]
    chosen = parts(cells, model, studies=studies) if chosen is None else chosen
    return list(left_out(model, cells, chosen=chosen, fitted=fitted, seed=0, device="cpu"))


def of_batches(names: list[str], *, like: Cells) -> Cells:
    """Return cells in batches of other names, evenly."""
    batches = np.resize(np.array(names), len(like))
    return replace(like, conditions=like.conditions | {"batch": batches})


def untrained(**options: object) -> tuple[Model, Cells]:
    described = manifest(**options)  # type: ignore[arg-type]
    return Model.build(described, seed=0), cells_for(described)


# --- which parts ------------------------------------------------------------------------------------------------------


def test_every_batch_is_left_out_once() -> None:
    model, cells = untrained()
    found = parts(cells, model, studies=np.full(len(cells), "one"))
    assert list(found) == list(REFERENCE)
    for name, inside in found.items():
        assert_array_equal(inside, cells.conditions["batch"] == name)


def test_one_batch_leaves_nothing_out() -> None:
    model, cells = untrained()
    assert parts(of_batches(["b0"], like=cells), model, studies=np.full(len(cells), "one")) == {}


def test_of_three_studies_whole_studies_are_left_out() -> None:
    model, cells = untrained()
    cells = of_batches(["a1", "a2", "b1", "b2", "c1", "c2"], like=cells)
    studies = np.array([name[0] for name in cells.conditions["batch"]])
    assert list(parts(cells, model, studies=studies)) == ["a", "b", "c"]
    two = np.where(studies == "c", "b", studies)
    found = parts(cells, model, studies=two)  # of two, a model without one has seen one alone
    assert len(found) == module.MOST and "a" not in found


def test_batches_that_studies_share_are_left_out_instead_of_these() -> None:
    """To leave out a study would leave its batch in."""
    model, cells = untrained()
    studies = np.resize(np.array(["x", "y", "z", "x"]), len(cells))
    assert list(parts(cells, model, studies=studies)) == list(REFERENCE)


def test_of_many_batches_several_are_left_out_together() -> None:
    model, cells = untrained()
    names = [f"n{number}" for number in range(8)]
    cells = of_batches([*names, "n0", "n0"], like=cells)
    found = parts(cells, model, studies=np.full(len(cells), "one"))
    assert len(found) == module.MOST
    assert sorted(name for part in found for name in part.split(" and ")) == names
    assert_array_equal(sum(inside.astype(int) for inside in found.values()), 1)
    assert max(inside.sum() for inside in found.values()) <= 3 * len(cells) / 10


def test_a_part_with_too_few_labelled_cells_is_not_left_out() -> None:
    model, cells = untrained()
    labels = cells.labels["cell_type"].copy()
    few = np.flatnonzero(cells.conditions["batch"] == "b1")[module.LEAST_CELLS - 1 :]
    labels[few] = ""
    cells = replace(cells, labels={"cell_type": labels})
    studies = np.full(len(cells), "one")
    assert list(parts(cells, model, studies=studies)) == ["b0", "b2"]
    labels[few[0]] = "B"
    assert list(parts(cells, model, studies=studies)) == list(REFERENCE)


# --- what a model of the rest knows ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scpoli", "scvi"])
def test_a_model_of_the_rest_knows_the_rests_categories_alone(kind: str) -> None:
    covariates = {"categorical": ("tech",)} if kind == "scvi" else {}
    model, cells = untrained(kind=kind, **covariates)
    conditions = model.manifest.conditions[0].model_copy(update={"unknown": "error"})
    model.manifest = model.manifest.changed(conditions=(conditions,))  # what a query may not, a part may
    known: list[tuple[str, ...]] = []

    def watched(fresh: Model, rest: Cells) -> Model:
        known.append(fresh.manifest.conditions[0].categories)
        assert set(rest.conditions["batch"]) == set(known[-1])
        return fitted(fresh, rest)

    batches = cells.conditions["batch"]
    if kind == "scvi":  # one technology is that of one batch
        cells = replace(cells, conditions=cells.conditions | {"tech": np.where(batches == "b0", "v2", "v3")})
    chosen = {"b0": batches == "b0"}
    (one,) = left_out(model, cells, chosen=chosen, fitted=watched, seed=0, device="cpu")
    assert known == [("b1", "b2")]
    assert one.model.manifest.conditions[0].categories == ("b1", "b2", "b0")
    if kind == "scvi":
        assert one.model.manifest.covariates.categorical[0].categories == ("v3", "v2")
    assert len(one.cells) + len(one.training) == len(cells)
    assert set(one.cells.conditions["batch"]) == {"b0"} and "b0" not in one.training.conditions["batch"]


def test_combinations_are_those_of_the_rest() -> None:
    model, cells = untrained(conditions=("batch", "tech"))
    batches = cells.conditions["batch"]
    cells = replace(cells, conditions={"batch": batches, "tech": np.where(batches == "b0", "v2", "v3")})
    values = [("b0", "v2"), ("b1", "v3"), ("b2", "v3")]
    combinations = [{"values": pair} for pair in values]
    described = type(model.manifest).model_validate(dict(model.manifest) | {"combinations": combinations})
    (one,) = seen(Model.build(described), cells, chosen={"b0": batches == "b0"})
    assert [tuple(found.values) for found in one.model.manifest.combinations] == [*values[1:], values[0]]
    assert one.model.manifest.conditions[1].categories == ("v3", "v2")


@pytest.mark.slow
def test_proteins_that_a_batch_measured_are_found_out_without_it() -> None:
    model, cells = untrained(kind="totalvi")
    panel = model.manifest.proteins
    assert panel is not None
    measured = panel.model_copy(update={"measured": {"b2": panel.panel[:-1]}})
    model.manifest = model.manifest.changed(proteins=measured)
    (one,) = seen(model, cells, chosen={"b2": cells.conditions["batch"] == "b2"})
    grown = one.model.manifest.proteins
    assert grown is not None and set(grown.measured) <= {"b2"}
    (other,) = seen(model, cells, chosen={"b0": cells.conditions["batch"] == "b0"})
    kept = other.model.manifest.proteins
    assert kept is not None and kept.measured["b2"] == panel.panel[:-1]


def test_nothing_of_the_part_is_trained_on() -> None:
    """Other labels and other counts in a part change what is said of it at most, and no weight."""
    model, cells = untrained()
    inside = cells.conditions["batch"] == "b1"
    turned = {"B": "T", "T": "B", "NK": "Mono", "Mono": "NK"}
    labels = cells.labels["cell_type"].copy()
    labels[inside] = [turned[name] for name in labels[inside]]
    (one,) = seen(model, cells, chosen={"b1": inside})
    (other,) = seen(model, replace(cells, labels={"cell_type": labels}), chosen={"b1": inside})
    for name, tensor in one.model.network.tensors().items():
        assert_array_equal(tensor, other.model.network.tensors()[name], err_msg=name)
    assert_array_equal(one.evidence["cell_type"].distances, other.evidence["cell_type"].distances)
    assert_array_equal(one.truth("cell_type"), [turned[name] for name in other.truth("cell_type")])


# --- all parts together -----------------------------------------------------------------------------------------------


def test_evidence_of_all_parts_is_joined_by_cell() -> None:
    model, cells = untrained()
    found = seen(model, cells)
    evidence, truth, part = joined(found, "cell_type")
    assert evidence.cells == len(cells) == len(truth) == len(part)
    assert {name: int((part == name).sum()) for name in REFERENCE} == dict.fromkeys(REFERENCE, 80)
    for name in REFERENCE:
        assert_array_equal(truth[part == name], cells.labels["cell_type"][cells.conditions["batch"] == name])


def test_a_label_that_the_rest_lacks_is_no_label_of_the_part() -> None:
    model, cells = untrained()
    inside = cells.conditions["batch"] == "b1"
    labels = np.where(inside | (cells.labels["cell_type"] != "NK"), cells.labels["cell_type"], "")
    (one,) = seen(model, replace(cells, labels={"cell_type": labels}), chosen={"b1": inside})
    assert set(labels[inside]) == set(CLASSES)
    assert_array_equal(one.truth("cell_type"), np.where(labels[inside] == "NK", "", labels[inside]))
    assert one.tells("cell_type")
    _, truth, _ = joined([one], "cell_type")
    assert "NK" not in truth
    alone = replace(one, reference=cells.relabelled({"cell_type": np.where(inside, labels, "")}))
    assert not alone.tells("cell_type")
