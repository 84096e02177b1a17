"""Every documented method of SCVI, SCANVI and TOTALVI is called on real cells, and surgery leaves the reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from hub_client import compat, errors, from_scvi
from hub_client.compat._split import SplitLinear
from hub_client.data.examples import bundled_query
from tests.scvi_models import undisturbed

pytestmark = pytest.mark.slow
DOCUMENTED = json.loads((Path(__file__).parents[1] / "contract" / "documented_api.json").read_text())
METHODS = [(name, method) for name in ("SCVI", "SCANVI", "TOTALVI") for method in sorted(DOCUMENTED[name]["methods"])]
UNKNOWN = "Unknown"
CALM: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_checkpointing": False}
SIZE: dict[str, Any] = {"n_latent": 4}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with undisturbed():
        yield


# --- cells -----------------------------------------------------------------------------------------------------------


@cache
def blood() -> anndata.AnnData:
    """scanpy's PBMC: the genes seen most often, two batches and a donor for a reference, two more for a query."""
    adata = bundled_query("pbmc68k")
    seen = np.asarray((adata.X > 0).sum(axis=0)).reshape(-1)
    adata = adata[:, np.argsort(-seen, kind="stable")[:80]].copy()
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.obs["donor"] = np.where(np.arange(adata.n_obs) % 2, "one", "two")
    adata.obs["cell_type"] = adata.obs["bulk_labels"].astype(str)
    return adata


def part(batches: tuple[str, ...], donors: Mapping[str, str] | None = None) -> anndata.AnnData:
    adata = blood()
    found = adata[adata.obs["batch"].isin([f"gem{batch}" for batch in batches])].copy()
    found.obs["donor"] = found.obs["donor"].replace(dict(donors or {}))
    return found


def reference_cells() -> anndata.AnnData:
    return part(("1", "2"))


def query_cells() -> anndata.AnnData:
    return part(("3", "4"), donors={"one": "three"})


def proteins(shared_data: Callable[[str], Path]) -> anndata.AnnData:
    adata = anndata.read_h5ad(shared_data("citeseq_pbmc_small.h5ad"))
    seen = np.asarray((adata.X > 0).sum(axis=0)).reshape(-1)
    adata = adata[:, np.argsort(-seen, kind="stable")[:60]].copy()
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    return adata


# --- models ----------------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {"batch_key": "batch", "categorical_covariate_keys": ["donor"]}


def fitted(model: Any, **options: Any) -> Any:
    model.train(max_epochs=2, **CALM | options)
    return model


def scvi(adata: anndata.AnnData | None = None, **options: Any) -> Any:
    cells = reference_cells() if adata is None else adata
    compat.SCVI.setup_anndata(cells, **KEYS)
    torch.manual_seed(0)
    return fitted(compat.SCVI(cells, n_hidden=8, **SIZE | options))


def scanvi(adata: anndata.AnnData | None = None) -> Any:
    cells = reference_cells() if adata is None else adata
    compat.SCANVI.setup_anndata(cells, "cell_type", UNKNOWN, **KEYS)
    torch.manual_seed(0)
    return fitted(compat.SCANVI(cells, n_hidden=8, **SIZE))


def totalvi(adata: anndata.AnnData) -> Any:
    compat.TOTALVI.setup_anndata(adata, protein_expression_obsm_key="protein", batch_key="batch")
    torch.manual_seed(0)
    return fitted(compat.TOTALVI(adata, n_hidden=8, **SIZE), batch_size=64)


MAKE: dict[str, Callable[..., Any]] = {"SCVI": scvi, "SCANVI": scanvi}


@pytest.fixture(scope="module")
def models(shared_data: Callable[[str], Path]) -> Callable[[str], Any]:
    """Trained models by class, each made when it is first asked for; callers must not train them."""

    @cache
    def made(name: str) -> Any:
        with undisturbed():
            return MAKE[name]() if name in MAKE else totalvi(proteins(shared_data))

    return made


