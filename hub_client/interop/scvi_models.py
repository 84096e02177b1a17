"""Turn what scvi-tools saved, of whatever version, into a manifest, a network and an atlas.

What models of older versions lack, or had otherwise, is in tables here: parameters that are gone, what a parameter
meant before it could be chosen, and tensors that came later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from hub_client import errors
from hub_client.data.open_query import read_cells
from hub_client.data.values import texts
from hub_client.interop import scvi_files, torch_files
from hub_client.interop.scvi_files import REGISTRY, Saved
from hub_client.interop.scvi_registry import FromModule, flattened, manifest_of
from hub_client.interop.scvi_weights import EMBEDDING, fitting, labels_in
from hub_client.manifest.provenance import Training
from hub_client.manifest.scalars import key_of
from hub_client.manifest.v1 import Embedding, Manifest
from hub_client.models.architectures import architecture
from hub_client.models.architectures.scvi.modules import KNOWN, plain_module
from hub_client.models.architectures.scvi.network import ScviTools
from hub_client.models.architectures.scvi.tables import KINDS
from hub_client.release import atlas_file

OLDEST = (0, 8)
"""The first minor version whose modules compute what today's do."""
GONE = ("pretrained_model", "unlabeled_category", "use_cuda", "use_gpu")
"""Parameters of older versions that change nothing in a module."""
LOST = {
    "history_": "the losses of each epoch",
    "labels_": "the label of each cell",
    "semisupervised_history_": "the losses of each epoch with labels",
    "surgery_": "which weights its surgery froze",
    "test_indices_": "which cells were held out",
    "train_indices_": "which cells it was trained on",
    "unsupervised_history_": "the losses of each epoch without labels",
    "validation_indices_": "which cells it was validated on",
}
"""Attributes, and what they hold that a release does not."""
KEPT = {"init_params_", "is_trained_", REGISTRY, scvi_files.SETUP, scvi_files.UNLABELLED}
WITHOUT_CONTENT = {"get_normalized_function_name_", "run_id_", "run_name_"}
EFFICIENCY = "log_per_batch_efficiency"
"""TOTALVI's tensor that came with 1.2: the logarithm of a factor, which was 1 before."""
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)
"""What a registry, parameters or tensors of the wrong type or shape raise."""
Version = tuple[int, int]


@dataclass(frozen=True)
class Converted:
    """A saved model as ours."""

    manifest: Manifest
    network: ScviTools
    """Its description and its weights."""
    atlas: AnnData | None
    """Where its cells lie in the latent, if they were saved minified."""
    lost: tuple[str, ...]
    """What could not be kept, in words."""


def converted(saved: Saved, *, name: str) -> Converted:
    """Return a saved model as ours.

    Parameters
    ----------
    saved
        What scvi-tools saved.
    name
        The manifest's name.

    Raises
    ------
    Unsupported
        If it is of a kind or version that archzoo does not know, or was made with a parameter that format 1 has no
        field for.
    IntegrityError
        If its parts contradict each other.
    ManifestError, VocabularyError
        If its registry does not fit format 1.
    """
    kind, now = scvi_files.kind_of(saved), scvi_files.current(saved)
    with _well_formed(now):
        manifest = _manifest(now, kind, name)
    _check_claims(manifest, now)
    network = cast(ScviTools, architecture(kind).build(manifest))
    network.take(_module(manifest, now))
    atlas = _atlas(now, manifest)
    return Converted(manifest, network, atlas, tuple(_lost(saved, manifest, atlas=atlas)))


@dataclass(frozen=True)
class Outline:
    """A saved model of any kind, by its own account: its version, its keys with their categories, its parameters."""

    version: str
    conditions: dict[str, list[str]]
    labels: dict[str, list[str]]
    parameters: dict[str, Any]


def outlined(saved: Saved) -> Outline:
    """Return a saved model's version, keys and parameters.

    Raises
    ------
    IntegrityError
        If its registry is not one of scvi-tools.
    Unsupported
        If it is of a kind that archzoo does not know, from before 0.15.
    """
    now = scvi_files.current(saved)
    with _well_formed(now):
        registry = now.attributes[REGISTRY]
        setup, fields = registry["setup_args"], registry["field_registries"]
        states = {name: field.get("state_registry", {}) for name, field in fields.items()}
        fields_of = {"batch_key": "batch", "labels_key": "labels"}
        keys = {setup[key]: states[name]["categorical_mapping"] for key, name in fields_of.items() if setup.get(key)}
        covariates = states.get("extra_categorical_covs", {}).get("mappings", {})
        columns = {str(column): [str(name) for name in names] for column, names in {**keys, **covariates}.items()}
        label = str(setup.get("labels_key"))
        return Outline(
            version_of(now),
            conditions={column: names for column, names in columns.items() if column != label},
            labels={column: names for column, names in columns.items() if column == label},
            parameters=flattened(_parameters(now.attributes["init_params_"])),
        )


