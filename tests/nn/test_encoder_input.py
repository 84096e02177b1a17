"""What encoders read: the formula, where its centre comes from, and that it follows a model wherever that goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from torch import Tensor

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.plan import Plan
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from hub_client.nn.encoder_input import ExpressionInput
from hub_client.nn.layers import Axis
from hub_client.nn.training import Judge, split
from tests.simulated import GENES, QUERY, cells_for, manifest

CENTRED = ("scpoli", "trvae", "expimap", "scvi", "scanvi")
NATIVE = CENTRED[:3]
PLAN = Plan(epochs=2, batch_size=64, kl_anneal_epochs=0, validation_fraction=0.25)
kinds = pytest.mark.parametrize("kind", CENTRED)


def trained(kind: str, cells: Cells | None = None, *, plan: Plan = PLAN, **architecture: Any) -> Model:
    model = Model.build(manifest(kind, **({"encoder_input": "centred"} | architecture)))
    train(model, cells_for(model.manifest) if cells is None else cells, plan=plan, progress=False, accelerator="cpu")
    return model


def with_empty_cells(cells: Cells) -> Cells:
    """Return the cells with nothing in every seventh, whose size factor is then 1."""
    kept = np.arange(len(cells)) % 7 > 0
    x = cells.x.multiply(kept[:, None]).tocsr().astype(np.float32)
    x.eliminate_zeros()
    return replace(cells, x=x, size_factor=np.where(kept, cells.size_factor, 1).astype(np.float32))


def deeper(cells: Cells, times: int = 3) -> Cells:
    """Return the cells with so many times the counts, and the size factors that align() would sum."""
    return replace(cells, x=cells.x * np.float32(times), size_factor=cells.size_factor * np.float32(times))


def scaled_logs(cells: Cells) -> np.ndarray:
    """Return log1p of counts per ten thousand, ``(cells, genes)``."""
    per_cell = 1e4 / np.maximum(cells.size_factor.astype(np.float64), 1)
    logs: np.ndarray = np.log1p(cells.x.toarray() * per_cell[:, None])
    return logs


def batch_of(model: Model, cells: Cells) -> Batch:
    return next(model.network.batches(cells).in_order(len(cells)))


def read_of(
    cells: Cells, *, reads: Any, counts: bool, centre: Tensor | None = None, observed: bool = False
) -> np.ndarray:
    """Return what an input makes of cells."""
    found = ExpressionInput(Axis("genes", len(GENES)), reads=reads, counts=counts, observed=observed)
    if centre is not None:
        found.centre.copy_(centre)
    read: np.ndarray = found(batch_of(Model.build(manifest()), cells)).numpy()
    return read


# --- the formula -----------------------------------------------------------------------------------------------------


def test_it_is_the_plain_formula() -> None:
    cells, centre = with_empty_cells(cells_for(manifest())), torch.rand(len(GENES))
    assert (cells.x.getnnz(axis=1) == 0).sum() > 30
    found = read_of(cells, reads="centred", counts=True, centre=centre)
    assert_allclose(found, scaled_logs(cells) - centre.numpy(), rtol=1e-5, atol=1e-5)
    assert_array_equal(found[0], -centre.numpy())  # a cell without counts
    assert_allclose(read_of(cells, reads="log1p", counts=True), np.log1p(cells.x.toarray()), rtol=1e-6)


def test_log1p_values_are_read_as_they_are_or_centred() -> None:
    cells, centre = cells_for(manifest(likelihood="mse")), torch.rand(len(GENES))
    values = cells.x.toarray()
    assert_array_equal(read_of(cells, reads="log1p", counts=False), values)
    found = read_of(cells, reads="centred", counts=False, centre=centre)
    assert_allclose(found, values - centre.numpy(), rtol=1e-6, atol=1e-6)


def lacking(cells: Cells, genes: list[int], *, whole_depth: bool = False) -> Cells:
    """Return the cells of a query that did not measure some genes, as align() reads it."""
    x = cells.x.toarray()
    x[:, genes] = 0
    sums = np.maximum(x.sum(1), 1).astype(np.float32)
    return replace(
        cells,
        x=csr_matrix(x),
        size_factor=cells.size_factor if whole_depth else sums,
        report=replace(cells.report, missing=tuple(np.array(GENES)[genes])),
        whole_depth=whole_depth,
    )


@pytest.mark.parametrize("whole_depth", [True, False])
def test_unmeasured_genes_are_read_at_the_centre(whole_depth: bool) -> None:
    """And the depth is that of all genes, by the share that a reference's cell has in the measured; whatever size
    factors a query comes with, for the reference had none."""
    genes, centre = [0, 3, 4], torch.rand(len(GENES))
    typical = np.expm1(centre.numpy().astype(np.float64))
    share = 1 - typical[genes].sum() / typical.sum()
    cells = lacking(cells_for(manifest()), genes, whole_depth=whole_depth)
    found = read_of(cells, reads="centred", counts=True, centre=centre)
    depths = np.maximum(cells.x.sum(1), 1) / share
    expected = np.log1p(cells.x.toarray() * 1e4 / np.asarray(depths)) - centre.numpy()
    expected[:, genes] = 0
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert_allclose(read_of(cells, reads="log1p", counts=True), np.log1p(cells.x.toarray()), rtol=1e-6)


def test_observed_size_factors_are_the_depth() -> None:
    """Where the reference has them, too, so that what genes were measured has no say; also factors about 1."""
    cells, centre = lacking(cells_for(manifest()), [0, 3], whole_depth=True), torch.rand(len(GENES))
    cells = replace(cells, size_factor=np.linspace(0.1, 3, len(cells)).astype(np.float32))
    found = read_of(cells, reads="centred", counts=True, centre=centre, observed=True)
    expected = np.log1p(cells.x.toarray() * 1e4 / cells.size_factor[:, None]) - centre.numpy()
    expected[:, [0, 3]] = 0
    assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_means_that_were_filled_in_have_no_say_in_the_depth() -> None:
    cells, centre = lacking(cells_for(manifest()), [0, 3]), torch.rand(len(GENES))
    x = cells.x.toarray()
    x[:, [0, 3]] = 7
    filled = replace(cells, x=csr_matrix(x), size_factor=cells.size_factor + 14, whole_depth=True)
    read = [read_of(each, reads="centred", counts=True, centre=centre) for each in (cells, filled)]
    assert_array_equal(*read)


@kinds
def test_strongly_hidden_genes_leave_a_loss(kind: str) -> None:
    """scvi-tools' modules take the logarithm again of what they are given."""
    model = trained(kind)
    batch = batch_of(model, cells_for(model.manifest, cells=40))
    body = model.network.module if hasattr(model.network, "module") else model.network
    body.expression.centre.fill_(8)
    assert np.isfinite(model.network(batch, gene_dropout=0.9)["loss"].item())