# --- every documented method ------------------------------------------------------------------------------------------


def cells_by(columns: int, found: Any, model: Any) -> None:
    values = np.asarray(found)
    assert values.shape == (model.adata.n_obs, columns)
    assert np.isfinite(values).all()


def finite(found: Any) -> None:
    values = found.values() if isinstance(found, dict) else [found]
    for value in values:
        assert np.isfinite(np.asarray(torch.as_tensor(value))).all()


def check_expression(model: Any) -> None:
    found = model.get_normalized_expression(library_size=100)
    rna = found[0] if isinstance(found, tuple) else found
    assert_allclose(rna.sum(axis=1), 100, rtol=1e-4)
    assert list(rna.columns) == list(model.adata.var_names)


def check_correlation(model: Any) -> None:
    found = model.get_feature_correlation_matrix(n_samples=2)
    assert_allclose(np.diag(found), 1, atol=1e-6)
    assert (np.abs(found) <= 1 + 1e-6).all(axis=None)


def check_difference(model: Any) -> None:
    found = model.differential_expression(groupby="cell_type", group1=model.adata.obs["cell_type"].iloc[0], silent=True)
    assert found["bayes_factor"].notna().all()
    assert set(found.index) >= set(model.adata.var_names)


def check_managers(model: Any) -> None:
    manager = model.get_anndata_manager(model.adata, required=True)
    assert manager is model.adata_manager
    type(model).register_manager(manager)
    assert model.get_from_registry(model.adata, "batch").shape == (model.adata.n_obs, 1)
    model.deregister_manager()


def check_folder(model: Any, folder: Path) -> None:
    model.save(str(folder / "saved"), save_anndata=False)
    again = type(model).load(str(folder / "saved"), model.adata, accelerator="cpu")
    assert_allclose(again.get_latent_representation(), model.get_latent_representation(), atol=1e-6)
    assert type(model).load_registry(str(folder / "saved"))["model_name"] == type(model).__name__
    type(model).view_setup_args(str(folder / "saved"))


def check_legacy(model: Any, folder: Path) -> None:
    """Folders before 0.15 hold the same in three files."""
    model.save(str(folder / "saved"))
    saved = torch.load(folder / "saved" / "model.pt", weights_only=False)  # ours, written a line above
    old = folder / "old"
    old.mkdir()
    state = {name: tensor for name, tensor in saved["model_state_dict"].items() if name != "pyro_param_store"}
    torch.save(state, old / "model_params.pt")
    pd.to_pickle(saved["attr_dict"], old / "attr.pkl")
    names = saved["var_names"]
    np.savetxt(old / "var_names.csv", names, fmt="%s")
    type(model).convert_legacy_save(str(old), str(folder / "new"))
    again = type(model).load(str(folder / "new"), model.adata, accelerator="cpu")
    assert_allclose(again.get_latent_representation(), model.get_latent_representation(), atol=1e-6)


def check_preparation(model: Any) -> None:
    names = list(model.adata.var_names)
    shuffled = model.adata[:, names[:0:-1]].copy()
    assert list(type(model).prepare_query_anndata(shuffled, model, return_reference_var_names=True)) == names
    ready = type(model).prepare_query_anndata(shuffled, model, inplace=False)
    assert list(ready.var_names) == names
    assert ready[:, names[0]].X.sum() == 0


def check_query(model: Any) -> None:
    query = model.adata.copy()
    query.obs["batch"] = "another"
    grown = type(model).load_query_data(query, model, accelerator="cpu")
    fitted(grown, batch_size=64)
    assert grown.get_latent_representation().shape == (query.n_obs, SIZE["n_latent"])


