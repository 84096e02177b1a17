"""hub_client.nn.layers and hub_client.nn.prototypes; tests/test_layers.py is about the layers of the code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hub_client.nn.layers import (
    Activation,
    Axis,
    BatchNorm,
    ConditionedLinear,
    Dense,
    Embedded,
    GrowingTable,
    HiddenLayers,
    tensor_axes,
)
from hub_client.nn.prototypes import PrototypeTable, unlabelled_loss

GENES, WIDTH, ROWS, COLUMNS = Axis("genes", 7), Axis("hidden.0", 4), Axis("conditions.batch", 5), Axis("embedding", 3)


def table(*, reference: int = 3, max_norm: float | None = 1.0) -> GrowingTable:
    return GrowingTable(ROWS, COLUMNS, reference=reference, max_norm=max_norm)


def norms(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


# --- GrowingTable ----------------------------------------------------------------------------------------------------


def test_a_tables_rows_are_the_references_then_the_querys() -> None:
    rows = torch.arange(15.0).reshape(5, 3)
    growing = table(max_norm=None)
    growing.load(rows)
    assert torch.equal(growing.rows, rows)
    assert (len(growing.reference), len(growing.query)) == (3, 2)
    assert torch.equal(growing(torch.tensor([4, 0, 4])), rows[[4, 0, 4]])


def test_a_table_without_query_rows() -> None:
    growing = table(reference=5)
    assert growing.rows is growing.reference
    assert growing.query.numel() == 0


def test_long_rows_are_shortened_when_training_looks_them_up() -> None:
    growing = table()
    growing.load(torch.full((5, 3), 2.0))
    growing.train()(torch.tensor([0, 4]))
    assert norms(growing.rows.detach()).tolist() == pytest.approx([1.0, 12**0.5, 12**0.5, 12**0.5, 1.0], rel=1e-6)
    expected = F.embedding(torch.tensor([0]), torch.full((5, 3), 2.0), max_norm=1.0)
    assert torch.allclose(growing.rows[:1], expected, atol=1e-7)


def test_inference_and_frozen_rows_leave_rows_as_they_are() -> None:
    growing = table()
    growing.load(torch.full((5, 3), 2.0))
    growing.eval()(torch.arange(5))
    assert (norms(growing.rows) > 3).all()
    growing.reference.requires_grad_(False)
    growing.train()(torch.arange(5))
    assert (norms(growing.reference) > 3).all()
    assert (norms(growing.query) <= 1.0).all()


def test_rows_without_a_limit() -> None:
    growing = table(max_norm=None)
    growing.load(torch.full((5, 3), 2.0))
    growing.train()(torch.arange(5))
    assert (norms(growing.rows) > 3).all()


def test_gradients_reach_only_the_rows_looked_up() -> None:
    growing = table()
    growing(torch.tensor([1, 4])).sum().backward()
    assert growing.reference.grad is not None
    assert growing.query.grad is not None
    assert (growing.reference.grad.sum(1) != 0).tolist() == [False, True, False]
    assert (growing.query.grad.sum(1) != 0).tolist() == [False, True]


# --- linear maps and normalisation -----------------------------------------------------------------------------------


def test_dense_starts_as_torchs_linear() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = Dense(GENES, WIDTH)
        torch.manual_seed(0)
        theirs = nn.Linear(7, 4)
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.bias is not None
    assert torch.equal(ours.bias, theirs.bias)


def test_conditioned_linear_is_one_map_of_both_side_by_side() -> None:
    layer = ConditionedLinear(GENES, WIDTH, conditions=Embedded(COLUMNS))
    assert layer.condition is not None
    x, conditions = torch.randn(6, 7), torch.randn(6, 3)
    weight = torch.cat([layer.expression.weight, layer.condition.weight], dim=1)
    expected = F.linear(torch.cat([x, conditions], dim=1), weight, layer.expression.bias)
    assert torch.allclose(layer(x, conditions), expected, atol=1e-6)


def test_conditioned_linear_without_conditions() -> None:
    layer = ConditionedLinear(GENES, WIDTH, conditions=None)
    x = torch.randn(6, 7)
    assert torch.equal(layer(x, torch.randn(6, 3)), layer.expression(x))


def test_batch_norm_is_torchs() -> None:
    ours, theirs = BatchNorm(WIDTH), nn.BatchNorm1d(4)
    x = torch.randn(32, 4) * 3 + 1
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_of_one_cell_uses_the_running_statistics() -> None:
    layer = BatchNorm(WIDTH)
    layer(torch.randn(32, 4) * 3 + 1)
    running = layer.norm.running_mean
    assert running is not None
    before, cell = running.clone(), torch.randn(1, 4)
    alone = layer.train()(cell)
    assert torch.allclose(alone, layer.eval()(cell))
    assert torch.equal(running, before)


@pytest.mark.parametrize("normalization", ["layer", "none"])
def test_normalisations_without_parameters(normalization: str) -> None:
    layer = Activation(WIDTH, normalization=normalization, dropout=0.0)  # type: ignore[arg-type]
    x = torch.randn(6, 4)
    expected = F.layer_norm(x, (4,)) if normalization == "layer" else x
    assert torch.equal(layer(x), expected.relu())
    assert list(layer.parameters()) == []


def test_hidden_layers_go_on_from_a_first_product() -> None:
    widths = [GENES, WIDTH, Axis("hidden.1", 2)]
    layers = HiddenLayers(widths, conditions=Embedded(COLUMNS), bias=True, normalization="batch", dropout=0.0).eval()
    x, conditions = torch.randn(6, 7), torch.randn(6, 3)
    product = layers.first.expression(x)
    assert torch.equal(layers.after_first(layers.first.join(product, conditions)), layers(x, conditions))


def test_every_tensor_knows_its_axes() -> None:
    widths = [GENES, WIDTH, Axis("hidden.1", 2)]
    layers = HiddenLayers(widths, conditions=Embedded(COLUMNS), bias=True, normalization="batch", dropout=0.1)
    found = tensor_axes(layers)
    assert found["first.expression.weight"] == ("hidden.0", "genes")
    assert found["first.condition.weight"] == ("hidden.0", "embedding")
    assert found["rest.0.bias"] == ("hidden.1",)
    assert set(found) == {name for name in layers.state_dict() if "num_batches" not in name}


# --- prototypes ------------------------------------------------------------------------------------------------------


def placed(*, frozen: int = 0) -> PrototypeTable:
    found = PrototypeTable(Axis("labels.cell_type", 3), Axis("latent", 2), frozen=frozen)
    found.place(torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]]), torch.tensor([0, 0, 1]))
    return found


def test_prototypes_are_means_with_the_unbiased_covariance() -> None:
    found = placed()
    assert found.means.tolist() == [[1.0, 0.0], [5.0, 5.0], [0.0, 0.0]]
    assert found.covariances[0].tolist() == [[2.0, 0.0], [0.0, 0.0]]
    assert found.covariances[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert found.cells.tolist() == [2.0, 1.0, 0.0]


def test_frozen_prototypes_and_those_without_cells_stay() -> None:
    found = placed(frozen=1)
    assert found.cells.tolist() == [0.0, 1.0, 0.0]
    found.place(torch.tensor([[9.0, 9.0]]), torch.tensor([0]))
    assert found.means.tolist() == [[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]]


def test_the_loss_is_the_sum_over_labels_of_the_mean_distance() -> None:
    z = torch.tensor([[1.0, 3.0], [1.0, 1.0], [5.0, 9.0], [8.0, 8.0], [7.0, 7.0]])
    codes = torch.tensor([0, 0, 1, -1, 2])
    assert float(placed().loss(z, codes)) == pytest.approx((3.0 + 1.0) / 2 + 4.0)
    assert float(placed().loss(z[3:], codes[3:])) == 0.0


def test_the_unlabelled_loss_is_the_mean_over_prototypes_somebody_is_nearest_to() -> None:
    prototypes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [50.0, 50.0]])
    z = torch.tensor([[0.0, 1.0], [0.0, 3.0], [10.0, 6.0]])
    assert float(unlabelled_loss(z, prototypes)) == pytest.approx(((1.0 + 3.0) / 2 + 6.0) / 2)