def test_unmeasured_log1p_values_are_read_at_the_centre() -> None:
    cells, centre = lacking(cells_for(manifest(likelihood="mse")), [1, 2]), torch.rand(len(GENES))
    found = read_of(cells, reads="centred", counts=False, centre=centre)
    assert (found[:, 1:3] == 0).all() and (found[:, 3:] == cells.x.toarray()[:, 3:] - centre[3:].numpy()).all()


def test_only_a_centred_input_has_a_centre() -> None:
    for reads, axes in (("log1p", {}), ("centred", {"centre": ("genes",)})):
        found = ExpressionInput(Axis("genes", 3), reads=reads, counts=True)
        assert found.axes() == axes and [name for name, _ in found.named_buffers()] == list(axes)


@pytest.mark.parametrize("reads", ["centred", "log1p"])
@kinds
def test_depth_has_no_say_where_it_is_centred(kind: str, reads: str) -> None:
    """A cell, and one with three times its counts, lie in the same place, and only then."""
    model = trained(kind, encoder_input=reads)
    cells = cells_for(model.manifest, cells=40, seed=2)
    once, thrice = (embed(model, each, device="cpu") for each in (cells, deeper(cells)))
    apart = np.abs(once - thrice).max() / once.std()
    assert apart < 1e-4 if reads == "centred" else apart > 0.02


# --- the centre ------------------------------------------------------------------------------------------------------


@kinds
def test_the_centre_is_that_of_the_training_cells(kind: str) -> None:
    described = manifest(kind, encoder_input="centred")
    cells = with_empty_cells(cells_for(described)) if kind in NATIVE else cells_for(described)
    model = trained(kind, cells)
    rows, held = split(cells, Vocabulary.of(described), fraction=PLAN.validation_fraction, seed=0)
    assert len(held) > 40
    logs, centre = scaled_logs(cells), model.tensors()["expression.centre"].numpy()
    assert_allclose(centre, logs[rows.numpy()].mean(0), rtol=1e-5)
    assert np.abs(centre - logs.mean(0)).max() > 0.01


@kinds
def test_a_model_that_is_trained_again_keeps_its_centre(kind: str, tmp_path: Path) -> None:
    model = trained(kind)
    centre = model.tensors()["expression.centre"]
    other = cells_for(model.manifest, cells=100, seed=9)
    for each in (model, Model.load(model.save(tmp_path / "saved"))):
        train(each, other, plan=PLAN, progress=False, accelerator="cpu")
        assert torch.equal(each.tensors()["expression.centre"], centre)


@kinds
def test_training_that_failed_is_not_the_first(kind: str) -> None:
    model = Model.build(manifest(kind, encoder_input="centred"))
    cells = cells_for(model.manifest)
    failing = Judge(value=lambda row: row["no such loss"])
    with pytest.raises(KeyError, match="no such loss"):
        train(model, cells, plan=PLAN, progress=False, accelerator="cpu", judge=failing)
    assert not model.tensors()["expression.centre"].any()
    train(model, cells, plan=PLAN.changed(epochs=0), progress=False, accelerator="cpu")
    train(model, cells, plan=PLAN, progress=False, accelerator="cpu")
    assert torch.equal(model.tensors()["expression.centre"], trained(kind, cells).tensors()["expression.centre"])


