"""Recipes: the one in the zoo, and what a wrong one is told."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from hub_client import errors
from hub_client.manifest.plan import Plan
from hub_client.manifest.recipe import Constant, Recipe

ZOO = Path(__file__).parents[2] / "zoo" / "recipes"

SMALL = """
recipe_version = 1
name = "tiny"
version = "0.1.0"
title = "Tiny"
summary = "For tests."
license = "CC0-1.0"
data_license = "CC0-1.0"
intended_use = "Tests."
limitations = "All of them."
organism = { id = "NCBITaxon:9606", label = "Homo sapiens" }

[[authors]]
name = "Somebody"

[ontologies]
NCBITaxon = "2026-05-13"
CL = "2026-03-26"

[[datasets]]
name = "one"
file = "one.h5ad"
source = "made here"
fingerprint = "0000000000000000000000000000000000000000000000000000000000000000"
conditions = { batch = { constant = "first" } }
labels = { cell_type = "louvain" }

[[conditions]]
key = "batch"
encoding = { kind = "embedding", dim = 3 }

[[labels]]
key = "cell_type"
ontology = { "B" = "CL:0000236" }
without_id = ["doublet"]

[architecture]
kind = "scpoli"
"""


@pytest.fixture
def fields() -> dict[str, Any]:
    return tomllib.loads(SMALL)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(folder: Path, text: str) -> str:
    path = written(folder, text)
    with pytest.raises(errors.ManifestError) as caught:
        Recipe.read(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    return "\n".join(caught.value.problems) or str(caught.value)


def test_a_small_recipe_fills_in_defaults(tmp_path: Path) -> None:
    recipe = Recipe.read(written(tmp_path, SMALL))
    assert recipe.plan == Plan()
    assert recipe.panel.size == 2000
    assert recipe.datasets[0].conditions == {"batch": Constant(constant="first")}
    assert recipe.labels[0].ids == {"B": "CL:0000236", "doublet": None}


@pytest.mark.parametrize("path", sorted(ZOO.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_of_the_zoo_are_valid(path: Path) -> None:
    recipe = Recipe.read(path)
    assert recipe.name == path.stem
    assert recipe.gates, "a release must not be written whatever its model is worth"


def test_terms_get_the_release_of_their_ontology(tmp_path: Path) -> None:
    recipe = Recipe.read(written(tmp_path, SMALL))
    assert recipe.term(recipe.organism).release == "2026-05-13"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no recipe at"):
        Recipe.read(tmp_path / "absent.toml")


def test_not_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 3" in problem(tmp_path, "a = 1\n\nb = = 2\n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("recipe_version = 1", "recipe_version = 3", "recipe_version"),
        ('title = "Tiny"', 'titel = "Tiny"', "did you mean title?"),
        ('name = "tiny"', 'name = "Tiny Model"', "name"),
        ('version = "0.1.0"', 'version = "1"', "version"),
        ('file = "one.h5ad"', 'file = "../one.h5ad"', "datasets.0.file"),
        ('fingerprint = "00', 'fingerprint = "xx', "datasets.0.fingerprint"),
        ("{ constant =", "{ konstant =", "datasets.0.conditions.batch"),
        ('kind = "scpoli"', 'kind = "scpolly"', "architecture"),
        ('kind = "scpoli"', 'kind = "scpoli"\nlatents = 3', "latents"),
        ("batch = { constant", "donor = { constant", "gives the conditions donor; the recipe's are batch"),
        ('cell_type = "louvain"', 'cell_typ = "louvain"', "label levels cell_typ"),
        ('CL = "2026-03-26"', "", "ontologies lacks the release of CL"),
        ('without_id = ["doublet"]', 'without_id = ["doublet"]\n[panel]\nexclude = ["("]', "not a regular expression"),
        (
            'without_id = ["doublet"]',
            'without_id = ["doublet"]\n[panel]\nid_type = "ensembl"\ninclude_measured = ["pbmc68k_reduced"]',
            "id_type = 'symbol'",
        ),
        ("[architecture]", "[[gates]]\nlevel = 'cell_type'\nmetric = 'accuracy'\n[architecture]", "at_least, at_most"),
        (
            "[architecture]",
            "[[gates]]\nlevel = 'celltype'\nmetric = 'accuracy'\nat_least = 0.5\n[architecture]",
            "gates name the label levels celltype",
        ),
        ("[architecture]", "[[gates]]\nlevel = 'cell_type'\nmetric = 'f2'\nat_least = 0.5\n[architecture]", "gates.0"),
        (
            "[architecture]",
            "[plan]\ngroup_lasso = 1\n[architecture]",
            "plan sets group_lasso (of expimap), which scpoli",
        ),
        (
            "[architecture]",
            "[query_plan]\nadversarial = true\n[architecture]",
            "query_plan sets adversarial (of totalvi)",
        ),
        ("[architecture]", "[plan]\nhsic_weights = 1\n[architecture]", "did you mean hsic_weight, "),
        ("[architecture]", "[holdout]\nfraction = 0.0\n[architecture]", "holdout.fraction"),
    ],
)
def test_problems_say_where_they_are(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    assert said in problem(tmp_path, SMALL.replace(old, new, 1))


def test_the_scvi_that_a_scanvi_starts_from_reads_no_options_of_scanvi(fields: dict[str, Any]) -> None:
    fields |= {"architecture": {"kind": "scanvi"}, "atlas": True, "trust": {"transfer": "network"}}
    of_scanvi = {"samples_per_label": 100}
    assert Recipe.model_validate(fields | {"plan": of_scanvi}).plan.scanvi.samples_per_label == 100
    with pytest.raises(ValueError, match=r"pretraining sets samples_per_label \(of scanvi\), which scvi does not read"):
        Recipe.model_validate(fields | {"pretraining": of_scanvi})


def test_rename_is_for_known_levels(tmp_path: Path) -> None:
    text = SMALL.replace('"louvain" }', '"louvain" }\nrename = { cell_typ = { "b" = "B" } }')
    assert "rename is for the label levels in labels" in problem(tmp_path, text)


@pytest.mark.parametrize("part", ["datasets", "conditions", "labels"])
def test_names_are_unique(fields: dict[str, Any], part: str) -> None:
    fields[part] *= 2
    with pytest.raises(ValueError, match=f"{part} must have different names"):
        Recipe.model_validate(fields)
