"""Recordings of scArches, and our models made from them. README.md says what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hub_client.data.cells import Cells, GeneReport
from hub_client.interop import expimap, scpoli, trvae
from hub_client.manifest.v1 import Manifest
from hub_client.models.model import Model

HERE = Path(__file__).parent
REFERENCES = {
    "scpoli_query_unlabeled": "scpoli_default",
    "scpoli_multi_query_newtype": "scpoli_multi",
    "scpoli_shot_surgery": "scpoli_default",
    "trvae_nb_query": "trvae_nb",
    "expimap_nb_query": "expimap_nb",
    "expimap_nb_query_ext": "expimap_nb",
    "expimap_nb_query_ext_hard": "expimap_nb",
}
DATA = {
    "scpoli_query_unlabeled": "query",
    "scpoli_multi_query_newtype": "query_newtype",
    "trvae_nb_query": "query",
    "expimap_nb_query": "query",
    "expimap_nb_query_ext": "query",
    "expimap_nb_query_ext_hard": "query",
}


def arrays(file: str, part: str) -> dict[str, NDArray[Any]]:
    """Return the arrays below ``part/`` in one file."""
    with np.load(HERE / f"{file}.npz", allow_pickle=False) as found:
        return {name.removeprefix(f"{part}/"): found[name] for name in found.files if name.startswith(f"{part}/")}


@dataclass(frozen=True)
class Recording:
    """One model as scArches ran it."""

    name: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((HERE / f"{self.kind}.json").read_text())[self.name]
        return found

    @property
    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = self.facts["attrs"]
        return found | (masks(found) if self.kind == "expimap" else {})

    @property
    def reference(self) -> Recording | None:
        """The model surgery started from."""
        return Recording(REFERENCES[self.name]) if self.name in REFERENCES else None

    def part(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of one part: state, forward, outputs, ..."""
        return arrays(self.name, name)

    @cached_property
    def state(self) -> dict[str, NDArray[Any]]:
        return self.part("state")

    @cached_property
    def forward(self) -> dict[str, NDArray[Any]]:
        return self.part("forward")

    @cached_property
    def outputs(self) -> dict[str, NDArray[Any]]:
        return self.part("outputs")

    def cells(self) -> Cells:
        """Return the cells the model was trained on."""
        found = cells(DATA.get(self.name, "ref"), attributes=self.attributes)
        if self.name == "scpoli_unknown_zinb":
            labels = np.where((names := arrays("cells", "ref_unknown_obs")["cell_type"]) == "Unknown", "", names)
            return found.relabelled({"cell_type": labels})
        return found

    def model(self, *, state: str = "state") -> Model:
        """Return our model with the recorded weights."""
        manifest, tensors = CONVERTED[self.kind](self, self.part(state))
        model = Model.build(manifest)
        model.network.load(tensors)
        model.describe()
        return model

    @property
    def kind(self) -> str:
        return self.name.split("_")[0]

    @property
    def described(self) -> dict[str, Any]:
        """What every kind's manifest is made from."""
        reference = self.reference.attributes if self.reference else None
        names = list(arrays("cells", "ref")["var_names"])
        return {"genes": names, "name": self.name.replace("_", "-"), "reference": reference}


Converted = tuple[Manifest, dict[str, Tensor]]


def _scpoli(recording: Recording, state: dict[str, NDArray[Any]]) -> Converted:
    found, attributes = recording.outputs, recording.attributes
    labelled = {"mean": found["prototypes_labeled_mean"], "cov": found["prototypes_labeled_cov"]}
    means = found.get("prototypes_unlabeled_mean")
    manifest = scpoli.manifest_of(attributes, unlabelled=0 if means is None else len(means), **recording.described)
    unlabelled = None if means is None else {"mean": means}
    return manifest, scpoli.tensors_of(state, attributes, labelled=labelled, unlabelled=unlabelled)


def _trvae(recording: Recording, state: dict[str, NDArray[Any]]) -> Converted:
    attributes = recording.attributes
    return trvae.manifest_of(attributes, **recording.described), trvae.tensors_of(state, attributes)


def _expimap(recording: Recording, state: dict[str, NDArray[Any]]) -> Converted:
    attributes, reference = recording.attributes, recording.described["reference"]
    manifest = expimap.manifest_of(attributes, **recording.described)
    return manifest, expimap.tensors_of(state, attributes, reference=reference)


CONVERTED: dict[str, Callable[[Recording, dict[str, NDArray[Any]]], Converted]] = {
    "scpoli": _scpoli,
    "trvae": _trvae,
    "expimap": _expimap,
}
"""How the recordings of each kind become our models."""


def masks(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the masks an expiMap was made with, as scArches saves them."""
    with np.load(HERE / "masks.npz", allow_pickle=False) as found:
        return {
            "mask_": found["mask"].tolist(),
            "ext_mask_": found["ext_mask"].tolist() if attributes["n_ext_m_"] else None,
        }


def anndata_of(data: str) -> AnnData:
    """Return scArches' reference or query as it was when its outputs were recorded."""
    found = arrays("cells", data)
    obs = {name.removeprefix("obs_"): v for name, v in found.items() if name.startswith("obs_") and name != "obs_names"}
    return AnnData(
        csr_matrix(found["X"].astype(np.float32)),
        obs=pd.DataFrame(obs, index=found["obs_names"]),
        var=pd.DataFrame(index=found["var_names"]),
    )


def cells(data: str, *, attributes: dict[str, Any]) -> Cells:
    """Return the cells of one data set with the conditions and labels a model reads."""
    found = arrays("cells", data)
    counts = found["X"].astype(np.float32)
    if attributes["recon_loss_"] == "mse":
        counts = np.log1p(counts / counts.sum(1, keepdims=True) * 1000)
    return Cells(
        x=csr_matrix(counts),
        obs_names=found["obs_names"].astype(object),
        conditions={key: found[f"obs_{key}"] for key in _columns(attributes)},
        labels={key: found[f"obs_{key}"] for key in attributes.get("cell_type_keys_", ())},
        size_factor=counts.sum(1),
        report=GeneReport(coverage=1.0),
    )


def _columns(attributes: dict[str, Any]) -> list[str]:
    """The obs columns of conditions: scPoli has several keys, the others one."""
    return list(attributes.get("condition_keys_") or [attributes["condition_key_"]])