@contextmanager
def _well_formed(saved: Saved) -> Iterator[None]:
    """Raise IntegrityError for what a registry or parameters of the wrong type raise."""
    try:
        yield
    except errors.HubClientError:
        raise
    except MALFORMED as error:
        file = saved.files[0].path
        raise errors.IntegrityError(
            f"{file} does not hold what scvi-tools saves of such a model ({type(error).__name__}: {error}). "
            "Copy the folder again from where it was saved.",
            file=file,
        ) from None


# --- the manifest ----------------------------------------------------------------------------------------------------


def version_of(saved: Saved) -> str:
    """Return the version of scvi-tools that a model with a registry is from."""
    return str(saved.attributes[REGISTRY].get("scvi_version", ""))


def _minor(version: str) -> Version:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (minor := (int(found[1]), int(found[2]))) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise errors.Unsupported(
            f"this model is from scvi-tools {version or '(of no named version)'}; those from {oldest} on can be "
            f"imported. Train it again with scvi-tools {KNOWN[-1]}.",
            kind=f"scvi-tools {version}",
            verb="import",
        )
    return minor


def _manifest(saved: Saved, kind: str, name: str) -> Manifest:
    version, parameters = version_of(saved), _parameters(saved.attributes["init_params_"])
    given = flattened(parameters)
    module = FromModule(
        labels=labels_in(saved.state),
        embedding=_embedding(saved.state, given),
        masks=None if given.get("override_missing_proteins") else _masks(saved),
        fields=_old_defaults(kind, given, _minor(version)),
    )
    manifest = manifest_of(_with_genes(saved), parameters, kind=kind, name=name, module=module)
    history = saved.attributes.get("history_") or {}
    epochs = max((len(column) for column in history.values()), default=0)
    return manifest.changed(training=Training(epochs=epochs, versions={"scvi-tools": version}))


