"""What scArches' trainers log, and early stopping by any of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose

from hub_client import errors
from hub_client.compat import EXPIMAP, TRVAE, scPoli
from tests import simulated

pytestmark = pytest.mark.slow
QUICK: dict[str, Any] = {"lr": 0.01, "eps": 1e-8, "monitor": False}
EVERY = {"loss", "unweighted_loss", "recon_loss", "kl_loss"}


@pytest.fixture(scope="module")
def cells() -> AnnData:
    found = simulated.counts(cells=160)
    found.varm["I"] = np.tile(np.eye(3, dtype=int), (20, 1))
    return found


def both(names: set[str]) -> set[str]:
    return {f"{split}_{name}" for split in ("epoch", "val") for name in names}


def scpoli(cells: AnnData, **options: Any) -> scPoli:
    return scPoli(cells, condition_keys="batch", cell_type_keys="cell_type", hidden_layer_sizes=[8], **options)


def test_trvae_logs_its_losses(cells: AnnData) -> None:
    model = TRVAE(cells, condition_key="batch", hidden_layer_sizes=[8])
    assert model.trainer is None
    model.train(n_epochs=3, alpha_epoch_anneal=10, **QUICK)
    assert model.trainer is not None and model.history is not None
    assert set(model.trainer.logs) == both(EVERY | {"mmd_loss"})
    assert {len(values) for values in model.trainer.logs.values()} == {3}
    assert (model.trainer.n_epochs, model.trainer.epoch) == (3, 2)
    assert model.trainer.best_epoch == model.history.best_epoch
    logs = {name: np.array(values) for name, values in model.trainer.logs.items()}
    sums = logs["val_recon_loss"] + logs["val_kl_loss"] + logs["val_mmd_loss"]
    assert_allclose(logs["val_unweighted_loss"], sums, rtol=1e-5)


def test_a_loss_that_is_not_there_is_not_logged(cells: AnnData) -> None:
    model = TRVAE(cells, condition_key="batch", hidden_layer_sizes=[8], use_mmd=False)
    model.train(n_epochs=1, **QUICK)
    assert model.trainer is not None and set(model.trainer.logs) == both(EVERY)
    with pytest.raises(errors.InvalidInput, match=r"'val_mmd_loss'; training this model logs .*use_mmd=True"):
        model.train(n_epochs=1, early_stopping_kwargs={"early_stopping_metric": "val_mmd_loss"})


def test_expimap_logs_its_losses(cells: AnnData) -> None:
    model = EXPIMAP(cells, condition_key="batch", hidden_layer_sizes=[8], n_ext=1, use_hsic=True)
    model.train(n_epochs=2, **QUICK)
    assert model.trainer is not None and set(model.trainer.logs) == both(EVERY | {"hsic_loss"})


def test_scpolis_prototypes_are_logged_from_when_they_join(cells: AnnData) -> None:
    model = scpoli(cells)
    model.train(n_epochs=5, pretraining_epochs=3, eta=4, **QUICK)
    assert model.trainer is not None
    logs = model.trainer.logs
    assert set(logs) == both(EVERY | {"cvae_loss", "prototype_loss", "labeled_loss"})
    assert len(logs["val_prototype_loss"]) == len(logs["epoch_labeled_loss"]) == 2
    assert_allclose(logs["val_prototype_loss"], 4 * np.array(logs["val_labeled_loss"]), rtol=1e-6)
    sums = np.array(logs["val_cvae_loss"][3:]) + logs["val_prototype_loss"]
    assert_allclose(logs["val_loss"][3:], sums, rtol=1e-6)
    assert logs["val_cvae_loss"][:3] == logs["val_loss"][:3]


def test_unlabelled_prototypes_have_a_loss_of_their_own(cells: AnnData) -> None:
    model = scpoli(cells, labeled_indices=list(range(100)))
    model.train(
        n_epochs=3, pretraining_epochs=2, unlabeled_weight=0.5, clustering="kmeans", n_clusters=3, **QUICK,
        early_stopping_kwargs={"early_stopping_metric": "val_unlabeled_loss"},
    )  # fmt: skip
    assert model.trainer is not None
    logs = {name: values[0] for name, values in model.trainer.logs.items() if len(values) == 1}
    assert logs["val_unlabeled_loss"] > 0
    assert logs["val_prototype_loss"] == pytest.approx(logs["val_labeled_loss"] + 0.5 * logs["val_unlabeled_loss"])
    with pytest.raises(errors.InvalidInput, match="unlabeled_weight is above 0"):
        scpoli(cells).train(n_epochs=3, early_stopping_kwargs={"early_stopping_metric": "val_unlabeled_loss"})


@pytest.mark.parametrize("metric", ["val_loss", "val_recon_loss", "val_cvae_loss", "val_prototype_loss", "epoch_loss"])
def test_the_best_epoch_is_that_of_the_metric(cells: AnnData, metric: str) -> None:
    """Of the epochs with prototypes in the loss, as in scArches."""
    model = scpoli(cells)
    model.train(
        n_epochs=12, pretraining_epochs=4, reload_best=True, early_stopping_kwargs={"early_stopping_metric": metric},
        **QUICK,
    )  # fmt: skip
    assert model.trainer is not None and model.trainer.best_epoch is not None
    judged = model.trainer.logs[metric][-(model.trainer.epoch - 3) :]
    assert model.trainer.best_epoch - 4 == int(np.argmin(judged))


def test_a_metric_can_be_one_that_should_rise(cells: AnnData) -> None:
    model = TRVAE(cells, condition_key="batch", hidden_layer_sizes=[8])
    kwargs = {"early_stopping_metric": "val_kl_loss", "mode": "max"}
    model.train(n_epochs=6, early_stopping_kwargs=kwargs, **QUICK)
    assert model.trainer is not None
    assert model.trainer.best_epoch == int(np.argmax(model.trainer.logs["val_kl_loss"]))
    with pytest.raises(errors.InvalidInput, match=r"mode is 'lowest'; it is one of min, max"):
        model.train(n_epochs=1, early_stopping_kwargs={"mode": "lowest"})


def test_training_ends_by_the_metric(cells: AnnData) -> None:
    """The prototype loss falls slower than so large a threshold; the unweighted loss would have gone on."""
    model = scpoli(cells)
    rule = {"early_stopping_metric": "val_prototype_loss", "threshold": 1e3, "patience": 2, "reduce_lr": False}
    model.train(n_epochs=30, pretraining_epochs=5, early_stopping_kwargs=rule, **QUICK)
    assert model.history is not None and model.history.stopped == "early stopping"
    assert len(model.history.epochs) == 5 + 2 + 2


def test_a_metric_judges_training_cells_where_none_are_held_out(cells: AnnData) -> None:
    model = TRVAE(cells, condition_key="batch", hidden_layer_sizes=[8])
    model.train(n_epochs=3, train_frac=1.0, early_stopping_kwargs={"early_stopping_metric": "val_loss"}, **QUICK)
    assert model.trainer is not None and set(model.trainer.logs) == {f"epoch_{name}" for name in EVERY | {"mmd_loss"}}
    assert model.trainer.best_epoch == int(np.argmin(model.trainer.logs["epoch_loss"]))


def test_a_query_without_new_conditions_has_nothing_to_log(cells: AnnData) -> None:
    reference = scpoli(cells)
    query = cells[:60].copy()
    query.obs["cell_type"] = query.obs["cell_type"].replace("NK", "NEW")
    model = scPoli.load_query_data(query, reference)
    model.train(n_epochs=2, **QUICK)
    assert model.trainer is not None and (model.trainer.logs, model.trainer.epoch) == ({}, -1)
