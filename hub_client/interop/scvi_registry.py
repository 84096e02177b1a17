"""Turn scvi-tools' registry and parameters into a manifest. Pure functions: no models, no files.

The registry records what scvi-tools read from an AnnData or MuData, and the initial parameters how a model was made;
both are what ``scvi.model.SCVI``, ``SCANVI`` and ``TOTALVI`` (1.0 and later) keep and save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hub_client import errors
from hub_client.data.proteins import lacking
from hub_client.data.values import text
from hub_client.interop.scarches_vaes import described, genes_of
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Embedding, Manifest
from hub_client.models.architectures.scvi.tables import KINDS

Registry = Mapping[str, Any]
WITHOUT_MEANING: Mapping[str, object] = {
    "datamodule": None,
    "batch_representation": "one-hot",
    "batch_embedding_kwargs": None,
    "extra_payload_autotune": False,
    "extra_encoder_kwargs": None,
    "extra_decoder_kwargs": None,
    "var_activation": None,
    "use_labels_groups": False,
    "labels_groups": None,
}
"""scvi-tools' parameters that a config has no field for, and the value of each that changes nothing."""
IN_TENSORS = (
    "y_prior",
    "library_log_means",
    "library_log_vars",
    "batch_representation",
    "batch_embedding_kwargs",
    "override_missing_proteins",
)
"""Those that can be read from tensors, the encoding of the batch, or which proteins batches measured."""


@dataclass(frozen=True)
class FromModule:
    """What a module knows better than the registry, which is written anew for other cells."""

    labels: int | None = None
    """How many labels it has; None where it has no tensor for them."""
    embedding: Embedding | None = None
    """How batches are embedded; None where they are one-hot."""
    masks: Mapping[str, Any] | None = None
    """Which proteins each batch measured, by the batch's code; None where all measured all."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the architecture that an older model's parameters lack."""


def manifest_of(
    registry: Registry, parameters: Mapping[str, Any], *, kind: str, name: str, module: FromModule | None = None
) -> Manifest:
    """Return the manifest of one of scvi-tools' models.

    Keys are the names of the obs columns, with ``_`` for what keys cannot hold.

    Parameters
    ----------
    registry
        The model's ``registry_``.
    parameters
        The model's ``init_params_``.
    kind
        ``scvi``, ``scanvi`` or ``totalvi``.
    name
        The manifest's name.
    module
        What its module knows better.

    Raises
    ------
    Unsupported
        If a parameter has a value that a config has no field for.
    ManifestError
        If these contradict each other or do not fit format 1.
    """
    given, setup, module = flattened(parameters), registry["setup_args"], module or FromModule()
    fields = {
        "name": name,
        "lineage": {"relation": "import"},
        "architecture": {"kind": kind, **config_of(given, kind=kind), **module.fields},
        "genes": genes_of([str(gene) for gene in _state(registry, "X")["column_names"]]),
        "proteins": _proteins(registry, module.masks),
        "input": {"layer": setup.get("layer", setup.get("rna_layer")), "size_factor": setup.get("size_factor_key")},
        "conditions": _conditions(registry, module.embedding),
        "covariates": {
            "categorical": _categorical(registry),
            "continuous": [str(column) for column in _state(registry, "extra_continuous_covs").get("columns", [])],
        },
        "labels": _labels(registry, module.labels),
    }
    return described(fields, what=f"{KINDS[kind].model} of scvi-tools")