def _embedding(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> Embedding | None:
    """Return how batches are embedded; None where they are one-hot."""
    return Embedding(dim=state[EMBEDDING].shape[1], max_norm=_max_norm(given)) if EMBEDDING in state else None


def _max_norm(given: Mapping[str, Any]) -> float | None:
    found: float | None = (given.get("batch_embedding_kwargs") or {}).get("max_norm")
    return found


def _masks(saved: Saved) -> Mapping[str, Any] | None:
    """Return which proteins the batches of the saved cells measured; None where all measured all."""
    state = saved.attributes[REGISTRY]["field_registries"].get("proteins", {}).get("state_registry", {})
    masks = state.get("protein_batch_mask")
    return masks if isinstance(masks, dict) else None


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return initial parameters as they are saved today, in two groups, without those that are gone."""
    if "non_kwargs" not in given:
        inner = {name: value for name, value in given.items() if isinstance(value, dict)}
        given = {"non_kwargs": {name: given[name] for name in given if name not in inner}, "kwargs": inner}
    plain = {name: value for name, value in given["non_kwargs"].items() if name not in GONE}
    return {"non_kwargs": plain, "kwargs": given["kwargs"]}


def _with_genes(saved: Saved) -> dict[str, Any]:
    """Return the registry with the genes, which older ones do not name."""
    registry: dict[str, Any] = saved.attributes[REGISTRY]
    field = registry["field_registries"]["X"]
    if "column_names" in field["state_registry"]:
        return registry
    named = field | {"state_registry": field["state_registry"] | {"column_names": saved.genes}}
    return registry | {"field_registries": registry["field_registries"] | {"X": named}}


CHOSEN_SINCE: Mapping[str, tuple[Version, str, str, dict[str, Any]]] = {
    "scanvi": ((1, 1), "classifier_parameters", "logits", {"classifier_logits": False}),
    "totalvi": ((1, 2), "extra_decoder_kwargs", "activation_function_bg", {"background_activation": "exp"}),
}
"""What can be chosen since a version, in an item of a parameter, and the config's field that older ones computed."""


def _old_defaults(kind: str, given: Mapping[str, Any], version: Version) -> dict[str, Any]:
    if kind not in CHOSEN_SINCE:
        return {}
    since, parameter, item, computed = CHOSEN_SINCE[kind]
    return {} if version >= since or item in (given.get(parameter) or {}) else computed


# --- the weights -----------------------------------------------------------------------------------------------------


def _check_claims(manifest: Manifest, saved: Saved) -> None:
    """Refuse sizes that the weights cannot have, before anything is made of that size."""
    numbers = sum(tensor.numel() for tensor in saved.state.values())
    for name, size in manifest.architecture:
        most = len(saved.state) if "layers" in name else numbers
        if type(size) is int and size > most:
            raise errors.IntegrityError(
                f"{saved.files[0].path} claims more than it holds: {name} is {size:,}, and there are {numbers:,} "
                f"numbers in {len(saved.state):,} tensors. Copy the folder again from where it was saved.",
                file=saved.files[0].path,
                actual=size,
            )


def _module(manifest: Manifest, saved: Saved) -> Any:
    """Return scvi-tools' own module with the saved weights."""
    with _well_formed(saved):
        given = flattened(_parameters(saved.attributes["init_params_"]))
        state = fitting(saved.state, manifest, max_norm=_max_norm(given))
    with torch.device("meta"):  # no memory is taken for sizes that the registry may only claim
        expected = {name: tuple(tensor.shape) for name, tensor in plain_module(manifest).state_dict().items()}
    if EFFICIENCY in expected:
        state.setdefault(EFFICIENCY, torch.zeros(expected[EFFICIENCY]))
    if wrong := torch_files.misfits(state, expected):
        version, model = version_of(saved), KINDS[manifest.architecture.kind].model
        raise errors.IntegrityError(
            f"{saved.files[0].path}, from scvi-tools {version}, does not hold the weights of the {model} that it "
            f"describes: {errors.names(wrong)}. If scvi-tools {version} loads it, let scvi-tools {KNOWN[-1]} load and "
            "save it, and import that; if not, copy the folder again from where it was saved.",
            file=saved.files[0].path,
            expected=expected,
            actual={name: tuple(tensor.shape) for name, tensor in state.items()},
        )
    module = plain_module(manifest)
    module.load_state_dict(state)
    return module


# --- the atlas -------------------------------------------------------------------------------------------------------


def _atlas(saved: Saved, manifest: Manifest) -> AnnData | None:
    """Return the atlas of a model whose data were minified: posterior means, batches and labels of its cells."""
    registry = saved.attributes[REGISTRY]
    key = registry["field_registries"].get("latent_qzm", {}).get("data_registry", {}).get("attr_key")
    if saved.cells is None or key is None:
        return None
    cells, setup = read_cells(saved.cells), registry["setup_args"]
    columns = {c.key: setup["batch_key"] for c in manifest.conditions} | {
        level.key: setup["labels_key"] for level in manifest.labels
    }
    if missing := [*({key} - {*cells.obsm}), *({*columns.values()} - {*cells.obs.columns})]:
        raise _misfit(saved.cells.name, f"has no {errors.names(missing)}, which {saved.files[0].path} names")
    latent = np.asarray(cells.obsm[key])
    width = getattr(manifest.architecture, "latent", None)
    if latent.ndim != 2 or latent.shape[1] != width or not np.isfinite(latent).all():
        raise _misfit(saved.cells.name, f"holds no finite latent of {width} dimensions in obsm[{key!r}]")
    obs = {name: texts(cells.obs[column]).astype(object) for name, column in columns.items()}
    conditions = {c.key: obs[c.key] for c in manifest.conditions}
    for condition in manifest.conditions:
        if unknown := {*conditions[condition.key]} - {*condition.categories}:
            raise _misfit(saved.cells.name, f"names {errors.names(sorted(unknown))}, which the model does not know")
    known = {level.key: np.isin(obs[level.key], level.categories) for level in manifest.labels}
    labels = {level.key: np.where(known[level.key], obs[level.key], "") for level in manifest.labels}
    return atlas_file.atlas(latent, conditions=conditions, labels=labels)


def _misfit(file: str, fault: str) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{file} {fault}. Copy the folder again from where it was saved, or leave the file out.", file=file
    )


# --- what could not be kept ------------------------------------------------------------------------------------------


def _lost(saved: Saved, manifest: Manifest, *, atlas: AnnData | None) -> Iterator[str]:
    attributes = saved.attributes
    for name, sentence in LOST.items():
        if attributes.get(name) is not None:
            yield f"{name}: {sentence}"
    for name in sorted(attributes.keys() - LOST.keys() - KEPT - WITHOUT_CONTENT):
        yield f"{name}: no attribute of scvi-tools' models"
    if isinstance(saved.genes, dict):
        yield "the names of modalities: " + ", ".join(saved.genes)
    setup = attributes[REGISTRY]["setup_args"] if attributes.get(REGISTRY) else {}
    columns = [setup.get("batch_key"), setup.get("labels_key"), *(setup.get("categorical_covariate_keys") or [])]
    named = {key.key for key in manifest.categorical} | {level.key for level in manifest.labels}
    for column in columns:
        if column is not None and (key := key_of(column)) != column and key in named:
            yield f"the obs column {column!r}, called {key!r} here"
    if saved.cells is not None:
        yield f"{saved.cells.name}: its cells" + ("" if atlas is None else ", but for where they lie in the latent")
    masks = None if saved.is_old else _masks(saved)
    if masks and not any(np.any(mask) for mask in masks.values()):
        yield "which batches measured which proteins: the registry is that of minified cells"
    if not attributes.get("is_trained_", True):
        yield "any training: the model was saved before it"
