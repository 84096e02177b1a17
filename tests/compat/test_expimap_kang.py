"""Every documented method and parameter of EXPIMAP, called once on stimulated blood cells with Reactome's programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure

from hub_client import plot
from hub_client.compat import EXPIMAP
from hub_client.data.genes import Panel
from hub_client.manifest.inputs import Gene, Genes
from hub_client.programs.programs import as_terms, read_gmt

pytestmark = pytest.mark.slow
DOCUMENTED = json.loads((Path(__file__).parents[1] / "contract" / "documented_api.json").read_text())["EXPIMAP"]
INTERFERON = "Interferon Signaling"


class Called:
    """Calls a model's methods, and notes which parameters were given by name."""

    def __init__(self, model: EXPIMAP, noted: dict[str, set[str]]) -> None:
        self.model, self.noted = model, noted

    def __call__(self, name: str, /, **given: Any) -> Any:
        self.noted.setdefault(name, set()).update(given)
        return getattr(self.model, name)(**given)


@pytest.fixture(scope="module")
def kang(shared_data: Callable[[str], Path]) -> AnnData:
    """A thousand cells, half of them stimulated, with Reactome's programs in ``varm`` and their whole names."""
    cells = anndata.read_h5ad(shared_data("pbmc_kang_small.h5ad"))
    genes = Genes(id_type="symbol", panel=tuple(Gene(symbol=name) for name in cells.var_names))
    programs = read_gmt(shared_data("genesets/reactome_1448.gmt"))
    terms = as_terms(programs, Panel.over(genes, human=True), min_genes=15, max_genes=60, max_overlap=0.5).terms
    mask = np.zeros((cells.n_vars, len(terms)), dtype=np.int32)
    for column, term in enumerate(terms):
        mask[:, column] = cells.var_names.isin(term.genes)
    cells.varm["reactome"], cells.uns["terms"] = mask, [term.name for term in terms]
    return cells


def test_every_documented_method_and_parameter(kang: AnnData, tmp_path: Path) -> None:
    control, stimulated = (kang[kang.obs["batch"] == name].copy() for name in ("kang_ctrl", "kang_stim"))
    mask = kang.varm["reactome"].T
    extra = np.zeros((1, kang.n_vars), dtype=int)
    extra[0, :30] = 1
    noted: dict[str, set[str]] = {}
    arguments = {
        "adata": control,
        "condition_key": "batch",
        "conditions": ["kang_ctrl"],
        "hidden_layer_sizes": [32],
        "dr_rate": 0.1,
        "recon_loss": "nb",
        "use_l_encoder": True,
        "use_bn": False,
        "use_ln": True,
        "mask": mask,
        "mask_key": "reactome",
        "decoder_last_layer": "softmax",
        "soft_mask": True,
        "n_ext": 1,
        "n_ext_m": 1,
        "use_hsic": True,
        "hsic_one_vs_all": True,
        "ext_mask": extra,
        "soft_ext_mask": True,
    }
    assert set(arguments) == set(DOCUMENTED["init"])
    reference = EXPIMAP(**arguments)
    call = Called(reference, noted)
    call("train", n_epochs=8, lr=0.01, eps=1e-8, alpha=0.5, omega=np.ones(len(mask)), alpha_l1=0.5, monitor=False)
    call("save", dir_path=str(tmp_path / "reference"), overwrite=True, save_anndata=True)

    noted["load"] = {"dir_path", "adata", "map_location"}
    loaded = EXPIMAP.load(dir_path=str(tmp_path / "reference"), adata=control, map_location="cpu")
    np.testing.assert_array_equal(loaded.get_latent(mean=True), reference.get_latent(mean=True))

    surgery = {
        "reference_model": str(tmp_path / "reference"),
        "freeze": True,
        "freeze_expression": True,
        "unfreeze_ext": True,
        "remove_dropout": True,
        "new_n_ext": 1,
        "new_n_ext_m": 1,
        "new_ext_mask": extra,
        "new_soft_ext_mask": True,
    }
    noted["load_query_data"] = {"adata", "**kwargs", *surgery}
    query = EXPIMAP.load_query_data(stimulated, **surgery, hsic_one_vs_all=False)
    terms = len(mask) + 2 + 2
    call = Called(query, noted)
    before = np.asarray(reference.get_latent(control, mean=True))[:, : len(mask)]
    call("train", n_epochs=4, weight_decay=0.0, alpha_kl=0.1, gamma_ext=0.1, beta=1.0, monitor=False)
    after = query.get_latent(control, mean=True)
    np.testing.assert_array_equal(np.asarray(after)[:, : len(mask)], before)

    _inference(call, stimulated, terms=terms)
    _terms(call, stimulated, terms=terms)
    _enrichment(call, kang.copy(), terms=terms)
    _figures(query)
    assert set(noted) == set(DOCUMENTED["methods"])
    for method, names in noted.items():
        assert documented_parameters(method) <= names, method


def documented_parameters(method: str) -> set[str]:
    said = DOCUMENTED["methods"][method]
    if said["params"] is not None:
        return {name for name in said["params"] if not name.startswith("**")}
    return set(said["listed"].replace("[", "").replace("]", "").replace(" ", "").split(","))


def _inference(call: Called, cells: AnnData, *, terms: int) -> None:
    conditions = cells.obs["batch"].to_numpy()
    mean = call("get_latent", x=cells.X, c=conditions, only_active=False, mean=True, mean_var=False)
    assert mean.shape == (cells.n_obs, terms)
    active = call("nonzero_terms")
    assert active.shape == (terms,)
    some, variance = call("get_latent", x=cells, only_active=True, mean_var=True)
    np.testing.assert_array_equal(some, mean[:, active])
    assert (variance > 0).all()
    assert call("get_y", x=cells.X, c=conditions).shape == cells.shape


def _terms(call: Called, cells: AnnData, *, terms: int) -> None:
    names = list(cells.uns["terms"])
    call("update_terms", terms="terms", adata=cells)
    assert cells.uns["terms"][: len(names)] == names and len(cells.uns["terms"]) == terms
    programs = call("mask_genes", terms=cells.uns["terms"])
    assert "ISG15" in programs[INTERFERON]
    genes = call("term_genes", term=INTERFERON, terms=cells.uns["terms"])
    assert isinstance(genes, pd.DataFrame) and set(genes["in_mask"]) == {True, False}
    call("latent_directions", method="counts", get_confidence=True, adata=cells, key_added="ways")
    assert cells.uns["ways"].shape == cells.uns["ways_confindence"].shape == (terms,)


def _enrichment(call: Called, cells: AnnData, *, terms: int) -> None:
    call("latent_directions", adata=cells)
    for exact in (True, False):
        call(
            "latent_enrich",
            groups="condition",
            comparison="control",
            n_sample=500,
            use_directions=True,
            directions_key="directions",
            select_terms=list(range(5, terms)),
            adata=cells,
            exact=exact,
            key_added=f"factors_{exact}",
        )
        (found,) = cells.uns[f"factors_{exact}"].values()
        assert found["bf"].shape == (terms - 5,) and np.isfinite(found["bf"]).all()
    difference = [cells.uns[f"factors_{exact}"]["IFN-beta"]["p_h0"] for exact in (True, False)]
    np.testing.assert_allclose(*difference, atol=0.15)


def _figures(model: EXPIMAP) -> None:
    """hub_client's figures take the model inside."""
    assert isinstance(plot.term_genes(model.model, INTERFERON), Figure)
