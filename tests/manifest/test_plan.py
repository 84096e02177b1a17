"""Plans: what each kind of model reads, and the flat way in which files of format 1 have it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hub_client import errors
from hub_client.manifest.configs import ArchitectureConfig
from hub_client.manifest.plan import (
    LATER,
    OPTIONS,
    OWNERS,
    EarlyStopping,
    ExpiMapOptions,
    Plan,
    ScanviOptions,
    ScPoliOptions,
    TotalViOptions,
)
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.receipts import read_receipt
from hub_client.manifest.recipe import Recipe
from tests import examples

KEPT = Path(__file__).parents[1] / "manifests"
FOREIGN = {"prototype_weight": 50.0, "group_lasso": 9.0, "adversarial": True}
NESTED = Plan(
    scpoli=ScPoliOptions(prototype_weight=50),
    totalvi=TotalViOptions(adversarial=True),
    expimap=ExpiMapOptions(group_lasso=9),
)


def test_options_may_stand_among_the_rest() -> None:
    assert Plan(**FOREIGN) == NESTED
    assert Plan(scanvi=ScanviOptions(classification_weight=7), samples_per_label=9).scanvi == ScanviOptions(
        classification_weight=7, samples_per_label=9
    )


def test_a_plan_is_written_flat_and_read_again() -> None:
    flat = json.loads(NESTED.model_dump_json())
    assert flat == NESTED.model_dump(mode="json") and flat | FOREIGN == flat
    assert flat.keys() == ((Plan.model_fields.keys() - OPTIONS.keys()) | OWNERS.keys()) - LATER.keys()
    assert Plan.model_validate(flat) == NESTED


def test_every_option_is_of_a_kind_of_architecture() -> None:
    kinds = {config.model_fields["kind"].default for config in ArchitectureConfig.__args__[0].__args__}  # type: ignore[attr-defined]
    assert set(OPTIONS) == set(OWNERS.values()) < kinds
    assert len(OWNERS) == sum(len(options.model_fields) for options in OPTIONS.values())


@pytest.mark.parametrize("kind", ["trvae", "scvi", "scpoli", "scanvi", "totalvi", "expimap"])
@pytest.mark.parametrize("name", OWNERS)
def test_an_option_is_refused_by_name_where_its_kind_is_another(name: str, kind: str) -> None:
    default = OPTIONS[OWNERS[name]].model_fields[name].default
    others: dict[str, Any] = {"unlabelled_clustering": "kmeans", "adversarial": True, "group_lasso_scale": (1.0, 2.0)}
    value = others.get(name, 0.7 if name == "label_smoothing" else 7)
    assert Plan(**{name: default}).checked_for(kind) == Plan()
    plan = Plan(epochs=3, **{name: value})
    if kind == OWNERS[name]:
        assert plan.checked_for(kind) == plan == plan.only(kind)
        return
    with pytest.raises(errors.InvalidInput, match=rf"sets {name} \(of {OWNERS[name]}\), which {kind} does") as caught:
        plan.checked_for(kind)
    assert caught.value.facts == {name: value}
    assert plan.only(kind) == Plan(epochs=3)


def test_the_refusal_names_all_and_what_the_kind_reads() -> None:
    with pytest.raises(errors.InvalidInput, match="trvae reads what every kind reads, and nothing else") as caught:
        NESTED.checked_for("trvae")
    assert caught.value.facts == FOREIGN
    with pytest.raises(errors.InvalidInput, match="totalvi reads adversarial: leave out") as caught:
        NESTED.checked_for("totalvi")
    assert caught.value.facts == {"prototype_weight": 50, "group_lasso": 9}
    with pytest.raises(errors.InvalidInput, match=r"^query_plan sets"):
        NESTED.checked_for("scvi", called="query_plan")


def test_a_change_is_validated_and_may_be_flat() -> None:
    changed = Plan(epochs=3, group_lasso=1).changed(soft_mask_l1=2, epochs=4)
    assert changed == Plan(epochs=4, expimap=ExpiMapOptions(group_lasso=1, soft_mask_l1=2))
    with pytest.raises(errors.ManifestError, match="epoch: not a key"):
        changed.changed(epoch=1)
    with pytest.raises(errors.ManifestError, match=r"\Wsoft_mask_l1: .*greater than or equal to 0"):
        changed.changed(soft_mask_l1=-1)


def test_what_a_model_copy_sets_flat_counts() -> None:
    copy = Plan(epochs=3).model_copy(update={"soft_mask_l1": 1.0})
    assert copy.checked_for("expimap") == Plan(epochs=3, soft_mask_l1=1.0)
    assert examples.manifest(query_plan=copy).query_plan == Plan(epochs=3, soft_mask_l1=1.0)
    with pytest.raises(errors.InvalidInput, match="soft_mask_l1"):
        copy.checked_for("trvae")
    with pytest.raises(errors.ManifestError, match="soft_mask: not a key"):
        copy.model_copy(update={"soft_mask": 1.0}).checked_for("expimap")


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"scpoli": ScPoliOptions().model_copy(update={"prototype_weight": -1.0})}, "prototype_weight"),
        ({"early_stopping": EarlyStopping().model_copy(update={"patience": -3})}, "early_stopping.*patience"),
    ],
)
def test_what_a_model_copy_sets_in_a_part_is_validated(part: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        Plan(**part)
    with pytest.raises(errors.ManifestError, match=place):
        Plan().model_copy(update=part).checked_for("scpoli")


def test_a_problem_is_placed_where_files_have_it() -> None:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate({"prototype_weight": -1})
    assert [one["loc"] for one in caught.value.errors()] == [("prototype_weight",)]
    with pytest.raises(errors.ManifestError) as refused:
        examples.manifest().changed(query_plan={"epochs": -1, "hsic_weight": "much"})
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "query_plan.epochs",
        "query_plan.hsic_weight",
    ]


@pytest.mark.parametrize("options", [{}, {"prototype_weight": 2}, 5, None, Plan(), ExpiMapOptions()])
def test_files_have_options_flat_only(options: object) -> None:
    for more in ({}, {"prototype_weight": 3}):
        with pytest.raises(ValidationError, match="scpoli cannot be a key"):
            Plan.model_validate({"scpoli": options} | more)


# --- files of format 1, as versions wrote them whose plans were flat ----------------------------------------------


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("1.0-expimap.json", "49da4d1bf328686c66c5fcac2c1ac86fb7fc9846c8a070e60e359f04e87ab773"),
        ("1.0-trvae.json", "946edec915577e237acf6286dea67ce46dbec12d82001136f115710c56861fce"),
    ],
)
def test_old_manifests_keep_their_bytes_and_digests(name: str, digest: str) -> None:
    data = (KEPT / name).read_bytes()
    manifest = read_manifest(data, source=name)
    assert manifest.as_read and manifest.digest == hashlib.sha256(data).hexdigest() == digest
    assert manifest.to_bytes() == manifest.changed(title=manifest.title).to_bytes() == data


def test_an_old_manifests_options_are_read() -> None:
    manifest = read_manifest((KEPT / "1.0-expimap.json").read_bytes(), source="1.0-expimap.json")
    assert manifest.training.plan == Plan(
        epochs=120,
        expimap=ExpiMapOptions(
            group_lasso=0.7, group_lasso_scale=(1,), soft_mask_l1=0.5, soft_mask_l1_anneal_epochs=10
        ),
    )
    assert manifest.query_plan == Plan(
        epochs=20, weight_decay=0, early_stopping=False, expimap=ExpiMapOptions(soft_mask_l1=1)
    )


def test_an_old_manifest_may_say_what_its_network_never_read() -> None:
    manifest = read_manifest((KEPT / "1.0-trvae.json").read_bytes(), source="1.0-trvae.json")
    assert manifest.training.plan == NESTED.changed(epochs=3)
    assert manifest.training.plan.only("trvae") == Plan(epochs=3)


def test_an_old_receipt_keeps_its_bytes() -> None:
    data = (KEPT / "receipt-1.json").read_bytes()
    receipt = read_receipt(data, source="receipt-1.json")
    assert receipt.asked.plan == NESTED.changed(epochs=3)
    assert receipt.to_bytes() == data


def test_an_old_recipes_options_are_read() -> None:
    recipe = Recipe.read(KEPT / "recipe-1.toml")
    assert recipe.plan.expimap == ExpiMapOptions(group_lasso=0.7)
    assert recipe.query_plan is not None and recipe.query_plan.expimap == ExpiMapOptions()
    assert recipe.plan.early_stopping == EarlyStopping() and recipe.query_plan.early_stopping is False


# --- what came after format 1.0 -------------------------------------------------------------------------------------

CAME_LATER = {"steps": 400, "gene_dropout": 0.3, "contrast_weight": 2.0, "label_smoothing": 0.1}


def test_what_came_later_is_written_only_where_it_is_set() -> None:
    assert CAME_LATER.keys() == LATER.keys()
    assert not LATER.keys() & Plan().model_dump(mode="json").keys()
    assert all(
        Plan().changed(**{name: default}).model_dump_json() == Plan().model_dump_json()
        for name, default in LATER.items()
    )
    for name, value in CAME_LATER.items():
        plan = Plan(**{name: value})
        assert plan.model_dump(mode="json") == Plan().model_dump(mode="json") | {name: value}
        assert Plan.model_validate_json(plan.model_dump_json()) == plan
    manifest = examples.manifest(query_plan=Plan(**CAME_LATER))
    assert read_manifest(manifest.to_bytes(), source="m").query_plan == Plan(**CAME_LATER)


def test_a_plan_in_epochs_is_what_it_was_over_any_cells() -> None:
    assert Plan(epochs=7).over(10) == Plan(epochs=7)


@pytest.mark.parametrize(
    ("cells", "epochs"), [(374, 1000), (5_000, 75), (3_000_000, 20), (1, 3000), (128, 3000), (129, 1500)]
)
def test_steps_are_epochs_of_so_many_cells(cells: int, epochs: int) -> None:
    """Of 128 cells: more for a reference of few, fewer for one of many, at least twenty."""
    assert Plan(steps=3000).over(cells).epochs == epochs
    assert Plan(steps=3000, batch_size=32).over(cells, devices=4) == Plan(steps=3000).over(cells).changed(batch_size=32)


def test_every_number_of_epochs_is_in_proportion_to_the_steps() -> None:
    rule = EarlyStopping(patience=20, reduce_patience=None)
    soft = {"soft_mask_l1_anneal_epochs": 10, "soft_mask_l1_anneal_every": 4}
    plan = Plan(steps=1000, epochs=100, kl_anneal_epochs=25, pretraining_epochs=90, early_stopping=rule, **soft)
    assert plan.over(640) == plan.changed(
        steps=None,
        epochs=200,
        kl_anneal_epochs=50,
        pretraining_epochs=180,
        early_stopping=EarlyStopping(patience=40, reduce_patience=None),
        soft_mask_l1_anneal_epochs=20,
        soft_mask_l1_anneal_every=8,
    )
    few = plan.over(128_000)  # every wait is an epoch or more
    assert (few.epochs, few.kl_anneal_epochs, few.scpoli.pretraining_epochs) == (20, 5, 18)
    assert few.early_stopping == EarlyStopping(patience=4, reduce_patience=None)
    assert few.expimap.soft_mask_l1_anneal_every == 1
    assert plan.changed(early_stopping=False, pretraining_epochs=None).over(640).early_stopping is False


@pytest.mark.parametrize(
    ("steps", "cells", "epoch"),
    [(2000, 374, 374), (2000, 5_000, 5_000), (2000, 190_000, 12_800), (2000, 3_000_000, 12_800), (7, 5_000, 128)],
)
def test_an_epoch_of_a_plan_of_steps_is_not_most_of_it(steps: int, cells: int, epoch: int) -> None:
    """However many cells there are, training takes about as many steps as were asked for, in epochs to tell apart."""
    plan = Plan(steps=steps)
    assert plan.cells_an_epoch(cells) == epoch
    taken = plan.over(cells).epochs * -(-epoch // plan.batch_size)
    assert taken == pytest.approx(steps, rel=0.02)
    assert plan.cells_an_epoch(cells, devices=2) == min(2 * epoch, cells) or cells < 10_000
    assert Plan(epochs=3).cells_an_epoch(cells) == cells


def test_what_early_stopping_watches_is_left_out_of_files_from_before_it_did() -> None:
    assert "watches" not in Plan().model_dump()["early_stopping"]
    plan = Plan(early_stopping=EarlyStopping(watches="labels"))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan != Plan()


def test_steps_need_epochs_to_be_in_proportion_to() -> None:
    with pytest.raises(errors.ManifestError, match="steps needs epochs of at least 1"):
        Plan(steps=10).changed(epochs=0)
    with pytest.raises(ValidationError, match="steps"):
        Plan(steps=0)
