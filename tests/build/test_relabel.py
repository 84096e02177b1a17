"""Corrections of labels and derived levels: what the recipe writes is what the reference, manifest and card have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import read_h5ad
from pydantic import ValidationError

from hub_client import errors
from hub_client.build.audits import audit_recipe, lines
from hub_client.build.build import build
from hub_client.build.datasets import load
from hub_client.manifest.recipe import Recipe
from hub_client.models.model import Model
from hub_client.release import card
from hub_client.release import folder as release_folder
from tests.build.test_build import recipe

LEVEL = {"key": "cell_type", "ontology": {"B": "CL:0000236", "T": "CL:0000084"}, "without_id": ["NK"]}
RULE = {"given": ["T"], "present": ["GENE3", "GENE2"], "absent": ["GENE5"], "to": "NK", "reason": "they are"}


def corrected(data: Path, *corrections: dict[str, Any], **changes: Any) -> Recipe:
    return recipe(data, labels=[{**LEVEL, "corrections": list(corrections)}], **changes)


def has(adata: Any, *genes: str) -> Any:
    return np.asarray((adata[:, list(genes)].X > 0).sum(axis=1)).reshape(-1) > 0


def expected(data: Path) -> list[tuple[Any, Any]]:
    """Return each data set, and which of its T cells meet the rule."""
    parts = [read_h5ad(data / f"{name}.h5ad") for name in ("one", "two")]
    return [(p, (p.obs["type"] == "T").to_numpy() & has(p, "GENE3", "GENE2") & ~has(p, "GENE5")) for p in parts]


def test_cells_that_meet_a_rule_get_its_label_and_are_counted(tmp_path: Path) -> None:
    written = corrected(tmp_path, RULE)
    parts = expected(tmp_path)
    met = np.concatenate([rows for _, rows in parts])
    given = np.concatenate([part.obs["type"].to_numpy(dtype=str) for part, _ in parts])
    assert 0 < met.sum() < (given == "T").sum()
    reference = load(written, tmp_path)
    assert (reference.counts.obs["cell_type"] == np.where(met, "NK", given)).all()
    (applied,) = reference.corrections["cell_type"]
    assert (applied.cells, applied.among) == (met.sum(), (given == "T").sum())


def test_a_rule_can_be_for_one_data_set_and_for_all_cells_of_a_label(tmp_path: Path) -> None:
    rule = {"given": ["T"], "datasets": ["two"], "unlabel": True, "reason": "nobody knows"}
    reference = load(corrected(tmp_path, rule), tmp_path)
    labels = reference.counts.obs["cell_type"].to_numpy()
    (one, _), (two, _) = expected(tmp_path)
    assert (labels[: one.n_obs] == one.obs["type"]).all()
    assert (labels[one.n_obs :] == np.where(two.obs["type"] == "T", "", two.obs["type"])).all()
    assert reference.corrections["cell_type"][0].among == (two.obs["type"] == "T").sum()


@pytest.mark.slow
def test_cells_that_are_left_out_are_nowhere(tmp_path: Path) -> None:
    written = corrected(tmp_path, {k: v for k, v in RULE.items() if k != "to"} | {"leave_out": True}, gates=[])
    parts = expected(tmp_path)
    reference = load(written, tmp_path)
    kept = [part.X[~rows].toarray().sum() for part, rows in parts]
    assert reference.counts.n_obs == sum((~rows).sum() for _, rows in parts)
    assert [record.cells for record in reference.records] == [(~rows).sum() for _, rows in parts]
    assert reference.counts.X.sum() < sum(kept)  # of the genes that both have
    model = Model.load(build(written, data=tmp_path, out=tmp_path / "zoo", progress=False))
    assert model.atlas is not None and model.atlas.n_obs < reference.counts.n_obs


def test_the_first_rule_that_a_cell_meets_counts(tmp_path: Path) -> None:
    everything = {"given": ["T", "NK"], "to": "B", "reason": "the rest"}
    reference = load(_without_t(tmp_path, RULE, everything), tmp_path)
    first, second = reference.corrections["cell_type"]
    assert first.cells and second.cells == second.among - first.cells
    assert set(reference.counts.obs["cell_type"]) == {"B", "NK"}


def _without_t(data: Path, *corrections: dict[str, Any]) -> Recipe:
    level = {
        "key": "cell_type",
        "ontology": {"B": "CL:0000236"},
        "without_id": ["NK"],
        "corrections": list(corrections),
    }
    return recipe(data, labels=[level])


@pytest.mark.slow
def test_the_manifest_and_the_card_state_rules_levels_and_audit(tmp_path: Path) -> None:
    fine = {**LEVEL, "parents": {"B": "lymphoid", "T": "lymphoid", "NK": "innate"}, "corrections": [RULE]}
    fine["markers"] = {"B": {"absent": ["CD3D"]}}
    coarse = {"key": "lineage", "derived_from": "cell_type", "without_id": ["innate", "lymphoid"]}
    written = recipe(tmp_path, labels=[fine, coarse], gates=[], trust={"transfer": "consensus"})
    folder = build(written, data=tmp_path, out=tmp_path / "zoo", progress=False)
    manifest = release_folder.verify(folder)
    level, lineage = manifest.labels
    assert level.corrections[0].rule.reason == "they are" and level.markers["B"].absent == ("CD3D",)
    assert lineage.derived_from == "cell_type" and lineage.categories == ("innate", "lymphoid")
    assert [c.level for c in manifest.trust.calibrations] == ["cell_type"]
    assert [p.level for p in manifest.prototypes.levels] == ["cell_type"]
    (audit,) = manifest.training.label_audits
    assert (audit.level, audit.cells, audit.batches) == ("cell_type", 400, 2)
    text = card.render(manifest)
    cells, among = level.corrections[0].cells, level.corrections[0].among
    assert (
        f"{cells:,} of {among:,} `T` cells with counts of `GENE3` or `GENE2` and none of `GENE5` count as NK: they are."
        in text
    )
    assert "These labels are those that `cell_type`'s belong to" in text and "Before training," in text
    atlas = Model.load(folder).atlas
    assert atlas is not None
    assert (atlas.obs["lineage"].astype(str) == np.where(atlas.obs["cell_type"] == "NK", "innate", "lymphoid")).all()


@pytest.mark.slow
def test_an_audit_of_a_recipe_is_after_its_corrections(tmp_path: Path) -> None:
    (before,) = audit_recipe(recipe(tmp_path), data=tmp_path)
    (after,) = audit_recipe(corrected(tmp_path, RULE), data=tmp_path)
    assert before.record.suspected <= 2 and before.warnings == ()
    assert after.table.loc["T", "cells"] < before.table.loc["T", "cells"]
    wrong = {"given": ["T"], "datasets": ["two"], "to": "NK", "reason": "none"}
    (swapped,) = audit_recipe(corrected(tmp_path, wrong), data=tmp_path)
    assert any("'NK' cells of 'b2' 'T'" in text for text in swapped.warnings)
    assert next(lines([after])).startswith("labels 'cell_type': ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"to": "Plasma"}, "'Plasma'"),
        ({"leave_out": True}, "one of"),
        ({"to": None}, "one of"),
        ({"absent": ["GENE3"]}, "GENE3"),
        ({"datasets": ["three"]}, "three"),
        ({"given": []}, "given"),
    ],
)
def test_rules_that_contradict_themselves(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        corrected(tmp_path, RULE | change)


def test_rules_that_the_data_contradict(tmp_path: Path) -> None:
    with pytest.raises(errors.VocabularyError, match="Tcell; given are B, NK, T"):
        load(corrected(tmp_path, RULE | {"given": ["T", "Tcell"]}), tmp_path)
    with pytest.raises(errors.AlignmentError, match=r"'two' has no genes GENE0"):  # which the second data set lacks
        load(corrected(tmp_path, RULE | {"present": ["GENE0"]}), tmp_path)


@pytest.mark.parametrize(
    ("fine", "coarse", "said"),
    [
        ({"parents": {"B": "x", "T": "x"}}, {}, "no parents"),
        ({}, {"without_id": ["x"]}, "must be the parents"),
        ({}, {"derived_from": "lineage"}, "no level"),
        ({}, {"unlabelled": "none"}, "unlabelled"),
    ],
)
def test_derived_levels_that_cannot_be(tmp_path: Path, fine: Any, coarse: Any, said: str) -> None:
    finer = {**LEVEL, "parents": {"B": "x", "T": "x", "NK": "y"}} | fine
    coarser = {"key": "lineage", "derived_from": "cell_type", "without_id": ["x", "y"]} | coarse
    with pytest.raises(ValidationError, match=said):
        recipe(tmp_path, labels=[finer, coarser])