def flattened(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return scvi-tools' initial parameters by name, those in keyword dictionaries too."""
    named = dict(parameters.get("non_kwargs", {}))
    for group in parameters.get("kwargs", {}).values():
        named |= group
    return named


def config_of(given: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
    """Return an architecture's fields from scvi-tools' parameters.

    Raises
    ------
    Unsupported
        If a parameter has a value that a config has no field for.
    """
    fields, nested = {**KINDS[kind].parameters, **KINDS[kind].initial}, KINDS[kind].nested
    unknown = given.keys() - {*fields, *nested, *IN_TENSORS}
    if strangers := [p for p in given if p in unknown and given[p] and given[p] != WITHOUT_MEANING.get(p)]:
        raise _without_field(strangers[0], given[strangers[0]], kind)
    config = {field: _plain(given[parameter]) for parameter, field in fields.items() if parameter in given}
    for group, inner in nested.items():
        values = given.get(group) or {}
        if strangers := [name for name in values if name not in inner]:
            raise _without_field(f"{group}[{strangers[0]!r}]", values[strangers[0]], kind)
        config |= {inner[parameter]: _plain(value) for parameter, value in values.items()}
    return (
        _without_layers(config) if 0 in (config.get("classifier_layers"), config.get("classifier_hidden")) else config
    )


def _without_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a classifier without hidden layers, by layers or width of 0: it is a linear one."""
    sizes = ("classifier_layers", "classifier_hidden", "classifier_dropout")
    return {name: value for name, value in config.items() if name not in sizes} | {"linear_classifier": True}


def _without_field(parameter: str, value: object, kind: str) -> errors.Unsupported:
    return errors.Unsupported(
        f"scvi-tools' parameter {parameter}={value!r} has no field in a manifest of kind {kind}; a model made "
        "without it can be released.",
        kind=kind,
        verb="from_scvi",
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _state(registry: Registry, key: str) -> Mapping[str, Any]:
    state: Mapping[str, Any] = registry["field_registries"].get(key, {}).get("state_registry", {})
    return state


def _conditions(registry: Registry, embedding: Embedding | None) -> list[dict[str, Any]]:
    """Return the batch key; none for a model whose cells are all of one batch by default."""
    key = registry["setup_args"].get("batch_key")
    if key is None:
        return []
    encoding = embedding or {"kind": "one-hot"}
    names = _names(_state(registry, "batch")["categorical_mapping"], key)
    return [{"key": key_of(key), "role": "batch", "categories": names, "encoding": encoding}]


def _categorical(registry: Registry) -> list[dict[str, Any]]:
    mappings = _state(registry, "extra_categorical_covs").get("mappings", {})
    return [
        {"key": key_of(key), "role": "covariate", "categories": _names(names, key), "encoding": {"kind": "one-hot"}}
        for key, names in mappings.items()
    ]


def _proteins(registry: Registry, masks: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the protein panel, and which batches measured which of it.

    Masks under which no batch measured any are those of minified cells, whose proteins are gone: no model is trained
    so.

    Raises
    ------
    Unsupported
        If panels differ by another key than the batch.
    """
    if "proteins" not in registry["field_registries"]:
        return None
    state, setup = _state(registry, "proteins"), registry["setup_args"]
    if setup.get("panel_key") not in (None, setup.get("batch_key")):
        raise errors.Unsupported(
            f"scvi-tools' panel_key={setup['panel_key']!r} differs from the batch key, which format 1 has no field "
            "for; train with the batch as the panel key.",
            kind="totalvi",
            verb="from_scvi",
        )
    panel = [str(name) for name in state["column_names"]]
    masks = masks if masks and any(np.any(mask) for mask in masks.values()) else {}
    batches = [text(name) for name in _state(registry, "batch")["categorical_mapping"]]
    measured = {batches[int(code)]: tuple(map(int, np.flatnonzero(mask))) for code, mask in masks.items()}
    source = setup.get("protein_expression_obsm_key") or (setup.get("modalities") or {}).get("protein_layer")
    return {"panel": panel, "measured": lacking(measured, panel), "source": source}


def _labels(registry: Registry, count: int | None) -> list[dict[str, Any]]:
    key = registry["setup_args"].get("labels_key")
    if key is None:
        return []
    state = _state(registry, "labels")
    unlabelled = state.get("unlabeled_category")
    known = _names(state["categorical_mapping"], key)
    names = [name for name in known if name != text(unlabelled)] if count is None else known[:count]
    level = {"key": key_of(key), "categories": names, "ontology": dict.fromkeys(names)}
    # a module can have a class for the unlabelled value: that of a query whose cells have labels, but not all there are
    return [level if unlabelled is None or text(unlabelled) in names else level | {"unlabelled": text(unlabelled)}]


def _names(categories: Sequence[Any], key: str) -> list[str]:
    """Return the names of a key's categories.

    Raises
    ------
    VocabularyError
        If one is missing (NaN), or two have the same name.
    """
    if any(value is None or value != value for value in categories):
        raise errors.VocabularyError(
            f"obs[{key!r}] has cells without a value (NaN), which scvi-tools took for a category; fill the gaps in, "
            "and train again.",
            field=key,
            unknown=["NaN"],
        )
    names = [text(value) for value in categories]
    if len(set(names)) < len(names):
        raise errors.VocabularyError(
            f"obs[{key!r}] has categories with the same name, such as a number and its digits: {errors.names(names)}. "
            "Give them different names, and train again.",
            field=key,
            unknown=names,
        )
    return names
