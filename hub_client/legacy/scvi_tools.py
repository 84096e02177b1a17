"""scvi-tools' registry and parameters to a manifest. Pure functions: no models, no files.

The registry says what scvi-tools read from an AnnData or MuData, and the initial parameters how a model was made; both
are what ``scvi.model.SCVI``, ``SCANVI`` and ``TOTALVI`` (1.0 and later) keep and save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hub_client import errors
from hub_client.architectures.scvi_tools import KINDS
from hub_client.legacy.vaes import described, genes_of, key_of
from hub_client.manifest.v1 import Embedding, Manifest

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
IN_TENSORS = ("y_prior", "library_log_means", "library_log_vars", "batch_representation", "batch_embedding_kwargs")
"""Those that are told by tensors, or by the encoding of the batch."""


def manifest_of(
    registry: Registry, parameters: Mapping[str, Any], *, kind: str, name: str, embedding: Embedding | None = None
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
    embedding
        How batches are embedded; None where they are one-hot.

    Raises
    ------
    Unsupported
        If a parameter has a value that a config cannot say.
    ManifestError
        If these contradict each other, or say what format 1 cannot.
    """
    given, setup = flattened(parameters), registry["setup_args"]
    fields = {
        "name": name,
        "lineage": {"relation": "import"},
        "architecture": {"kind": kind, **config_of(given, kind=kind)},
        "genes": genes_of([str(gene) for gene in _state(registry, "X")["column_names"]]),
        "input": {"layer": setup.get("layer"), "size_factor": setup.get("size_factor_key")},
        "conditions": _conditions(registry, embedding),
        "covariates": {"categorical": _categorical(registry), "continuous": _continuous(registry)},
        "labels": _labels(registry),
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
        If a parameter has a value that a config cannot say.
    """
    fields = KINDS[kind].parameters
    for parameter, value in given.items():
        if parameter not in fields and parameter not in IN_TENSORS and _means_something(parameter, value):
            raise errors.Unsupported(
                f"scvi-tools' parameter {parameter}={value!r} cannot be said in a manifest of kind {kind}; a "
                "model made without it can be released.",
                kind=kind,
                verb="from_scvi",
            )
    return {field: _plain(given[parameter]) for parameter, field in fields.items() if parameter in given}


def _means_something(parameter: str, value: object) -> bool:
    return bool(value) and value != WITHOUT_MEANING.get(parameter, None)


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


def _continuous(registry: Registry) -> list[str]:
    return [str(column) for column in _state(registry, "extra_continuous_covs").get("columns", [])]


def _labels(registry: Registry) -> list[dict[str, Any]]:
    key = registry["setup_args"].get("labels_key")
    if key is None:
        return []
    state = _state(registry, "labels")
    unlabelled = state.get("unlabeled_category")
    names = [name for name in _names(state["categorical_mapping"], key) if name != str(unlabelled)]
    level = {"key": key_of(key), "categories": names, "ontology": dict.fromkeys(names)}
    return [level if unlabelled is None else level | {"unlabelled": str(unlabelled)}]


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
    names = [str(value) for value in categories]
    if len(set(names)) < len(names):
        raise errors.VocabularyError(
            f"obs[{key!r}] has categories with the same name, such as a number and its digits: {errors.names(names)}. "
            "Give them different names, and train again.",
            field=key,
            unknown=names,
        )
    return names
