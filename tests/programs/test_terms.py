"""What terms are after training, on weights that are known; scArches' numbers are in test_golden_expimap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal

from hub_client import errors
from hub_client.models.architectures.expimap import ExpiMap
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, surgery
from hub_client.nn.layers import GrowingTable
from hub_client.programs.terms import active_terms, program_genes, term_directions, term_genes, term_weights
from tests.simulated import cells_for, manifest


def network_of(model: Model) -> ExpiMap:
    assert isinstance(model.network, ExpiMap)
    return model.network


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
    found = term_directions(model, method="sum")
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


def with_shares(model: Model, shares: dict[int, float]) -> Model:
    """The model with genes that take these parts of the counts, in every condition; the rest is shared evenly."""
    rest = (1 - sum(shares.values())) / (60 - len(shares))
    logs = torch.tensor([shares.get(gene, rest) for gene in range(60)]).log()
    tensors = model.network.tensors()
    model.network.load(tensors | {"decoder.condition.rows": logs.expand_as(tensors["decoder.condition.rows"]) + 3})
    return model


def test_directions_by_expression(model: Model) -> None:
    """The four genes by which program 2 falls hold hardly any counts in one model and most of them in the other."""
    rare, common = dict.fromkeys(range(22, 26), 0.0001), dict.fromkeys(range(22, 26), 0.05)
    found = term_directions(with_shares(model, rare))
    assert found.signs.tolist() == [0, 1, 1, 1, 0, 0, -1]
    assert found.confidence is None
    assert term_directions(with_shares(model, common)).signs.tolist() == [0, 1, -1, 1, 0, 0, -1]
    assert network_of(model).expected_shares()[22] == pytest.approx(0.05)


def test_a_program_falls_where_other_genes_rise_more() -> None:
    """With a soft mask: all of the program's own weights are positive, and the largest one is of a gene outside it."""
    model = Model.build(manifest("expimap", soft_mask=True))
    weights = torch.zeros(60, 6)
    weights[8:18, 1], weights[40, 1] = 0.1, 2.0
    model.network.load(model.network.tensors() | {"decoder.programs.0.weight": weights})
    assert term_directions(model, method="sum").signs[1] == 1
    assert term_directions(with_shares(model, {40: 0.3})).signs[1] == -1
    assert term_directions(with_shares(model, {40: 1e-6})).signs[1] == 1


def test_directions_are_those_of_what_is_decoded(model: Model) -> None:
    """By the decoder itself: the square roots of a program's shares, at scores just above and below 0."""
    generator = torch.Generator().manual_seed(1)
    shares = torch.softmax(2 * torch.randn(60, generator=generator), dim=0).tolist()
    tensors = with_shares(model, dict(enumerate(shares[:59]))).network.tensors()
    mask = tensors["decoder.programs.0.weight"].new_tensor(
        [[g in t.genes for t in model.manifest.terms] for g in model.manifest.genes.names]
    )
    random = torch.randn(60, 6, generator=generator) * mask[:, :6]
    model.network.load(tensors | {"decoder.programs.0.weight": random})
    network, codes, step = network_of(model).double(), torch.arange(3), 1e-5
    for position, sign in enumerate(network.directions()[:6]):
        z = torch.zeros(3, 7, dtype=torch.float64)
        z[:, position] = step
        above, below = (
            torch.softmax(network.decoder(at, codes), 1).sqrt() @ mask[:, position].double() for at in (z, -z)
        )
        assert torch.sign(above - below).tolist() == [sign] * 3


def test_surgery_leaves_directions_alone(model: Model) -> None:
    """Of the reference's terms, whatever the query's condition looks like, also after a second surgery."""
    before = term_directions(with_shares(model, dict.fromkeys(range(22, 26), 0.0001))).signs
    for batches in (("q0", "q1"), ("r0",)):
        grown = surgery(
            model, cells_for(model.manifest, batches, labelled=False), extensions=Extensions(unconstrained=1)
        )
        table = network_of(grown).decoder.condition
        assert isinstance(table, GrowingTable)
        with torch.no_grad():
            table.query[:, 22:26] = 9.0
        grown.describe()
        assert [term.direction for term in grown.manifest.terms[:7]] == before.tolist()
        model = grown


def test_without_shares_the_sum_decides() -> None:
    model = Model.build(manifest("expimap", likelihood="mse"))
    assert_array_equal(term_directions(model).signs, term_directions(model, method="sum").signs)


def test_without_conditions_all_genes_count_alike(model: Model) -> None:
    bare = Model.build(manifest("expimap", conditions=()))
    assert_array_equal(network_of(bare).expected_shares(), np.full(60, 1 / 60))
    assert set(term_directions(bare).signs) <= {-1, 1}


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
    with pytest.raises(errors.InvalidInput, match="method is 'mean'; it is one of expression, sum, counts"):
        term_directions(model, method="mean")  # type: ignore[arg-type]
    with pytest.raises(errors.Unsupported, match="trvae has no gene programs"):
        active_terms(Model.build(manifest("trvae")))
