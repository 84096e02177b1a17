"""What terms are after training, on weights that are known; scArches' numbers are in test_golden_expimap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal

from hub_client import errors
from hub_client.architectures.expimap import ExpiMap
from hub_client.model import Model
from hub_client.terms import active_terms, program_genes, term_directions, term_genes, term_weights
from tests.simulated import manifest


@pytest.fixture
def model() -> Model:
    """Weights: none; all up; more up, but down in sum; as many up as down, up in sum; an unconstrained term."""
    found = Model.build(manifest("expimap", unconstrained=1))
    assert isinstance(found.network, ExpiMap)
    weights = torch.zeros(60, 7)
    weights[8:18, 1] = 1.0
    weights[16:26, 2] = torch.tensor([0.1] * 6 + [-1.0] * 4)
    weights[24:34, 3] = torch.tensor([2.0] * 5 + [-1.0] * 5)
    weights[[3, 50, 7], 6] = torch.tensor([0.5, -2.0, 1.0])
    found.network.load(
        found.network.tensors()
        | {"decoder.programs.0.weight": weights[:, :6], "decoder.programs.1.weight": weights[:, 6:]}
    )
    return found


def test_weights(model: Model) -> None:
    weights = term_weights(model)
    assert weights.shape == (60, 7)
    assert_array_equal(weights[[3, 50, 7], 6], [0.5, -2.0, 1.0])


def test_active_terms(model: Model) -> None:
    assert active_terms(model).tolist() == [False, True, True, True, False, False, True]


def test_directions_by_sum(model: Model) -> None:
    found = term_directions(model)
    assert found.signs.tolist() == [0, 1, -1, 1, 0, 0, -1]
    assert found.confidence is None


def test_directions_by_counts(model: Model) -> None:
    found = term_directions(model, method="counts")
    assert found.signs.tolist() == [0, 1, 1, 0, 0, 0, 1]
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, [0, 1, 0.2, 0, 0, 0, 1 / 3], rtol=1e-6)


def test_the_manifest_says_them(model: Model) -> None:
    model.describe()
    assert [term.active for term in model.manifest.terms] == active_terms(model).tolist()
    assert [term.direction for term in model.manifest.terms] == term_directions(model).signs.tolist()


@pytest.mark.parametrize("term", [6, "P:6", "program 6"])
def test_genes_of_a_term(model: Model, term: str | int) -> None:
    expected = pd.DataFrame({"genes": ["g50", "g7", "g3"], "weights": [-2.0, 1.0, 0.5], "in_mask": [False] * 3})
    pd.testing.assert_frame_equal(term_genes(model, term), expected, check_dtype=False)


def test_genes_of_a_program(model: Model) -> None:
    found = term_genes(model, "program 2")
    assert found["genes"].tolist() == [f"g{number}" for number in (22, 23, 24, 25, 16, 17, 18, 19, 20, 21)]
    assert found["in_mask"].all()
    assert term_genes(model, 0).empty
    programs = program_genes(model)
    assert list(programs) == [f"program {number}" for number in range(6)]
    assert programs["program 2"] == [f"g{number}" for number in range(16, 26)]


def test_what_there_is_none_of(model: Model) -> None:
    with pytest.raises(errors.VocabularyError, match="no term 'TNF'; it has program 0, program 1") as caught:
        term_genes(model, "TNF")
    assert caught.value.unknown == ("TNF",)
    with pytest.raises(errors.VocabularyError, match="no term 7"):
        term_genes(model, 7)
    with pytest.raises(errors.InvalidInput, match="method is 'mean'; it is one of sum, counts"):
        term_directions(model, method="mean")  # type: ignore[arg-type]
    with pytest.raises(errors.Unsupported, match="trvae has no gene programs"):
        active_terms(Model.build(manifest("trvae")))
