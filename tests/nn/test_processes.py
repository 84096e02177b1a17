"""How processes divide a minibatch; what they then compute together is in tests/models/test_devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from hub_client.nn.processes import Processes, of_all_cells, of_own_cells

CELLS = 11


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("cells", [1, 5, 10, 64, 131])
def test_shares_are_the_minibatch(count: int, cells: int) -> None:
    shares = [Processes(count, rank).share(cells) for rank in range(count)]
    assert sum(share.counted for share in shares) == cells
    assert sum(share.weight for share in shares) == pytest.approx(count)
    if cells >= 2 * count:
        assert [row for share in shares for row in range(cells)[share.own]] == list(range(cells))
        assert min(share.size for share in shares) >= 2
    else:
        assert {share.size for share in shares} == {cells}


def test_what_is_not_divisible_is_computed_by_all() -> None:
    shares = [Processes(2, rank).share(64, divisible=False) for rank in (0, 1)]
    assert [(share.size, share.weight, share.counted) for share in shares] == [(64, 1.0, 64), (64, 1.0, 0)]


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "randn_like": torch.randn_like,
    "normal": lambda rows: torch.normal(rows, rows.exp()),
    "normal_": lambda rows: torch.empty_like(rows).normal_(2, 3),
    "rsample": lambda rows: Normal(rows, rows.exp()).rsample(),
    "dropout": lambda rows: F.dropout(rows, 0.3),
    "no dropout": lambda rows: F.dropout(rows, 0.3, training=False),
}


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_those_for_the_whole_minibatch(draw: str, blocks: int) -> None:
    """Also of several blocks of its cells, as scANVI has one for each label it tries."""
    whole = torch.linspace(-1, 1, blocks * CELLS * 4).reshape(blocks, CELLS, 4)
    drawn, after = seeded(DRAWS[draw], whole.flatten(0, 1))
    for rank in (0, 1):
        share = Processes(2, rank).share(CELLS)
        with share.together():
            own, left = seeded(DRAWS[draw], whole[:, share.own].flatten(0, 1))
        torch.testing.assert_close(own, drawn.reshape(whole.shape)[:, share.own].flatten(0, 1), rtol=1e-6, atol=1e-6)
        assert torch.equal(left, after)


def seeded(draw: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is drawn under a seed, and the next random number."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return draw(rows), torch.rand(1)


def test_cells_are_as_they_are_for_one_process() -> None:
    rows = torch.arange(CELLS)
    assert of_all_cells(rows) is rows
    assert of_own_cells(rows) is rows
    share = Processes(2, 1).share(CELLS)
    with share.together():
        assert torch.equal(of_own_cells(rows), rows[share.own])
