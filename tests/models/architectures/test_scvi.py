"""What surgery and training do to scvi-tools' modules, beyond what the contract suite holds all architectures to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from hub_client import errors
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.labels.predict import predict
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures.scvi.scanvi import Labelled
from hub_client.models.architectures.scvi.totalvi import backgrounds
from hub_client.models.embed import embed
from hub_client.models.impute import impute_proteins
from hub_client.models.model import Model
from hub_client.models.scanvi_from_scvi import scanvi_from_scvi
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests.contract.examples import SHORT, trained
from tests.simulated import CLASSES, PROTEINS, QUERY, cells_for, counts, manifest

pytestmark = pytest.mark.slow


def decoded(model: Model, cells: Cells) -> Tensor:
    """Return the means of all genes under the same draws, ``(cells, genes)``."""
    network = model.network.eval()
    batch = network.batches(cells).take(torch.arange(len(cells)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network.module(network.inputs(batch), compute_loss=False)[1]["px"].mean


def fit(model: Model, cells: Cells, **plan: Any) -> Model:
    train(model, cells, plan=SHORT.model_copy(update=plan), progress=False, accelerator="cpu")
    return model


@pytest.mark.parametrize("example", ["scvi-covariates-encoded", "scvi-gene-batch-poisson-libraries", "scanvi"])
def test_surgery_leaves_decoded_means_where_they_were(example: str) -> None:
    reference = trained(example)
    cells, query = cells_for(reference.manifest), cells_for(reference.manifest, QUERY, cells=90, labelled=False)
    before, state = decoded(reference, cells), reference.network.plain().state_dict()
    model = surgery(reference, query)
    assert torch.equal(decoded(model, cells), before)
    fit(model, query)
    assert torch.equal(decoded(model, cells), before)
    after = model.network.plain().state_dict()
    statistics = [name for name in state if "running" in name]
    assert all(torch.equal(after[name], state[name]) for name in statistics)
    assert statistics or example == "scvi-gene-batch-poisson-libraries"


def one_category(described: Manifest, key: str) -> Manifest:
    """Return a manifest in which a covariate has its first category only."""
    keys = tuple(
        c.model_copy(update={"categories": c.categories[:1]}) if c.key == key else c
        for c in described.covariates.categorical
    )
    return described.changed(covariates=described.covariates.model_copy(update={"categorical": keys}))


def test_a_covariate_with_one_category_grows_to_two() -> None:
    """scvi-tools drops keys with one category, so the reference has no weights for it."""
    described = one_category(manifest("scvi", categorical=("tech",), encode_covariates=True, layers=2), "tech")
    adata = counts()
    old = adata[adata.obs["tech"] == "v2"].copy()
    reference = Model.build(described)
    cells = align(old, reference)
    fit(reference, cells)
    before, means = embed(reference, cells, device="cpu"), decoded(reference, cells)
    query = align(adata[adata.obs["tech"] == "v3"].copy(), reference)
    model = fit(surgery(reference, query), query)
    assert model.manifest.covariates.categorical[0].categories == ("v2", "v3")
    assert model.manifest.lineage is not None
    assert model.manifest.lineage.copied == {"tech=v3": "v2"}
    assert_array_equal(embed(model, cells, device="cpu"), before)
    assert torch.equal(decoded(model, cells), means)
    moved = model.network.tensors()["z_encoder.encoder.linears.0.tables.1.rows"]
    assert (moved[0] == 0).all()
    assert (moved[1] != 0).any()
    assert torch.isfinite(model.network.plain().state_dict()["z_encoder.encoder.fc_layers.Layer 0.0.weight"]).all()


def test_a_covariate_with_a_gap_is_refused_by_name() -> None:
    adata = counts()
    adata.obs.loc[adata.obs_names[:3], "tech"] = np.nan
    with pytest.raises(errors.VocabularyError, match=r"tech.*NaN"):
        align(adata, manifest("scvi", categorical=("tech",)))
    adata = counts()
    adata.obs.loc[adata.obs_names[:3], "age"] = np.nan
    with pytest.raises(errors.VocabularyError, match=r"age.*NaN.*3 of 240"):
        align(adata, manifest("scvi", continuous=("age",)))


def test_libraries_of_new_batches_are_the_querys() -> None:
    reference = trained("scvi-gene-batch-poisson-libraries")
    query = cells_for(reference.manifest, QUERY, cells=90, labelled=False)
    found = surgery(reference, query).network.tensors()["library_log_means"]
    logs = np.log(np.asarray(query.x.sum(axis=1)).reshape(-1))
    expected = [logs[query.conditions["batch"] == name].mean() for name in QUERY]
    assert_allclose(found[-2:, 0], expected, rtol=1e-5)
    assert torch.equal(found[:-2], reference.network.tensors()["library_log_means"])


@pytest.mark.parametrize("labelled", [1.0, 0.5])
def test_a_new_label_in_the_query_is_learnt(labelled: float) -> None:
    reference = trained("scanvi")
    adata = counts(QUERY, cells=300, types=("B", "new"), seed=4)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    adata.obs["known"] = np.where(np.random.default_rng(0).random(len(truth)) < labelled, truth, None)
    query, cells = align(adata, reference, labels={"cell_type": "known"}), cells_for(reference.manifest)
    before = predict(reference, cells, device="cpu")
    model = fit(surgery(reference, query), query, epochs=40, learning_rate=0.02, keep_best=False, early_stopping=None)
    assert model.manifest.labels[0].categories == (*sorted(CLASSES), "new")
    after = predict(model, cells, device="cpu")
    assert_array_equal(after.latent, before.latent)
    old = list(reference.manifest.labels[0].categories)
    ratios = [f.levels["cell_type"].probabilities[old].to_numpy() for f in (before, after)]
    assert_allclose(*(r / r.sum(axis=1, keepdims=True) for r in ratios), rtol=1e-4, atol=1e-6)
    found = predict(model, query, device="cpu").levels["cell_type"].labels
    assert (found[truth == "new"] == "new").mean() > 0.5


def test_an_unlabelled_query_gets_the_references_labels() -> None:
    reference = trained("scanvi")
    query = cells_for(reference.manifest, QUERY, cells=90, labelled=False)
    found = predict(fit(surgery(reference, query), query), query, device="cpu").levels["cell_type"]
    assert set(found.labels) <= set(CLASSES)


def test_a_scanvi_starts_from_a_scvi() -> None:
    scvi = trained("scvi")
    model, cells = scanvi_from_scvi(scvi), cells_for(scvi.manifest)
    assert_array_equal(embed(model, cells, device="cpu"), embed(scvi, cells, device="cpu"))
    fit(model, cells, epochs=60, learning_rate=5e-3)
    found = predict(model, cells, device="cpu").levels["cell_type"]
    assert (found.labels == cells.labels["cell_type"]).mean() > 0.8
    with pytest.raises(errors.Unsupported, match="scanvi"):
        scanvi_from_scvi(model)


def test_few_labelled_cells_are_drawn_of_each_label() -> None:
    cells = cells_for(manifest("scanvi"))
    batches = Model.build(manifest("scanvi")).network.batches(cells)
    rows, codes = torch.arange(len(cells)), batches.labels[:, 0].clone()
    codes[:100] = -1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = Labelled.drawn(batches, rows, codes, per_label=5)
        again = Labelled.drawn(batches, rows, codes, per_label=5)
        assert drawn is not None and again is not None
        first = drawn.take(1000)
        second = drawn.take(1000)
    assert torch.bincount(first.labels[:, 0]).tolist() == [5, 5, 5, 5]
    assert (first.index >= 100).all()
    assert sorted(first.index.tolist()) == sorted(second.index.tolist())
    assert sorted(again.rows.tolist()) != sorted(drawn.rows.tolist())
    assert Labelled.drawn(batches, rows, torch.full_like(codes, -1), per_label=None) is None


def test_a_dispersion_for_each_label_needs_labels() -> None:
    described = manifest("scvi", dispersion="gene-label")
    model = Model.build(described)
    with pytest.raises(errors.InvalidInput, match="240 of 240 cells have no label of 'cell_type'"):
        train(model, cells_for(described, labelled=False), plan=SHORT, progress=False)
    fit(model, cells_for(described))


def test_scvi_has_labels_by_neighbours() -> None:
    reference = with_atlas(trained("scvi"), cells_for(trained("scvi").manifest))
    found = predict(reference, cells_for(reference.manifest), device="cpu").levels["cell_type"]
    assert (found.labels == cells_for(reference.manifest).labels["cell_type"]).mean() > 0.5


def test_a_second_condition_is_refused() -> None:
    with pytest.raises(errors.ManifestError, match="one batch key"):
        Model.build(manifest("scvi", conditions=("batch", "tech")))


def test_the_plan_is_recorded() -> None:
    model = Model.build(manifest("scanvi"))
    plan = Plan(epochs=1, classification_weight=7.0, samples_per_label=9, batch_size=64)
    train(model, cells_for(model.manifest), plan=plan, progress=False)
    assert model.manifest.training.plan == plan
    assert model.manifest.training.versions["scvi-tools"] == version("scvi-tools")


def without_proteins(cells: Cells) -> Cells:
    return replace(cells, proteins=None)


def test_a_reference_says_which_proteins_its_batches_measured() -> None:
    reference = trained("totalvi")
    assert reference.manifest.proteins is not None
    assert reference.manifest.proteins.measured == {"b2": tuple(PROTEINS[:11])}
    assert not reference.network.module.protein_batch_mask["2"][-1]
    described = manifest("totalvi")
    with pytest.raises(errors.InvalidInput, match="none of the 12 proteins"):
        fit(Model.build(described), without_proteins(cells_for(described)))


def test_a_query_without_proteins_is_mapped_and_its_proteins_are_imputed() -> None:
    reference = trained("totalvi")
    query = cells_for(reference.manifest, QUERY, cells=90, seed=1, labelled=False)
    model = fit(surgery(reference, without_proteins(query)), without_proteins(query))
    assert model.manifest.proteins is not None
    assert model.manifest.proteins.measured == {"b2": tuple(PROTEINS[:11]), "q0": (), "q1": ()}
    found = impute_proteins(model, without_proteins(query), under=("b0", "b1"), samples=5)
    assert found.shape == (90, 12)
    assert list(found.index) == list(query.obs_names)
    again = impute_proteins(model, without_proteins(query), under=("b0", "b1"), samples=5)
    assert_array_equal(found, again)
    with pytest.raises(errors.VocabularyError, match="b9"):
        impute_proteins(model, query, under=("b9",))
    with pytest.raises(errors.Unsupported, match="no proteins"):
        impute_proteins(trained("scvi"), query)


def test_an_adversary_hides_batches_where_proteins_are_missing() -> None:
    described = manifest("totalvi")
    models = [Model.build(described) for _ in range(2)]
    for model, adversarial in zip(models, (None, False), strict=True):
        fit(model, cells_for(described), epochs=2, kl_anneal_epochs=10, adversarial=adversarial)
    first, second = (model.tensors() for model in models)
    assert not torch.equal(first["encoder.z_mean_encoder.weight"], second["encoder.z_mean_encoder.weight"])
    assert models[0].network._adversary is None


def test_backgrounds_are_the_lower_mixtures() -> None:
    generator = np.random.default_rng(0)
    low, high = generator.poisson(20, (200, 8)), generator.poisson(2000, (200, 4))
    means, scales = backgrounds(np.hstack([low, high]).astype(np.float32), np.zeros(200, int), batches=2, seed=0)
    assert_allclose(means[0], np.log1p(20), atol=0.1)
    assert (means[1], scales[1]) == (0.0, np.float32(0.05))
    assert 0 < scales[0] < 0.1


def test_real_proteins_are_imputed(shared_data: Callable[[str], Path]) -> None:
    """10x's PBMC with 14 proteins: one experiment is the reference, the other a query without proteins."""
    adata = anndata.read_h5ad(shared_data("citeseq_pbmc_5k_10k.h5ad"))
    detected = np.asarray((adata.X > 0).sum(axis=0)).reshape(-1)
    adata = adata[:, np.sort(np.argsort(-detected, kind="stable")[:400])].copy()
    first = "10x_pbmc_10k_protein_v3"
    described = Manifest.model_validate(
        {
            "name": "cite",
            "architecture": {"kind": "totalvi", "latent": 8, "hidden": 32},
            "genes": {"id_type": "symbol", "panel": [{"symbol": name} for name in adata.var_names]},
            "proteins": {"panel": list(adata.obsm["protein"].columns)},
            "conditions": [{"key": "batch", "categories": [first], "encoding": {"kind": "one-hot"}}],
        }
    )
    reference = Model.build(described)
    cells = align(adata[adata.obs["batch"] == first].copy(), reference)
    query = align(adata[adata.obs["batch"] != first].copy(), reference)
    fit(reference, cells, epochs=60, learning_rate=4e-3, keep_best=False, early_stopping=None)
    before = embed(reference, cells, device="cpu")
    model = fit(surgery(reference, without_proteins(query)), without_proteins(query))
    assert_array_equal(embed(model, cells, device="cpu"), before)
    imputed = np.log1p(impute_proteins(model, without_proteins(query), under=(first,)).to_numpy())
    assert np.corrcoef(imputed.ravel(), np.log1p(query.proteins).ravel())[0, 1] > 0.3