@pytest.mark.slow
@kinds
def test_a_release_keeps_it_and_surgery_moves_no_reference_cell(kind: str, tmp_path: Path) -> None:
    model = trained(kind)
    reference, query = cells_for(model.manifest), cells_for(model.manifest, QUERY, cells=90, labelled=False)
    before = embed(model, reference, device="cpu")
    again = Model.load(model.save(tmp_path / "saved"))
    assert again.manifest.architecture.encoder_input == "centred"
    assert torch.equal(again.tensors()["expression.centre"], model.tensors()["expression.centre"])
    assert_array_equal(embed(again, reference, device="cpu"), before)
    grown = surgery(again, query, device="cpu")
    assert_array_equal(embed(grown, reference, device="cpu"), before)
    train(grown, query, plan=PLAN, progress=False, accelerator="cpu")
    assert_array_equal(embed(grown, reference, device="cpu"), before)
    assert torch.equal(grown.tensors()["expression.centre"], model.tensors()["expression.centre"])
    back = Model.load(grown.save(tmp_path / "grown"))
    assert_array_equal(embed(back, query, device="cpu"), embed(grown, query, device="cpu"))


def test_scvi_tools_has_no_such_encoder() -> None:
    with pytest.raises(errors.Unsupported, match="reads centred log1p counts, and scvi-tools' reads log1p counts"):
        Model.build(manifest("scvi", encoder_input="centred")).to_scvi()
    with pytest.raises(ValueError, match="encoder_input centred centres log1p counts, and log1p_input is false"):
        manifest("scvi", encoder_input="centred", log1p_input=False)
    with pytest.raises(ValueError, match="centred hides depth, which use_observed_library_size false infers"):
        manifest("scvi", encoder_input="centred", use_observed_library_size=False)
    with pytest.raises(ValueError, match=r"library_encoder infers depth .*, which centred input hides"):
        manifest("expimap", encoder_input="centred", library_encoder=True)


# --- genes that are hidden from the encoder --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*CENTRED, "totalvi"])
def test_genes_are_hidden_in_training_only(kind: str) -> None:
    model = Model.build(manifest(kind))
    batch = batch_of(model, cells_for(model.manifest, cells=50))

    def loss(**options: Any) -> float:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return float(model.network(batch, **options)["reconstruction"])

    assert loss(sample=False, gene_dropout=0.9) == loss(sample=False)
    assert loss(gene_dropout=0.9) != loss()


def test_hidden_genes_are_drawn_for_each_cell() -> None:
    """Of nine in ten, a tenth is left, ten times as large, and not the same genes in all cells."""
    model = Model.build(manifest(encoder_input="log1p"))
    batch = batch_of(model, cells_for(model.manifest))
    seen: list[Tensor] = []
    model.network.encoder.hidden.first.expression.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.network.expression_product(batch, gene_dropout=0.9)
    whole = torch.log1p(batch.dense(batch.values))
    left = seen[0] != 0
    assert 0.07 < float(left.sum() / (whole != 0).sum()) < 0.13
    torch.testing.assert_close(seen[0][left], 10 * whole[left])
    assert (left.sum(0)[(whole != 0).sum(0) > 100] > 0).all()


@pytest.mark.parametrize("kind", ["scvi", "scanvi", "totalvi"])
def test_a_librarys_size_is_that_of_the_counts(kind: str) -> None:
    reads = {} if kind == "totalvi" else {"encoder_input": "centred"}
    model = Model.build(manifest(kind, **reads))
    cells = cells_for(model.manifest, cells=50)
    batch, total = batch_of(model, cells), torch.from_numpy(cells.x.toarray().sum(1, keepdims=True))
    inputs = model.network.inputs(batch)
    with torch.no_grad():
        found = model.network.inferred(batch, inputs, gene_dropout=0.5)
    torch.testing.assert_close(
        *((found["library_gene"], total) if kind == "totalvi" else (found["library"], total.log()))
    )


@pytest.mark.parametrize("kind", ["scpoli", "scvi"])
def test_a_query_trains_without(kind: str) -> None:
    model = trained(kind)
    query = cells_for(model.manifest, QUERY, cells=90, labelled=False)
    with_some, without = (surgery(model, query, device="cpu") for _ in range(2))
    assert "gene_dropout" not in with_some.network.objective(PLAN.changed(gene_dropout=0.5), 0)
    assert model.network.objective(PLAN.changed(gene_dropout=0.5), 0)["gene_dropout"] == 0.5
    for grown, plan in ((with_some, PLAN.changed(gene_dropout=0.5)), (without, PLAN)):
        train(grown, query, plan=plan, progress=False, accelerator="cpu")
    for name, tensor in without.tensors().items():
        assert torch.equal(with_some.tensors()[name], tensor), name
