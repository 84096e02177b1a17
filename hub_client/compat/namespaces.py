"""scArches' modules by their names, so that ``import hub_client.compat as sca`` serves what is written for it.

``sca.models.TRVAE`` is :class:`hub_client.compat.TRVAE`, ``sca.utils.add_annotations`` is
:func:`hub_client.compat.annotations.add_annotations`. Nothing loads before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

Members: TypeAlias = Mapping[str, "str | Members"]
"""Name to the module of ours that has it, or to the members of a module in a module."""
CLASSES: Members = {
    "EXPIMAP": "expimap",
    "TRVAE": "trvae",
    "scPoli": "scpoli",
    "SCANVI": "scvi_tools",
    "SCVI": "scvi_tools",
    "TOTALVI": "scvi_tools",
}
_NEIGHBORS: Members = {"weighted_knn_trainer": "weighted_knn", "weighted_knn_transfer": "weighted_knn"}
_DENSE: Members = {"remove_sparsity": "matrices"}
NAMESPACES: Mapping[str, Members] = {
    "models": {**CLASSES, "scpoli": {"scPoli": "scpoli", "_utils": {"reads_to_fragments": "matrices"}}},
    "utils": {"add_annotations": "annotations", **_NEIGHBORS, "knn": _NEIGHBORS},
    "plotting": {"plot_abs_bfs": "abs_bayes_factors"},
    "dataset": {**_DENSE, "trvae": {"data_handling": _DENSE}},
}
FUNCTIONS: Members = {
    "add_annotations": "annotations",
    "plot_abs_bfs": "abs_bayes_factors",
    "reads_to_fragments": "matrices",
    **_NEIGHBORS,
    **_DENSE,
}
"""Helpers that can be imported from :mod:`hub_client.compat` itself."""
NOT_OFFERED = {
    "zenodo": "models are shared through hubs: hub_client.push(model.model, to=...) and hub_client.pull(...), or "
    "`archzoo push` and `archzoo pull`",
    "metrics": "scib-metrics computes integration scores; hub_client.evaluate() scores transferred labels",
    "classifiers": "scHPL is a package of its own; hub_client.predict() transfers labels",
    "trainers": "model.train() trains, and model.trainer.logs holds what was logged",
    "surgery": "model.load_query_data() does surgery",
}
"""What scArches has and this does not, with what does it instead."""


def member(name: str, *, path: str, members: Members) -> Any:
    """Return what a module of scArches' calls by this name.

    Raises
    ------
    AttributeError
        If it is not offered.
    """
    where = members.get(name)
    if where is None:
        raise AttributeError(f"{path} has no {name!r}; it has {', '.join(sorted(members))}.")
    if isinstance(where, Mapping):
        return namespace(f"{path}.{name}", where)
    return getattr(import_module(f"hub_client.compat.{where}"), name)


def namespace(path: str, members: Members) -> ModuleType:
    """Return a module whose members load on first use."""
    made = ModuleType(path, f"What scArches has in {path.rpartition('.')[2]}, as far as it is offered.")
    vars(made).update(__getattr__=partial(member, path=path, members=members), __dir__=lambda: sorted(members))
    return made
