"""Every class of hub_client.compat has scArches' documented methods, parameters and defaults."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from hub_client import compat

DOCUMENTED = json.loads((Path(__file__).parent / "contract" / "documented_api.json").read_text())
METHODS = [(name, method) for name in compat.__all__ for method in sorted(DOCUMENTED[name]["methods"])]


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


@pytest.mark.parametrize("name", compat.__all__)
def test_constructor_has_the_documented_parameters(name: str) -> None:
    check_signature(getattr(compat, name).__init__, DOCUMENTED[name]["init"])


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_method_has_the_documented_parameters(name: str, method: str) -> None:
    """In full, or by their names where scArches documents no more than a list."""
    said, ours = DOCUMENTED[name]["methods"][method], getattr(compat, name)
    if said["params"] is None:
        check_list(getattr(ours, method), said["listed"])
    else:
        assert isinstance(inspect.getattr_static(ours, method), classmethod) == said["classmethod"]
        check_signature(getattr(ours, method), said["params"])
