"""After surgery on compat's scvi-tools classes nothing of the reference moves: not in training, not after loading."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from hub_client import compat, errors, from_scvi, import_legacy
from tests.scvi_models import cells, undisturbed

pytestmark = pytest.mark.slow
CALM: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_checkpointing": False}
KEYS: dict[str, Any] = {"batch_key": "batch", "categorical_covariate_keys": ["tech"]}
SETUPS: dict[str, dict[str, Any]] = {
    "SCVI": KEYS,
    "SCANVI": KEYS | {"labels_key": "cell_type", "unlabeled_category": "Unknown"},
    "TOTALVI": KEYS | {"protein_expression_obsm_key": "protein"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "SCVI": {"use_observed_lib_size": False, "encode_covariates": True},
    "SCANVI": {"n_layers": 2},
    "TOTALVI": {"use_observed_lib_size": False},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with undisturbed():
        yield


def fitted(model: Any, **options: Any) -> Any:
    model.train(max_epochs=2, **CALM | {"batch_size": 64} | options)
    return model


@cache
def reference(name: str) -> Any:
    adata = cells(cells=100)
    getattr(compat, name).setup_anndata(adata, **SETUPS[name])
    torch.manual_seed(0)
    return fitted(getattr(compat, name)(adata, n_hidden=12, n_latent=4, **OPTIONS[name]))


def query(labels: tuple[str, ...] = ("Unknown",), count: int = 70) -> anndata.AnnData:
    adata = cells(batches=("q0",), cells=count)
    adata.obs["cell_type"] = np.resize(labels, count)
    return adata


def outputs(model: Any) -> dict[str, Any]:
    """Return all that a model states of the reference's cells."""
    adata = cells(cells=100)
    found = {"latent": model.get_latent_representation(adata)}
    torch.manual_seed(0)
    found["library"] = model.get_latent_library_size(adata, give_mean=False)
    for size in (1, "latent"):
        torch.manual_seed(0)
        expression = model.get_normalized_expression(adata, library_size=size)
        found[f"expression {size}"] = np.hstack([*expression]) if isinstance(expression, tuple) else expression
    torch.manual_seed(0)
    found |= model.get_likelihood_parameters(adata)
    if hasattr(model, "predict"):
        found["labels"] = model.predict(adata, soft=True)
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name, values in before.items() if not np.array_equal(values, after[name])}


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_nothing_of_the_reference_moves_in_training_nor_after_loading(name: str, tmp_path: Path) -> None:
    before, adata = outputs(reference(name)), query()
    grown = fitted(getattr(compat, name).load_query_data(adata, reference(name), accelerator="cpu"))
    assert moved(before, outputs(grown)) == set()
    grown.save(str(tmp_path / "saved"))
    again = fitted(getattr(compat, name).load(str(tmp_path / "saved"), adata, accelerator="cpu"))
    assert moved(before, outputs(again)) == set()
    weights = [dict(model.module.named_parameters()) for model in (grown, again)]
    assert any(not torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())  # the query's do
    assert "surgery_: which weights its surgery froze" in import_legacy(tmp_path / "saved").manifest.imported_from.lost


@pytest.mark.parametrize(
    ("option", "stays"),
    [
        ("freeze_expression", set()),
        ("freeze_decoder_first_layer", {"latent", "labels"}),
        ("freeze_batchnorm_decoder", {"latent", "labels"}),
        ("freeze_classifier", {"latent", "expression 1", "mean"}),
    ],
)
def test_what_an_option_lets_move_is_logged(option: str, stays: set[str], caplog: pytest.LogCaptureFixture) -> None:
    before = outputs(reference("SCANVI"))
    with caplog.at_level(logging.WARNING, logger="hub_client"):
        grown = compat.SCANVI.load_query_data(
            query(("B", "T")), reference("SCANVI"), accelerator="cpu", **{option: False}
        )
    assert f"{option}=False" in caplog.text
    found = moved(before, outputs(fitted(grown)))
    assert found
    assert not found & stays


def test_a_damaged_record_of_surgery_is_refused(tmp_path: Path) -> None:
    grown = fitted(compat.SCVI.load_query_data(query(), reference("SCVI"), accelerator="cpu"))
    grown.surgery_ = {"options": 3}
    grown.save(str(tmp_path / "saved"))
    with pytest.raises(errors.IntegrityError, match="record of its surgery"):
        compat.SCVI.load(str(tmp_path / "saved"), query(), accelerator="cpu")


@pytest.mark.parametrize("labels", [("B", "NK"), ("B",), ("B", "NK", "T")], ids=len)
def test_a_query_for_scanvi_with_some_of_the_labels(labels: tuple[str, ...]) -> None:
    """As in scANVI's tutorial; scvi-tools' own makes a label of the unlabelled value."""
    grown = fitted(compat.SCANVI.load_query_data(query(labels), reference("SCANVI"), accelerator="cpu"))
    assert grown.module.n_labels == 4
    assert len(grown.labels_) == grown.adata.n_obs
    assert list(grown.predict(soft=True).columns) == ["B", "Mono", "NK", "T"]
    assert from_scvi(grown, name="query").manifest.labels[0].categories == ("B", "Mono", "NK", "T")


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_a_minibatch_of_one_cell_trains(name: str) -> None:
    adata = cells(cells=50)
    getattr(compat, name).setup_anndata(adata, **SETUPS[name])
    model = fitted(getattr(compat, name)(adata, n_hidden=12, n_latent=4), batch_size=32, train_size=0.66)
    assert len(model.train_indices) % 32 == 1
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_a_query_of_one_cell(name: str) -> None:
    adata = query(count=1)
    grown = getattr(compat, name).load_query_data(adata, reference(name), accelerator="cpu")
    grown.train(
        max_epochs=1,
        train_size=1.0,
        **CALM | ({"early_stopping": False, "reduce_lr_on_plateau": False} if name == "TOTALVI" else {}),
    )
    assert grown.get_latent_representation().shape == (1, 4)
    assert grown.adata is adata
    assert_array_equal(adata.obs_names, query(count=1).obs_names)
