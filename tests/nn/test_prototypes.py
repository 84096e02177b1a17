"""The contrast of labels under their prototypes: the formula, and whom it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import log_softmax

from hub_client.manifest.plan import Plan
from hub_client.models.architectures.scpoli import ScPoli
from hub_client.nn.layers import Axis
from hub_client.nn.prototypes import PrototypeTable
from tests.contract.examples import trained
from tests.simulated import cells_for, manifest

CODES = torch.tensor([0, 1, 3, 3, 1, 0, 0, 3])


def table() -> PrototypeTable:
    """Prototypes of four labels, of which the third has no cells."""
    found = PrototypeTable(Axis("labels.cell_type", 4), Axis("latent", 3), frozen=0)
    found.means.copy_(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    found.cells.copy_(torch.tensor([3.0, 2.0, 0.0, 5.0]))
    return found


def points(cells: int = len(CODES)) -> torch.Tensor:
    return torch.randn(cells, 3, generator=torch.Generator().manual_seed(1))


def plain(prototypes: PrototypeTable, z: torch.Tensor, codes: torch.Tensor, smoothing: float = 0.0) -> float:
    """Return the mean cross-entropy of labels under unit Gaussians, cell by cell."""
    placed = [0, 1, 3]
    means, found = prototypes.means.numpy()[placed], []
    for point, code in zip(z.numpy(), codes.tolist(), strict=True):
        logs = log_softmax([-0.5 * ((point - mean) ** 2).sum() for mean in means])
        found.append(-(1 - smoothing) * logs[placed.index(code)] - smoothing * logs.mean())
    return float(np.mean(found))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_plain_formula(smoothing: float) -> None:
    expected = plain(table(), points(), CODES, smoothing)
    assert_allclose(float(table().contrast(points(), CODES, smoothing)), expected, rtol=1e-5)


def test_cells_without_a_label_or_with_one_that_has_no_prototype_are_left_out() -> None:
    codes = torch.cat([CODES, torch.tensor([-1, 2, -1])])
    found = table().contrast(points(11), codes)
    assert_allclose(float(found), plain(table(), points(11)[:8], CODES), rtol=1e-5)


@pytest.mark.parametrize("codes", [[-1, -1], [2, -1], []])
def test_without_labelled_cells_it_is_zero(codes: list[int]) -> None:
    z = points(len(codes)).requires_grad_()
    assert float(table().contrast(z, torch.tensor(codes, dtype=torch.long))) == 0


def test_it_pushes_other_labels_away() -> None:
    z = table().means[[0]].clone().requires_grad_()
    table().contrast(z, torch.tensor([0])).backward()
    nearest = table().means[[1, 3]][torch.cdist(z.detach(), table().means[[1, 3]]).argmin()]
    moved = z.detach() - 0.1 * z.grad
    assert torch.linalg.vector_norm(moved - nearest) > torch.linalg.vector_norm(z.detach() - nearest)


def test_scpolis_loss_has_it_where_a_plan_asks_for_it() -> None:
    network = trained("scpoli").network
    batch = next(network.batches(cells_for(network.manifest, cells=50)).in_order(50))
    with torch.no_grad():
        without, found = (network(batch, sample=False, contrast_weight=weight) for weight in (0.0, 2.0))
        expected = network.prototypes[0].contrast(network.encode(batch)[0], batch.labels[:, 0])
    assert "contrast" not in without
    assert_allclose(float(found["contrast"]), float(expected), rtol=1e-6)
    assert_allclose(float(found["loss"] - without["loss"]), 2 * float(expected), rtol=1e-3)


def test_it_joins_with_the_prototypes() -> None:
    network = ScPoli.build(manifest())
    plan = Plan(epochs=10, pretraining_epochs=4, contrast_weight=3.0, label_smoothing=0.1)
    weights = {"contrast_weight": 3.0, "label_smoothing": 0.1}
    assert network.objective(plan, 4).items() >= weights.items()
    assert not network.objective(plan, 3).keys() & weights.keys()
    assert not network.objective(plan.changed(contrast_weight=0.0), 4).keys() & weights.keys()
