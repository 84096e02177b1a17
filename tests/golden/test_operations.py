"""Single losses, penalties and votes against the numbers scArches 0.6.1 computes (tests/golden/README.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.special import gammaln

from hub_client.labels.neighbors import exact, votes
from hub_client.nn import losses, penalties
from tests.golden.recorded import HERE, arrays


def recorded(file: str) -> dict[str, NDArray[Any]]:
    with np.load(HERE / f"{file}.npz", allow_pickle=False) as found:
        return dict(found)


OPERATIONS = {name: torch.from_numpy(np.asarray(values)) for name, values in recorded("operations").items()}
CODES = torch.arange(6)
"""Each of the six cells has its own dispersions."""
EASY = [0, 1, 3, 5]
"""The cells whose gamma functions float32 can subtract; in the others scArches loses digits that ours keeps."""


def test_negative_binomial() -> None:
    """With means of 0 and 1e-10, dispersions of 1e-4 and 1e5 and a count of 4,900."""
    said = {name: OPERATIONS[f"nb_{name}"] for name in ("x", "mu", "theta", "loglik")}
    found = losses.negative_binomial(said["x"], said["mu"], log_theta=said["theta"].log(), codes=CODES)
    assert_allclose(found[EASY], -said["loglik"].sum(1)[EASY], rtol=1e-5)
    assert_allclose(found, -said["loglik"].sum(1), rtol=5e-3)
    assert_allclose(found, -exact_negative_binomial().sum(1), rtol=1e-5)


def exact_negative_binomial() -> NDArray[np.float64]:
    """The log-likelihood of each count in double precision (Lopez et al. 2018)."""
    x, mean, theta = (OPERATIONS[f"nb_{name}"].numpy().astype(np.float64) for name in ("x", "mu", "theta"))
    total = np.log(theta + mean + 1e-8)
    powers = theta * (np.log(theta + 1e-8) - total) + x * (np.log(mean + 1e-8) - total)
    found: NDArray[np.float64] = powers + gammaln(x + theta) - gammaln(theta) - gammaln(x + 1)
    return found


def test_zero_inflated_negative_binomial() -> None:
    found = losses.zero_inflated_negative_binomial(
        OPERATIONS["nb_x"],
        OPERATIONS["nb_mu"],
        log_theta=OPERATIONS["nb_theta"].log(),
        codes=CODES,
        dropout_logits=OPERATIONS["zinb_pi"],
    )
    assert_allclose(found[EASY], -OPERATIONS["zinb_loglik"].sum(1)[EASY], rtol=1e-5)
    assert_allclose(found, -OPERATIONS["zinb_loglik"].sum(1), rtol=1e-3)


def test_mmd() -> None:
    y, codes = OPERATIONS["mmd_y"], OPERATIONS["mmd_c"]
    pair = codes < 2
    assert_allclose(losses.mmd(y[pair], codes[pair], conditions=3), OPERATIONS["mmd_pair01"], rtol=1e-5)
    assert_allclose(2 * losses.mmd(y, codes, conditions=3), OPERATIONS["mmd_all_beta2"], rtol=1e-5)
    assert_allclose(losses.mmd(y, codes, conditions=3, boundary=2), OPERATIONS["mmd_boundary2"], rtol=1e-5)


def test_the_kernel_of_mmd() -> None:
    """The sum over all widths, of a few cells with each other."""
    few = OPERATIONS["mmd_y"][: len(OPERATIONS["mmd_kernel_self_first10"])]
    found = losses.multi_scale_kernel(few)
    assert_allclose(found, OPERATIONS["mmd_kernel_self_first10"], rtol=1e-5)


def test_the_kernel_of_hsic() -> None:
    assert_allclose(losses.radial_kernel(OPERATIONS["hsic_z"]), OPERATIONS["hsic_kernel_z"], rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 4])
def test_the_width_of_hsic(columns: int) -> None:
    """scArches' bandwidth is what multiplies the squared distance: here that of two points one apart."""
    points = torch.zeros(2, columns)
    points[1, 0] = 1
    found = -losses.radial_kernel(points)[0, 1].log()
    assert_allclose(found, OPERATIONS[f"hsic_bandwidth_{columns}"], rtol=1e-5)


def test_hsic() -> None:
    assert_allclose(losses.hsic(OPERATIONS["hsic_z"], OPERATIONS["hsic_s"]), OPERATIONS["hsic_value"], rtol=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(None, "prox_gl"), ("prox_omega", "prox_gl_omega")])
def test_group_lasso(scale: str | None, expected: str) -> None:
    weight = OPERATIONS["prox_W"].clone()
    given = None if scale is None else OPERATIONS[scale]
    penalties.group_lasso_(weight, float(OPERATIONS["prox_alpha"]), scale=given)
    assert_allclose(weight, OPERATIONS[expected], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("allowed", "expected"), [(None, "prox_l1"), ("prox_mask", "prox_l1_masked")])
def test_soft_threshold(allowed: str | None, expected: str) -> None:
    weight = OPERATIONS["prox_W"].clone()
    given = None if allowed is None else OPERATIONS[allowed]
    penalties.soft_threshold_(weight, float(OPERATIONS["prox_l1_alpha"]), allowed=given)
    assert_allclose(weight, OPERATIONS[expected], rtol=1e-5, atol=1e-7)


def test_covariance() -> None:
    assert_allclose(losses.covariance(OPERATIONS["cov_x"]), OPERATIONS["cov"], rtol=1e-5)


# --- weighted nearest neighbours -------------------------------------------------------------------------------------

NEIGHBORS = recorded("neighbors")


def votes_of(column: str) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """The labels of a column and their votes."""
    labels, codes = np.unique(arrays("cells", "ref")[f"obs_{column}"], return_inverse=True)
    found = votes(
        NEIGHBORS["ref_emb"],
        codes,
        NEIGHBORS["query_emb"],
        neighbors=int(NEIGHBORS["n_neighbors"]),
        labels=len(labels),
    )
    return labels, found


def test_neighbors() -> None:
    found = exact(NEIGHBORS["ref_emb"], NEIGHBORS["query_emb"], neighbors=int(NEIGHBORS["n_neighbors"]))
    assert_array_equal(found.indices, NEIGHBORS["indices"])
    assert_allclose(found.distances, NEIGHBORS["distances"], rtol=1e-5)


@pytest.mark.parametrize("column", ["cell_type", "cell_class"])
def test_labels_by_votes(column: str) -> None:
    labels, shares = votes_of(column)
    position = list(NEIGHBORS["columns"]).index(column)
    assert_array_equal(labels[shares.argmax(axis=1)], NEIGHBORS["pred"][:, position])
    assert_allclose(np.maximum(1 - shares.max(axis=1), 0), NEIGHBORS["uncert"][:, position], atol=1e-6)


def test_unknown_cells_by_votes() -> None:
    """scArches names a cell where the best label has at least the threshold's share."""
    labels, shares = votes_of("cell_type")
    named = np.where(shares.max(axis=1) >= 0.6, labels[shares.argmax(axis=1)], "Unknown")
    assert_array_equal(named, NEIGHBORS["pred_unknown_thr0p6"][:, 0])
