"""The names scripts are written against, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hub_client
from tests import warm

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "pull",
    "push",
    "search",
    "align",
    "audit_labels",
    "surgery",
    "train",
    "embed",
    "enrichment",
    "predict",
    "evaluate",
    "from_scvi",
    "map_query",
    "novelty",
    "term_genes",
    "term_scores",
    "import_legacy",
    "latent_uncertainty",
    "pull_dataset",
    "push_dataset",
    "rank_references",
    "recommended",
    "Extensions",
    "Hub",
    "Model",
    "Manifest",
]
MODULES = ["plot", "programs"]
PARAMETERS = {
    "align": ["adata", "model", "conditions", "layer", "min_coverage"],
    "import_legacy": ["path", "organism"],
    "map_query": ["adata", "model_or_name", "conditions", "plan", "seed"],
    "surgery": ["reference", "cells"],
    "train": ["model", "cells"],
}


def run(code: str, *, python: str = sys.executable) -> str:
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_public_names_are_these() -> None:
    assert sorted(hub_client.__all__) == sorted([*PUBLIC, *MODULES])
    assert set(PUBLIC) <= set(dir(hub_client))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_name_is_what_it_says(name: str) -> None:
    found = getattr(hub_client, name)
    assert callable(found)
    assert found.__name__ == name


def test_a_module_is_loaded_on_first_use() -> None:
    names = [f"hub_client.{name}" for name in MODULES]
    code = f"import hub_client, sys; print([name in sys.modules for name in {names}]); print(IMPORTED)"
    imported = f"[{', '.join(f'{name}.__name__' for name in names)}]"
    assert run(code.replace("IMPORTED", imported), python=warm.python()).splitlines() == [
        str([False] * len(names)),
        str(names),
    ]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_that_scripts_use(name: str) -> None:
    found = inspect.signature(getattr(hub_client, name)).parameters
    assert set(PARAMETERS[name]) <= set(found)
    positional = [p for p in found.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(positional) <= 2


def test_dir_shows_them_and_nothing_else() -> None:
    assert [name for name in dir(hub_client) if not name.startswith("__")] == sorted([*PUBLIC, *MODULES])


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'pul'"):
        hub_client.pul  # type: ignore[attr-defined]  # noqa: B018


def test_a_path_that_documentation_named_before_it_moved() -> None:
    code = "import hub_client.impute as o, hub_client; print(o.impute_proteins.__module__, hub_client.impute is o)"
    assert run(code, python=warm.python()) == "hub_client.models.impute True"


@pytest.mark.parametrize("verb", ["pass", "hub_client.Hub('bundled').manifest('pbmc-scpoli')"])
def test_importing_and_reading_manifests_load_nothing_heavy(verb: str) -> None:
    heavy = {"torch", "scvi", "scanpy", "anndata", "lightning"}
    code = f"import hub_client, sys; {verb}; print(sorted({heavy} & set(sys.modules)))"
    assert run(code) == "[]"
