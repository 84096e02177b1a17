"""scvi-tools' models after from_scvi(), import_legacy() and to_scvi(): the same, whatever their cells are like."""

from __future__ import annotations

from collections.abc import Callable
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
from scipy import sparse

from hub_client import errors, from_scvi, import_legacy
from hub_client.data.align import align
from hub_client.models.architectures.scvi.modules import scvi_tools
from hub_client.models.impute import impute_proteins
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests.scvi_models import cells, fitted, scvi_model, totalvi_model, undisturbed
from tests.simulated import PROTEINS, manifest

pytestmark = pytest.mark.slow
LABELLED: dict[str, Any] = {"batch_key": "batch", "labels_key": "cell_type"}
SMALL: dict[str, Any] = {"n_hidden": 8, "n_latent": 4}


def trained(name: str, adata: Any, setup: dict[str, Any], **options: Any) -> Any:
    model_class = getattr(scvi_tools().model, name)
    with undisturbed(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (model_class.setup_mudata if isinstance(adata, mudata.MuData) else model_class.setup_anndata)(adata, **setup)
        return fitted(model_class(adata, **SMALL | options), epochs=1)


def means(model: Any, adata: Any = None) -> Any:
    with undisturbed():
        return model.get_latent_representation(adata, return_dist=True)[0]


def check_there_and_back(theirs: Any, adata: Any, **options: Any) -> Model:
    expected, model = means(theirs), from_scvi(theirs, name="simulated")
    assert_allclose(means(model.to_scvi(adata, **options)), expected, atol=1e-6)
    return model


# --- proteins --------------------------------------------------------------------------------------------------------


def without_names(adata: anndata.AnnData) -> anndata.AnnData:
    adata.obsm["protein"] = adata.obsm["protein"].to_numpy()
    return adata


def named_in_uns(adata: anndata.AnnData) -> anndata.AnnData:
    adata.uns["panel of 2023"] = list(PROTEINS)
    return without_names(adata)


def modalities(rna: str, proteins: str, *, as_sparse: bool = False) -> mudata.MuData:
    adata = cells(cells=90)
    counts = adata.obsm.pop("protein")
    x = sparse.csr_matrix(counts.to_numpy()) if as_sparse else counts.to_numpy()
    other = anndata.AnnData(x, obs=adata.obs[[]].copy(), var=counts.columns.to_frame()[[]])
    with undisturbed():
        return mudata.MuData({rna: adata, proteins: other})


BESIDE: dict[str, Any] = {"batch_key": "batch", "protein_expression_obsm_key": "protein"}


def placed(rna: str, proteins: str) -> dict[str, Any]:
    return {"batch_key": "batch", "modalities": {"rna_layer": rna, "protein_layer": proteins, "batch_key": rna}}


@pytest.mark.parametrize(
    ("make", "setup"),
    [
        (without_names, BESIDE),
        (named_in_uns, BESIDE | {"protein_names_uns_key": "panel of 2023"}),
        (named_in_uns, BESIDE),
        (lambda _: modalities("rna", "CITE"), placed("rna", "CITE")),
        (lambda _: modalities("gex", "CITE"), placed("gex", "CITE")),
    ],
    ids=["no names", "names in uns", "names in uns that are not read", "modality", "both modalities"],
)
def test_proteins_are_found_again(make: Callable[[Any], Any], setup: dict[str, Any]) -> None:
    adata = make(cells(cells=90))
    model = check_there_and_back(trained("TOTALVI", adata, setup), adata)
    assert model.manifest.proteins is not None
    assert model.manifest.proteins.measured == {"b2": model.manifest.proteins.panel[:11]}


def test_proteins_that_cannot_be_told_apart_are_refused() -> None:
    by_name, by_number = (manifest("totalvi", levels=()) for _ in range(2))
    assert by_name.proteins is not None
    numbers = tuple(str(number) for number in range(12))
    by_name = by_name.changed(proteins=by_name.proteins.model_copy(update={"source": "protein"}))
    by_number = by_number.changed(proteins={"panel": numbers, "source": "protein"})
    narrow = without_names(cells(cells=9))
    narrow.obsm["protein"] = narrow.obsm["protein"][:, :7]
    with pytest.raises(errors.AlignmentError, match="no names of proteins"):
        align(without_names(cells(cells=9)), by_name)
    with pytest.raises(errors.AlignmentError, match=r"12 proteins by number alone.*has 7 without names"):
        align(narrow, by_number)
    with pytest.raises(errors.AlignmentError, match="has 12 with names"):
        align(cells(cells=9), by_number)
    assert_array_equal(align(without_names(cells(cells=9)), by_number).proteins, cells(cells=9).obsm["protein"])


def test_cells_without_proteins_are_no_zeros() -> None:
    model, adata = from_scvi(totalvi_model("plain"), name="simulated"), cells(cells=9)
    del adata.obsm["protein"]
    with pytest.raises(errors.AlignmentError, match=r"none of the model's 12 proteins.*proteins="):
        model.to_scvi(adata)


@pytest.mark.parametrize("sparsely", [False, True], ids=["dense", "sparse"])
def test_minified_proteins_are_those_of_before(sparsely: bool, tmp_path: Path) -> None:
    """Of sparse counts scvi-tools' registry has numpy matrices, which are read as arrays."""
    adata = modalities("rna", "CITE", as_sparse=sparsely)
    theirs = trained("TOTALVI", adata, placed("rna", "CITE"), empirical_protein_background_prior=False)
    expected = means(theirs)
    with undisturbed():
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = theirs.get_latent_representation(return_dist=True)
        theirs.minify_mudata()
        theirs.save(str(tmp_path / "saved"), save_anndata=True)
    model = from_scvi(theirs, name="simulated")
    assert model.manifest.proteins is not None
    assert model.manifest.proteins.measured == {"b2": model.manifest.proteins.panel[:11]}
    imported = import_legacy(tmp_path / "saved")
    assert imported.atlas is not None
    assert_allclose(*(np.sort(points, axis=0) for points in (imported.atlas.obsm["X_latent"], expected)), atol=1e-6)
    whole = modalities("rna", "CITE", as_sparse=sparsely)
    for each in (model, imported):
        assert_allclose(means(each.to_scvi(whole)), expected, atol=1e-6)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_embedded_batches_of_a_model_without_any(tmp_path: Path) -> None:
    adata = cells(cells=90)
    setup = {"categorical_covariate_keys": ["tech"], "continuous_covariate_keys": ["age"]}
    options = {"batch_representation": "embedding", "encode_covariates": True, "use_observed_lib_size": False}
    theirs = trained("SCVI", adata, setup, **options, batch_embedding_kwargs={"max_norm": 0.5})
    model = check_there_and_back(theirs, adata)
    assert model.manifest.conditions == ()
    with undisturbed():
        theirs.save(str(tmp_path / "saved"))
    assert_allclose(means(import_legacy(tmp_path / "saved").to_scvi(adata)), means(theirs), atol=1e-6)
    expression = [
        each.get_normalized_expression(adata, library_size="latent") for each in (theirs, model.to_scvi(adata))
    ]
    assert expression[0].shape == expression[1].shape


@pytest.mark.parametrize("empty", [{"n_layers": 0}, {"n_hidden": 0}], ids=["layers", "width"])
def test_a_classifier_without_hidden_layers(empty: dict[str, int]) -> None:
    adata = cells(cells=90)
    theirs = trained("SCANVI", adata, LABELLED | {"unlabeled_category": "T"}, classifier_parameters=empty)
    back = check_there_and_back(theirs, adata).to_scvi(adata)
    with undisturbed():
        pd.testing.assert_frame_equal(back.predict(soft=True), theirs.predict(soft=True), atol=1e-6)


def test_scvi_tools_own_query_with_some_labels(tmp_path: Path) -> None:
    """Its module has a fourth label, the unlabelled value's, and its registry three."""
    adata, query = cells(cells=90), cells(batches=("q0",), cells=60)
    adata.obs["cell_type"] = np.resize(["B", "NK", "T"], 90)
    query.obs["cell_type"] = np.resize(["B", "NK"], 60)
    reference = trained("SCANVI", adata, LABELLED | {"unlabeled_category": "Unknown"})
    with undisturbed():
        theirs = fitted(scvi_tools().model.SCANVI.load_query_data(query, reference, accelerator="cpu"), epochs=1)
        theirs.save(str(tmp_path / "saved"))
    for model in (from_scvi(theirs, name="query"), import_legacy(tmp_path / "saved")):
        assert model.manifest.labels[0].categories == ("B", "NK", "T", "Unknown")
        assert_allclose(means(model.to_scvi(query)), means(theirs), atol=1e-6)


def test_columns_whose_names_have_blanks() -> None:
    adata = cells(cells=90)
    adata.obs["my batch"], adata.obs["cell type"] = adata.obs["batch"], adata.obs["cell_type"]
    theirs = trained("SCVI", adata, {"batch_key": "my batch", "labels_key": "cell type"}, dispersion="gene-label")
    check_there_and_back(theirs, adata)


def test_labels_are_those_of_before() -> None:
    model = from_scvi(scvi_model("gene-label"), name="simulated")
    assert from_scvi(model.to_scvi(cells()), name="again").manifest.labels == model.manifest.labels
    some = cells()
    some.obs["cell_type"] = np.resize(["B", "NK"], some.n_obs)
    assert from_scvi(model.to_scvi(some), name="again").manifest.labels == model.manifest.labels
    del some.obs["cell_type"]
    with pytest.raises(errors.InvalidInput, match="dispersion for each label"):
        model.to_scvi(some)
    plain = from_scvi(scvi_model("all keys, encoded"), name="simulated")
    assert from_scvi(plain.to_scvi(some), name="again").manifest.labels == plain.manifest.labels


# --- one cell --------------------------------------------------------------------------------------------------------


@cache
def totalvi() -> Model:
    return from_scvi(totalvi_model("libraries"), name="simulated")


@pytest.mark.parametrize("count", [1, 129])
def test_proteins_of_one_cell_and_of_one_more_than_a_minibatch(count: int) -> None:
    found = impute_proteins(totalvi(), align(cells(batches=("b0",), cells=count), totalvi()), samples=2)
    assert found.shape == (count, 12)
    assert np.isfinite(found.to_numpy()).all()


def test_the_library_of_a_query_of_one_cell_has_a_width() -> None:
    query = align(cells(batches=("q0",), cells=1), totalvi())
    network = surgery(totalvi(), query).network
    assert_array_equal(network.module.library_log_vars[0, -1:], [1.0])
    assert np.isfinite(network.reconstruction_losses(query)).all()
