"""Folders as scvi-tools writes them, and wrote them before 0.15, of models that it made and trained."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hub_client.models.architectures.scvi.modules import scvi_tools
from tests.scvi_models import cells as simulated
from tests.scvi_models import fitted, undisturbed

OLD_VERSION = "0.14.6"
KEYS = {"X": "X", "batch": "batch_indices", "labels": "labels", "proteins": "protein_expression"}
KEYS |= {"extra_categorical_covs": "cat_covs", "extra_continuous_covs": "cont_covs"}
"""What scvi-tools calls what it reads, and called it before 0.15."""


def saved(model: Any, folder: Path, *, prefix: str = "", cells: bool = False) -> Path:
    """Write a model as scvi-tools does, with its cells or without."""
    with undisturbed():
        model.save(str(folder), prefix=prefix, save_anndata=cells)
    return folder


def latent(model: Any) -> Any:
    """Return where a model puts its own cells, ``(cells, latent)``."""
    with undisturbed():
        return model.get_latent_representation()


def mean(model: Any) -> Any:
    """Return the posterior means of a model's own cells, ``(cells, latent)``."""
    with undisturbed():
        return model.get_latent_representation(return_dist=True)[0]


def loaded(model: Any, folder: Path, *, prefix: str = "") -> Any:
    """Return what scvi-tools itself loads from a folder, for the cells of a model."""
    with undisturbed():
        return type(model).load(str(folder), model.adata, prefix=prefix, accelerator="cpu")


def repository(folder: Path) -> Path:
    """Write what scvi-hub has of a scANVI: its minified cells, metadata and a card."""
    with undisturbed():
        adata = simulated()
        scvi_tools().model.SCANVI.setup_anndata(
            adata, batch_key="batch", labels_key="cell_type", unlabeled_category="T"
        )
        theirs = fitted(scvi_tools().model.SCANVI(adata, n_hidden=16, n_latent=6))
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = theirs.get_latent_representation(return_dist=True)
        theirs.minify_adata()
        saved(theirs, folder, cells=True)
        hub = import_module("scvi.hub")
        told = hub.HubMetadata.from_dir(str(folder), anndata_version=version("anndata"))
        told.save(str(folder / "_scvi_required_metadata.json"))
        card = hub.HubModelCardHelper.from_dir(
            str(folder),
            license_info="cc-by-4.0",
            anndata_version=version("anndata"),
            data_modalities=["rna"],
            tissues=["lung", "nose"],
            data_is_annotated=True,
        )
        (folder / "README.md").write_text(card.model_card.content)
    return folder


def edited(folder: Path, into: Path, **files: str) -> Path:
    """Copy a repository, with other metadata or another card."""
    into.mkdir()
    for path in folder.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        (into / {"metadata": "_scvi_required_metadata.json", "card": "README.md"}[name]).write_text(content)
    return into


def content(model: Any) -> dict[str, Any]:
    """Return what scvi-tools would write of a model."""
    attributes = {name: value for name, value in model._get_user_attributes() if name.endswith("_")}
    state = model.module.state_dict()
    state["pyro_param_store"] = {"params": {}, "constraints": {}}
    return {"model_state_dict": state, "var_names": model.get_var_names(), "attr_dict": attributes}


def saved_old(model: Any, folder: Path, *, prefix: str = "", **changes: Any) -> Path:
    """Write a model as scvi-tools did before 0.15: three files, with a setup dictionary instead of a registry."""
    folder.mkdir()
    told = content(model)
    attributes = told["attr_dict"] | {"scvi_setup_dict_": setup_dictionary(model.registry_)} | changes
    del attributes["registry_"]
    del told["model_state_dict"]["pyro_param_store"]
    torch.save(told["model_state_dict"], folder / f"{prefix}model_params.pt")
    (folder / f"{prefix}attr.pkl").write_bytes(pickle.dumps(attributes))
    np.savetxt(folder / f"{prefix}var_names.csv", model.adata.var_names.to_numpy(str), fmt="%s")
    return folder


def setup_dictionary(registry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scvi-tools kept of a set-up AnnData before 0.15."""
    fields = {key: field for key, field in registry["field_registries"].items() if field["data_registry"]}
    states = {key: field["state_registry"] for key, field in fields.items()}
    stats = {name: count for field in fields.values() for name, count in field["summary_stats"].items()}
    setup: dict[str, Any] = {
        "scvi_version": OLD_VERSION,
        "data_registry": {
            KEYS[key]: {name: field["data_registry"].get(name) for name in ("attr_name", "attr_key")}
            for key, field in fields.items()
            if key in KEYS
        },
        "summary_stats": stats | {"n_proteins": stats.get("n_proteins", 0)},
        "categorical_mappings": {
            f"_scvi_{key}": {name: states[key][full] for name, full in _MAPPING.items()}
            for key in ("batch", "labels")
            if key in states
        },
    }
    if "extra_categorical_covs" in states:
        covariates = states["extra_categorical_covs"]
        setup["extra_categoricals"] = {
            "mappings": dict(covariates["mappings"]),
            "keys": list(covariates["field_keys"]),
            "n_cats_per_key": list(covariates["n_cats_per_key"]),
        }
    if "extra_continuous_covs" in states:
        setup["extra_continuous_keys"] = np.array(states["extra_continuous_covs"]["columns"], dtype=object)
    if "proteins" in states:
        setup["protein_names"] = list(states["proteins"]["column_names"])
        if mask := states["proteins"].get("protein_batch_mask"):
            setup["totalvi_batch_mask"] = mask
    return setup


_MAPPING = {"original_key": "original_key", "mapping": "categorical_mapping"}


def zipped(value: Any) -> bytes:
    """Return what PyTorch writes of a value."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def parts(file: bytes) -> dict[str, bytes]:
    """Return the parts of a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def archived(named: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of some parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, part in named.items():
            archive.writestr(name, part)
    return file.getvalue()


def with_pickle(file: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a zipped file with another pickle in it."""
    return archived({name: change(part) if name.endswith("data.pkl") else part for name, part in parts(file).items()})