def check_minified(model: Any) -> None:
    fresh = MAKE[type(model).__name__](model.adata.copy())
    before = fresh.get_latent_representation()
    name = type(fresh).__name__.lower()
    mean, variance = fresh.get_latent_representation(return_dist=True)
    fresh.adata.obsm[f"{name}_latent_qzm"], fresh.adata.obsm[f"{name}_latent_qzv"] = mean, variance
    fresh.minify_adata(use_latent_qzm_key=f"{name}_latent_qzm", use_latent_qzv_key=f"{name}_latent_qzv")
    assert fresh.minified_data_type == "latent_posterior_parameters"
    assert_allclose(fresh.get_latent_representation(), before, atol=1e-6)


def check_scanvi_from_scvi(model: Any) -> None:
    made = compat.SCANVI.from_scvi_model(scvi(), UNKNOWN, labels_key="cell_type")
    assert isinstance(made, compat.SCANVI)
    assert made.was_pretrained
    fitted(made, n_samples_per_label=10)
    assert set(made.predict()) <= set(made.adata.obs["cell_type"])


def check_predictions(model: Any) -> None:
    hard, soft = model.predict(), model.predict(soft=True)
    assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(soft.columns[soft.to_numpy().argmax(axis=1)], hard)


def check_background(model: Any) -> None:
    found = model.get_protein_background_mean(model.adata, np.arange(10), 10)
    assert np.asarray(found).shape[-1] == model.adata.obsm["protein"].shape[1]


def check_foreground(model: Any) -> None:
    found = model.get_protein_foreground_probability()
    assert found.shape == model.adata.obsm["protein"].shape
    assert ((found >= 0) & (found <= 1)).all(axis=None)


def check_mudata(model: Any) -> None:
    adata = model.adata
    protein = adata.obsm["protein"]
    frame = protein if isinstance(protein, pd.DataFrame) else pd.DataFrame(protein, index=adata.obs_names)
    measured = anndata.AnnData(frame.to_numpy(dtype=np.float32), obs=adata.obs[[]].copy())
    measured.var_names = [f"protein {name}" for name in frame.columns]
    both = mudata.MuData(
        {
            "rna": anndata.AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy(), var=adata.var[[]]),
            "protein": measured,
        }
    )
    modalities = {"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"}
    compat.TOTALVI.setup_mudata(both, batch_key="batch", modalities=modalities)
    made = fitted(compat.TOTALVI(both, n_hidden=8, **SIZE), batch_size=64)
    cells_by(SIZE["n_latent"], made.get_latent_representation(), made)


def check_samples(model: Any) -> None:
    found = model.posterior_predictive_sample(n_samples=2)
    for values in found.values() if isinstance(found, dict) else [found.todense()]:
        assert values.shape[0] == model.adata.n_obs
        assert values.shape[-1] == 2
        assert (values >= 0).all()
        assert_array_equal(values, np.round(values))


def check_likelihood(model: Any) -> None:
    """Samples of the posterior predictive have the means that the parameters say."""
    found = model.get_likelihood_parameters(n_samples=3, give_mean=True)
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.values())
    cells_by(model.adata.n_vars, found["mean"], model)
    cells_by(model.adata.n_vars, found["dispersions"], model)
    assert model.get_likelihood_parameters(n_samples=3)["mean"].shape == (3, *model.adata.shape)
    drawn = model.posterior_predictive_sample(n_samples=20)
    rna = drawn["rna"] if isinstance(drawn, dict) else drawn.todense()
    assert_allclose((found["mean"] * (1 - found.get("dropout", 0))).mean(), rna.mean(), rtol=0.1)
    if "protein_mixing" in found:
        cells_by(model.adata.obsm["protein"].shape[1], found["protein_mixing"], model)
        assert (found["protein_mixing"] <= 1).all()
        assert (found["protein_foreground"] >= found["protein_background"]).all()


def check_setup(model: Any) -> None:
    assert model.registry_["setup_args"]["batch_key"] == "batch"
    model.view_anndata_setup()


