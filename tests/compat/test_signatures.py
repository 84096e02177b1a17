"""Every class of hub_client.compat has scArches' documented methods, parameters and defaults."""

from __future__ import annotations

import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hub_client import compat
from tests import warm

ROOT = Path(__file__).parents[2]
DOCUMENTED = json.loads((Path(__file__).parents[1] / "contract" / "documented_api.json").read_text())
OURS = ["EXPIMAP", "TRVAE", "scPoli"]
THEIRS = ["SCANVI", "SCVI", "TOTALVI"]
"""Classes whose methods are scvi-tools': it has parameters that scArches does not document, behind those it does."""


def methods(classes: list[str]) -> list[tuple[str, str]]:
    return [(name, method) for name in classes for method in sorted(DOCUMENTED[name]["methods"])]


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(function).parameters.items() if name not in ("self", "cls")}


def check_signature(function: Any, documented: dict[str, dict[str, Any]]) -> None:
    ours = parameters(function)
    assert [("**" if p.kind is p.VAR_KEYWORD else "") + name for name, p in ours.items()] == list(documented)
    assert {p.kind for p in ours.values()} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_KEYWORD}
    for name, facts in documented.items():
        if facts.get("required"):
            assert ours[name].default is inspect.Parameter.empty
        elif "default" in facts:
            default = ours[name].default
            assert (list(default) if isinstance(default, tuple) else default) == facts["default"], name


def check_list(function: Any, listed: str) -> None:
    """``a, b[, c, ...]``: a and b are needed, c is not, and where dots are there may be more."""
    needed, _, optional = listed.partition("[")
    names = listed.replace("[", "").replace("]", "").replace(", ...", "").split(", ")
    ours = {key: p for key, p in parameters(function).items() if p.kind is not p.VAR_KEYWORD}
    assert list(ours)[: len(names)] == names
    assert "..." in optional or len(ours) == len(names)
    required = [key for key, p in ours.items() if p.default is inspect.Parameter.empty]
    assert required == [key for key in needed.split(", ") if key]
    assert {p.kind for p in ours.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_every_class_is_held_to_its_documentation() -> None:
    assert sorted(compat.__all__) == sorted([*OURS, *THEIRS]) == sorted(DOCUMENTED)


@pytest.mark.parametrize("name", OURS)
def test_constructor_has_the_documented_parameters(name: str) -> None:
    check_signature(getattr(compat, name).__init__, DOCUMENTED[name]["init"])


@pytest.mark.parametrize(("name", "method"), methods(OURS))
def test_method_has_the_documented_parameters(name: str, method: str) -> None:
    """In full, or by their names where scArches documents no more than a list."""
    said, ours = DOCUMENTED[name]["methods"][method], getattr(compat, name)
    if said["params"] is None:
        check_list(getattr(ours, method), said["listed"])
    else:
        assert isinstance(inspect.getattr_static(ours, method), classmethod) == said["classmethod"]
        check_signature(getattr(ours, method), said["params"])


def check_beginning(function: Any, documented: dict[str, dict[str, Any]]) -> None:
    """The documented parameters come first, by name and by default; others can be left out."""
    ours = parameters(function)
    named = [name for name in documented if not name.startswith("**")]
    assert list(ours)[: len(named)] == named
    for name, parameter in ours.items():
        facts = documented.get(name, {})
        needed = facts.get("required", False) or parameter.kind is parameter.VAR_KEYWORD
        assert (parameter.default is inspect.Parameter.empty) == needed or "default" in facts or not facts, name
        assert "default" not in facts or parameter.default == facts["default"], name


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_constructor_of_scvi_tools_begins_as_documented(name: str) -> None:
    check_beginning(getattr(compat, name).__init__, DOCUMENTED[name]["init"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), methods(THEIRS))
def test_method_of_scvi_tools_begins_as_documented(name: str, method: str) -> None:
    said, ours = DOCUMENTED[name]["methods"][method], getattr(compat, name)
    if said["params"] is None:
        names = said["listed"].replace("[", "").replace("]", "").replace(", ...", "").split(", ")
        assert list(parameters(getattr(ours, method)))[: len(names)] == names
    else:
        assert isinstance(inspect.getattr_static(ours, method), classmethod) == said["classmethod"]
        check_beginning(getattr(ours, method), said["params"])


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_attributes_of_scvi_tools_are_there(name: str) -> None:
    assert [a for a in DOCUMENTED[name]["attributes"] if not hasattr(getattr(compat, name), a)] == []


def test_scvi_tools_is_not_imported_before_it_is_used() -> None:
    code = "import hub_client.compat, sys; print('scvi' in sys.modules)"
    done = subprocess.run([warm.python(), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
