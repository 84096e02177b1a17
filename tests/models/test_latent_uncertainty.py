"""How unsure a place in the latent is: the posterior's variance, and what genes that count as not measured change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr

import hub_client
from hub_client import errors, latent_uncertainty
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.data.examples import bundled_query
from hub_client.data.lost_genes import without_genes
from hub_client.models.architectures import ARCHITECTURES
from hub_client.models.embed import embed
from hub_client.models.gene_means import with_gene_means
from hub_client.models.latent_uncertainty import _losses
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests.contract.examples import trained
from tests.simulated import GENES, cells_for, counts

KINDS = (*ARCHITECTURES, "scvi-embedded-size-factor-logistic", "trvae-mse-boundary-no-norm")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def query(model: Model) -> Cells:
    return cells_for(model.manifest, cells=70, seed=3, labelled=False)


def spread(model: Model, draws: list[Cells]) -> np.ndarray:
    """Return the variance of the posterior mean over some draws of the same cells."""
    return np.var([embed(model, cells, device="cpu") for cells in draws], axis=0, ddof=1)


@devices
@pytest.mark.parametrize("kind", KINDS)
def test_both_quantities_of_every_kind(kind: str, device: str) -> None:
    model, cells = trained(kind), query(trained(kind))
    found = latent_uncertainty(model, cells, draws=3, device=device)
    width = model.manifest.axes()["latent"]
    assert found.variance.shape == found.gene_loss.shape == (70, width)
    assert found.variance.dtype == found.gene_loss.dtype == np.float32
    _, variance = model.network.posterior(cells)
    assert_allclose(found.variance, variance, rtol=1e-3)
    assert (found.variance > 0).all() and np.isfinite(found.gene_loss).all()
    losses = _losses(cells, model.manifest.genes.names, share=0.3, draws=3, seed=0)
    expected = spread(model, [without_genes(cells, lost, model=model) for lost in losses])
    assert_allclose(found.gene_loss, expected, rtol=1e-2, atol=1e-6)
    assert found.gene_loss.mean() > 0


@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("kind", ["scpoli", "scvi"])
def test_a_lost_gene_counts_as_one_that_a_query_lacks(kind: str, means: bool) -> None:
    """The same cells, aligned from an AnnData without these genes, are read in the same way."""
    model = trained(kind)
    model = with_gene_means(model, cells_for(model.manifest)) if means else model
    adata = counts(cells=70, seed=3)[:, 5:].copy()  # five genes were not measured before any is lost
    cells = align(adata, model)
    lost = np.isin(GENES, ["g7", "g30", "g31", "g59"])
    fewer = adata[:, ~np.isin(adata.var_names, np.array(GENES)[lost])].copy()
    before, asked = cells.x.copy(), align(fewer, model)
    found = without_genes(cells, lost, model=model)
    assert_allclose(found.x.toarray(), asked.x.toarray(), rtol=1e-5)
    assert_allclose(found.size_factor, asked.size_factor, rtol=1e-5)
    assert set(found.report.missing) == set(asked.report.missing)
    assert (found.x[:, lost].sum() > 0) == means
    assert_array_equal(cells.x.toarray(), before.toarray())  # the caller's cells are as they were


def test_an_observed_size_factor_stays() -> None:
    model = trained("scvi-embedded-size-factor-logistic")
    cells = query(model)
    assert_array_equal(without_genes(cells, np.arange(60) < 20, model=model).size_factor, cells.size_factor)


def test_only_measured_genes_are_lost_and_as_many_in_each_draw() -> None:
    model = trained("scpoli")
    cells = align(counts(cells=70, seed=3)[:, 20:].copy(), model)
    losses = _losses(cells, model.manifest.genes.names, share=0.25, draws=4, seed=0)
    assert [int(lost.sum()) for lost in losses] == [10] * 4
    assert not np.array(losses)[:, :20].any()
    assert len({lost.tobytes() for lost in losses}) == 4


def test_the_same_seed_gives_the_same_and_minibatches_do_not_count() -> None:
    model, cells = trained("trvae"), query(trained("trvae"))
    one, same, other = (latent_uncertainty(model, cells, seed=seed, device="cpu") for seed in (1, 1, 2))
    assert_array_equal(one.gene_loss, same.gene_loss)
    assert not np.allclose(one.gene_loss, other.gene_loss)
    assert_array_equal(one.variance, other.variance)
    small = latent_uncertainty(model, cells, seed=1, batch_size=11, device="cpu")
    assert_allclose(small.gene_loss, one.gene_loss, rtol=1e-3, atol=1e-7)
    assert_allclose(small.variance, one.variance, rtol=1e-5)


def test_more_cells_than_are_held_at_once() -> None:
    model, cells = trained("scpoli"), query(trained("scpoli"))
    many = cells.rows(np.arange(9_000) % 70)
    found = latent_uncertainty(model, many, draws=2, device="cpu")
    few = latent_uncertainty(model, cells, draws=2, device="cpu")
    assert_allclose(found.gene_loss, few.gene_loss[np.arange(9_000) % 70], rtol=1e-3, atol=1e-7)
    assert_allclose(found.variance, few.variance[np.arange(9_000) % 70], rtol=1e-4)


def test_a_larger_loss_moves_cells_farther() -> None:
    model, cells = trained("scpoli"), query(trained("scpoli"))
    little, much = (latent_uncertainty(model, cells, gene_loss=share, draws=20).gene_loss for share in (0.05, 0.6))
    assert much.mean() > 3 * little.mean()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gene_loss": 0.0}, "gene_loss is 0.0, of 60 measured genes"),
        ({"gene_loss": 1.0}, "above 0 and below 1"),
        ({"gene_loss": 0.001}, "takes some of them"),
        ({"gene_loss": -0.3}, "gene_loss"),
        ({"draws": 1}, "draws is 1; it is 2 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "abacus"}, "cannot run on 'abacus'"),
    ],
)
def test_what_is_refused(wrong: dict[str, float | str], said: str) -> None:
    model = trained("scpoli")
    with pytest.raises(errors.InvalidInput, match=said):
        latent_uncertainty(model, query(model), **wrong)


def test_cells_that_are_not_aligned_or_of_unknown_conditions() -> None:
    model = trained("scpoli")
    with pytest.raises(errors.InvalidInput, match="AnnData"):
        latent_uncertainty(model, counts())
    with pytest.raises(errors.VocabularyError):
        latent_uncertainty(model, cells_for(model.manifest, ("q0",), cells=20))


def test_means_that_the_model_does_not_have() -> None:
    model = trained("scpoli")
    without = replace(with_gene_means(model, cells_for(model.manifest)), extras={})
    with pytest.raises(errors.Unsupported, match="has no means"):
        latent_uncertainty(without, query(model))


def test_map_query_writes_both_where_it_is_asked_to() -> None:
    adata = counts(cells=40, seed=3)
    plain = hub_client.map_query(adata, trained("scpoli"), progress=False, accelerator="cpu")
    assert plain.latent_uncertainty is None and not {"X_latent_variance", "X_latent_gene_loss"} & set(plain.adata.obsm)
    assert b"latent_" not in plain.receipt.to_bytes()
    asked = hub_client.map_query(adata, trained("scpoli"), latent_uncertainty=True, progress=False, accelerator="cpu")
    found = latent_uncertainty(asked.model, align(adata, asked.model), device="cpu")
    assert_array_equal(asked.adata.obsm["X_latent_variance"], found.variance)
    assert_array_equal(asked.adata.obsm["X_latent_gene_loss"], found.gene_loss)
    assert asked.latent_uncertainty is not None
    assert_array_equal(asked.adata.obsm["X_latent"], plain.adata.obsm["X_latent"])


@pytest.mark.slow
def test_real_cells_that_hang_on_their_genes_move_farthest_when_other_genes_are_lost() -> None:
    """What five draws say of blood cells holds for genes that are taken out of the AnnData, drawn in another way."""
    adata = bundled_query("pbmc68k")
    reference = hub_client.Hub("bundled").pull("pbmc-scpoli")
    model = surgery(reference, align(adata, reference), device="cpu")
    place = embed(model, align(adata, model), device="cpu")
    found = latent_uncertainty(model, align(adata, model), device="cpu").gene_loss.mean(axis=1)
    moved = np.zeros(len(place))
    for seed in range(5):
        kept = np.sort(np.random.default_rng([7, seed]).permutation(adata.n_vars)[: int(0.7 * adata.n_vars)])
        fewer = align(adata[:, kept].copy(), model, min_coverage=0.05)
        moved += ((embed(model, fewer, device="cpu") - place) ** 2).mean(axis=1)
    assert spearmanr(found, moved)[0] > 0.5