CHECKS: Mapping[str, Callable[[Any], None]] = {
    "deregister_manager": check_managers,
    "differential_expression": check_difference,
    "from_scvi_model": check_scanvi_from_scvi,
    "get_anndata_manager": check_managers,
    "get_elbo": lambda model: finite(model.get_elbo()),
    "get_feature_correlation_matrix": check_correlation,
    "get_from_registry": check_managers,
    "get_latent_library_size": lambda model: cells_by(1, model.get_latent_library_size(give_mean=False), model),
    "get_latent_representation": lambda model: cells_by(SIZE["n_latent"], model.get_latent_representation(), model),
    "get_likelihood_parameters": check_likelihood,
    "get_marginal_ll": lambda model: finite(model.get_marginal_ll(n_mc_samples=5)),
    "get_normalized_expression": check_expression,
    "get_protein_background_mean": check_background,
    "get_protein_foreground_probability": check_foreground,
    "get_reconstruction_error": lambda model: finite(model.get_reconstruction_error()),
    "load_query_data": check_query,
    "minify_adata": check_minified,
    "posterior_predictive_sample": check_samples,
    "predict": check_predictions,
    "prepare_query_anndata": check_preparation,
    "register_manager": check_managers,
    "setup_anndata": check_setup,
    "setup_mudata": check_mudata,
    "to_device": lambda model: model.to_device("cpu"),
    "train": lambda model: finite(np.asarray(model.history["elbo_train"], dtype=float)),
    "view_anndata_setup": check_setup,
}
IN_FOLDERS: Mapping[str, Callable[[Any, Path], None]] = {
    "convert_legacy_save": check_legacy,
    "load": check_folder,
    "load_registry": check_folder,
    "save": check_folder,
    "view_setup_args": check_folder,
}


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_documented_method_works(name: str, method: str, models: Callable[[str], Any], tmp_path: Path) -> None:
    model = models(name)
    if method in IN_FOLDERS:
        IN_FOLDERS[method](model, tmp_path)
    else:
        CHECKS[method](model)


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_documented_attributes_have_values(name: str, models: Callable[[str], Any]) -> None:
    model = models(name)
    known = {attribute: getattr(model, attribute) for attribute in DOCUMENTED[name]["attributes"]}
    assert known["is_trained"]
    assert known["adata"] is model.adata
    assert name.lower() in known["summary_string"].lower()
    assert len(known["train_indices"]) > len(known["validation_indices"]) > 0
    assert str(known["device"]) == "cpu"
    assert "elbo_train" in known["history"]


# --- surgery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"encode_covariates": True, "n_layers": 2}], ids=["plain", "encoded"])
def test_surgery_and_training_leave_the_reference(options: dict[str, Any]) -> None:
    """scvi-tools' own moves it where covariates are encoded; the comparison shows that the test can tell."""
    reference = scvi(**options)
    cells = reference.adata.copy()
    before = reference.get_latent_representation(cells.copy())
    assert_array_equal(moved_by(compat.SCVI, reference, cells), before)
    if options:
        assert np.abs(moved_by(_theirs(), reference, cells) - before).max() > 1e-3


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_a_wider_product_is_that_of_scvi_tools(name: str, models: Callable[[str], Any]) -> None:
    """The maps that read one-hot vectors give what one product gives, in other sums."""
    found = [layer for layer in models(name).module.modules() if isinstance(layer, SplitLinear)]
    assert found
    for layer in found:
        given = torch.randn(7, layer.in_features)
        assert_allclose(layer(given).detach(), F.linear(given, layer.weight, layer.bias).detach(), atol=1e-5)


@pytest.mark.parametrize("added", [1, 3, 500])
def test_more_categories_leave_the_values_product(added: int) -> None:
    """Bit for bit, whatever the width and the processor: nothing of the sum over genes is done otherwise."""
    generator = torch.Generator().manual_seed(added)
    narrow = torch.nn.Linear(203, 16)
    wide = torch.nn.Linear(203 + added, 16)
    with torch.no_grad():
        wide.weight[:, :203] = narrow.weight
        wide.bias.copy_(narrow.bias)
    x = torch.randn(37, 203, generator=generator)
    x[:, 200:] = F.one_hot(torch.arange(37) % 3, 3)
    wider = torch.cat([x, torch.zeros(37, added)], dim=1)
    assert_array_equal(SplitLinear(wide, [3 + added])(wider).detach(), SplitLinear(narrow, [3])(x).detach())


def _theirs() -> Any:
    from hub_client.models.architectures.scvi.modules import scvi_tools

    class SCVI(scvi_tools().model.SCVI):  # type: ignore[misc, name-defined]
        """scvi-tools' own, under the name the registry has."""

    return SCVI


def moved_by(made_by: Any, reference: Any, cells: anndata.AnnData) -> Any:
    """Return where the reference's cells lie in a model that surgery made and a query trained."""
    grown = made_by.load_query_data(query_cells(), reference, accelerator="cpu")
    fitted(grown)
    return grown.get_latent_representation(cells.copy())


def test_a_covariate_of_one_category_grows() -> None:
    cells = part(("1", "2"), donors={"one": "same", "two": "same"})
    compat.SCVI.setup_anndata(cells, **KEYS)
    reference = fitted(compat.SCVI(cells, n_hidden=8, encode_covariates=True, **SIZE))
    before = reference.get_latent_representation(cells.copy())
    query = part(("3",), donors={"one": "same", "two": "other"})
    grown = fitted(compat.SCVI.load_query_data(query, reference, accelerator="cpu"))
    assert_array_equal(grown.get_latent_representation(cells.copy()), before)
    donors = query.obs["donor"].to_numpy()
    assert {"same", "other"} == set(donors)


def test_an_unfrozen_model_trains_whole() -> None:
    reference = scvi()
    cells = reference.adata.copy()
    before = reference.get_latent_representation(cells.copy())
    grown = fitted(compat.SCVI.load_query_data(query_cells(), reference, accelerator="cpu", unfrozen=True))
    assert np.abs(grown.get_latent_representation(cells.copy()) - before).max() > 1e-4


def test_a_reference_in_a_folder_is_read_as_data(tmp_path: Path) -> None:
    reference = scvi()
    reference.save(str(tmp_path / "saved"))
    grown = fitted(compat.SCVI.load_query_data(query_cells(), str(tmp_path / "saved"), accelerator="cpu"))
    cells = reference.adata.copy()
    assert_array_equal(grown.get_latent_representation(cells.copy()), reference.get_latent_representation(cells))
    assert list(compat.SCVI.prepare_query_anndata(cells, str(tmp_path / "saved"), True)) == list(cells.var_names)


@pytest.mark.parametrize("partly", [False, True], ids=["unlabelled", "partly labelled"])
def test_a_query_for_scanvi_needs_no_labels(partly: bool) -> None:
    reference = scanvi()
    cells = reference.adata.copy()
    before = reference.get_latent_representation(cells.copy())
    query = query_cells()
    query.obs["cell_type"] = (
        query.obs["cell_type"].where(np.arange(query.n_obs) % 3 == 0, UNKNOWN) if partly else UNKNOWN
    )
    grown = fitted(compat.SCANVI.load_query_data(query, reference, accelerator="cpu"))
    assert_array_equal(grown.get_latent_representation(cells.copy()), before)
    assert set(grown.predict()) <= set(cells.obs["cell_type"])


def test_a_download_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.Unsupported, match="Download it"):
        compat.SCVI.load(str(tmp_path), backup_url="https://hub.example.org/model.pt")


# --- releases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_a_model_becomes_a_release_and_a_model_again(name: str, models: Callable[[str], Any]) -> None:
    model = models(name)
    released = from_scvi(model, name="of-compat")
    assert released.manifest.architecture.kind == name.lower()
    again = released.to_scvi()
    state = again.module.state_dict()
    for key, tensor in model.module.state_dict().items():
        if not key.endswith("num_batches_tracked"):  # which counts steps and has no use
            assert_array_equal(state[key], tensor, err_msg=key)
