"""expiMap's own rules; what it shares with the others is in tests/contract, its numbers in test_golden_expimap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from hub_client import errors
from hub_client.checks.verify import with_test_vectors
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.labels.predict import predict
from hub_client.manifest.plan import EarlyStopping, Plan
from hub_client.manifest.v1 import Manifest, Term
from hub_client.models.architectures.expimap import ExpiMap, share
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, add_label, retraining, surgery
from hub_client.models.train import train
from hub_client.nn.layers import MaskedLinear
from hub_client.nn.training import History
from hub_client.programs.terms import active_terms
from hub_client.release import folder as release_folder
from hub_client.release.versioning import needed
from tests.simulated import GENES, QUERY, SECOND_QUERY, cells_for, manifest

SHORT = Plan(epochs=3, batch_size=64, kl_anneal_epochs=0)
OWN = Term(id="Q:1", name="a program of the query", genes=GENES[40:50], source="the lab")
ADDED = Extensions(constrained=[OWN], unconstrained=2)


def network_of(model: Model) -> ExpiMap:
    assert isinstance(model.network, ExpiMap)
    return model.network


def program(model: Model, block: int = 0) -> MaskedLinear:
    found = network_of(model).decoder.programs[block]
    assert isinstance(found, MaskedLinear)
    return found


def trained(described: Manifest, **plan: Any) -> tuple[Model, History]:
    model = Model.build(described)
    history = train(model, cells_for(described), plan=SHORT.model_copy(update=plan), progress=False, accelerator="cpu")
    return model, history


def query_of(model: Model, **options: Any) -> Cells:
    return cells_for(model.manifest, QUERY, cells=90, labelled=False, **options)


def latent(model: Model, cells: Cells) -> NDArray[np.float32]:
    return embed(model, cells, device="cpu")


def fit(model: Model, cells: Cells, **plan: Any) -> Model:
    train(model, cells, plan=SHORT.model_copy(update=plan), progress=False, accelerator="cpu")
    return model


def outside(described: Manifest) -> NDArray[np.bool_]:
    """Which weights are outside the annotated programs, ``(genes, terms)``."""
    found = np.ones((len(GENES), 6), dtype=bool)
    for position, term in enumerate(described.terms[:6]):
        found[np.isin(GENES, term.genes), position] = False
    return found


# --- masks and penalties ---------------------------------------------------------------------------------------------


def test_a_hard_mask_keeps_weights_inside() -> None:
    described = manifest("expimap")
    model, _ = trained(described, weight_decay=0.01)
    weights = network_of(model).term_weights()
    assert_array_equal(weights != 0, ~outside(described))


def test_a_soft_mask_lets_weights_out() -> None:
    described = manifest("expimap", soft_mask=True)
    weights = network_of(trained(described)[0]).term_weights()
    assert (weights != 0).all()


def test_l1_draws_weights_back_inside_a_soft_mask() -> None:
    described = manifest("expimap", soft_mask=True)
    out, zeros = outside(described), {}
    for penalty in (0.5, 5.0, 500.0):
        weights = network_of(trained(described, soft_mask_l1=penalty)[0]).term_weights()
        zeros[penalty] = (weights[out] == 0).mean()
        assert (weights[~out] != 0).all()
    assert 0 < zeros[0.5] < zeros[5.0] < zeros[500.0] == 1


def test_the_mask_is_the_manifests_alone(tmp_path: Path) -> None:
    """No tensor of a release says it, and a loaded model has it."""
    described = manifest("expimap", constrained=1, unconstrained=1)
    model, _ = trained(described)
    loaded = Model.load(model.save(tmp_path / "release"))
    assert [name for name in model.tensors() if "mask" in name] == []
    assert torch.equal(program(loaded, 1).mask, program(model, 1).mask)
    assert program(loaded, 1).mask.sum(0).tolist() == [10, 60]


def test_the_group_lasso_empties_whole_terms() -> None:
    described = manifest("expimap")
    active = {}
    for penalty in (0.0, 20.0, 2000.0):
        model, _ = trained(described, group_lasso=penalty, epochs=10)
        weights = network_of(model).term_weights()
        active[penalty] = int(active_terms(model).sum())
        assert [term.active for term in model.manifest.terms] == (weights != 0).any(0).tolist()
        assert ((weights != 0).sum(0)[active_terms(model)] == 10).all()
    assert 6 == active[0.0] > active[20.0] > active[2000.0] == 0


def test_the_group_lasso_is_scaled_term_by_term() -> None:
    model, _ = trained(manifest("expimap"), group_lasso=2000.0, group_lasso_scale=(0, 1, 0, 1, 1, 0))
    assert [term.active for term in model.manifest.terms] == [True, False, True, False, False, True]
    assert model.manifest.terms[1].direction == 0


def test_a_scale_for_each_annotated_term() -> None:
    before = Model.build(manifest("expimap")).tensors()
    model = Model.build(manifest("expimap"))
    with pytest.raises(errors.InvalidInput, match="has 2 numbers for 6 annotated terms"):
        fit(model, cells_for(model.manifest), group_lasso=1.0, group_lasso_scale=(1.0, 2.0))
    assert all(torch.equal(model.tensors()[name], before[name]) for name in before)


def test_penalties_follow_the_learning_rate() -> None:
    """Once early stopping cuts it, weights lose as much less in a step."""
    model = Model.build(manifest("expimap"))
    weight, plan = program(model).weight, Plan(group_lasso=1.0)
    lengths = [torch.linalg.vector_norm(weight.detach(), dim=0)]
    for rate in (1e-2, 1e-3):
        network_of(model).after_step(plan, rate, epoch=0)
        lengths.append(torch.linalg.vector_norm(weight.detach(), dim=0))
    assert_allclose(lengths[0] - lengths[1], np.full(6, 1e-2), rtol=1e-3)
    assert_allclose(lengths[1] - lengths[2], np.full(6, 1e-3), rtol=1e-2)


def test_training_gives_penalties_the_rate_of_the_step() -> None:
    seen = []

    class Watched(ExpiMap):
        def after_step(self, plan: Plan, learning_rate: float, *, epoch: int) -> None:
            seen.append((epoch, learning_rate))

    described = manifest("expimap")
    model = Model(described, Watched.build(described))
    rule = EarlyStopping(patience=1, reduce_patience=1, threshold=1e9, reduce_factor=0.5)
    fit(model, cells_for(described), early_stopping=rule, epochs=4, batch_size=300)
    assert seen == [(0, 1e-3), (1, 1e-3)]
    seen.clear()
    rule = EarlyStopping(patience=3, reduce_patience=1, threshold=1e9, reduce_factor=0.5)
    fit(model, cells_for(described), early_stopping=rule, epochs=5, batch_size=300)
    assert seen == [(0, 1e-3), (1, 1e-3), (2, 1e-3), (3, 1e-3), (4, 5e-4)]


def test_a_penalty_rises_in_steps() -> None:
    """As scArches 0.6.1 anneals, epoch by epoch."""
    assert [share(epoch, epochs=0, every=5) for epoch in (0, 7)] == [1, 1]
    assert [share(epoch, epochs=10, every=5) for epoch in range(12)] == [0.1] * 6 + [0.5] * 5 + [1.0]
    assert [share(epoch, epochs=4, every=1) for epoch in range(7)] == [0.25, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert share(100, epochs=4, every=1) == 1.0


@pytest.mark.parametrize(
    ("penalty", "described", "block", "columns"),
    [
        ("soft_mask_l1", manifest("expimap", soft_mask=True), 0, [0, 1, 2, 3, 4, 5]),
        ("soft_mask_l1", manifest("expimap", constrained=2, unconstrained=1, soft_extension_mask=True), 1, [0, 1]),
        ("extension_l1", manifest("expimap", constrained=1, unconstrained=2), 1, [1, 2]),
    ],
)
def test_annealed_penalties(penalty: str, described: Manifest, block: int, columns: list[int]) -> None:
    """Each moves its own weights by its share of the full step, and no others."""
    plan = Plan.model_validate({penalty: 1.0, f"{penalty}_anneal_epochs": 10, f"{penalty}_anneal_every": 2})
    for epoch, part in ((0, 0.1), (5, 0.4), (30, 1.0)):
        model = Model.build(described)
        before = network_of(model).tensors()
        network_of(model).after_step(plan, 0.01, epoch=epoch)
        after = network_of(model).tensors()
        name = f"decoder.programs.{block}.weight"
        assert {key for key in after if not torch.equal(after[key], before[key])} == {name}
        moved = (before[name].abs() - after[name].abs()).numpy()
        assert moved[:, columns].max() == pytest.approx(part * 0.01, rel=1e-3)
        rest = np.delete(moved, columns, axis=1)
        assert not rest.any()


def test_extensions_are_drawn_to_zero_by_l1() -> None:
    described = manifest("expimap", constrained=1, unconstrained=2)
    model, _ = trained(described, extension_l1=500.0)
    weights = network_of(model).term_weights()
    assert not weights[:, 7:].any()
    assert weights[:, 6].any()
    assert [term.active for term in model.manifest.terms] == [True] * 7 + [False] * 2


# --- the objective ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_vs_all", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_terms(one_vs_all: bool) -> None:
    described = manifest("expimap", constrained=1, unconstrained=2, hsic=True, hsic_one_vs_all=one_vs_all)
    network = ExpiMap.build(described)
    batch = network.batches(cells_for(described)).take(torch.arange(32))
    terms = network(batch, kl_weight=0.3, hsic_weight=2.0, sample=False)
    assert float(terms["hsic"].detach()) > 0
    assert torch.allclose(terms["loss"], terms["reconstruction"] + 0.3 * terms["kl"] + 2 * terms["hsic"])
    assert torch.allclose(terms["unweighted"], terms["reconstruction"] + terms["kl"] + terms["hsic"])


@pytest.mark.parametrize("options", [{"hsic": True}, {"unconstrained": 2}, {"hsic": True, "constrained": 1}])
def test_no_dependence_is_measured(options: dict[str, Any]) -> None:
    """Without unconstrained terms, or where nobody asked."""
    described = manifest("expimap", **options)
    network = ExpiMap.build(described)
    batch = network.batches(cells_for(described)).take(torch.arange(32))
    assert float(network(batch)["hsic"].detach()) == 0


def test_dependence_is_made_smaller() -> None:
    found = {}
    for weight in (0.0, 1000.0):
        described = manifest("expimap", unconstrained=1, hsic=True)
        _, history = trained(described, hsic_weight=weight, epochs=20, learning_rate=5e-3)
        found[weight] = history.epochs["validation_hsic"].iloc[-1]
    assert found[1000.0] < 0.5 * found[0.0]


def test_plans_weights() -> None:
    network = ExpiMap.build(manifest("expimap"))
    plan = Plan(kl_weight=0.5, kl_anneal_epochs=20, hsic_weight=3.0)
    found = [network.objective(plan, epoch) for epoch in (0, 10, 30)]
    assert found == [{"kl_weight": w, "hsic_weight": 3.0} for w in (0.0, 0.25, 0.5)]


@pytest.mark.parametrize("layer", ["softmax", "softplus", "exp", "relu"])
def test_last_layers_of_counts(layer: str) -> None:
    model, history = trained(manifest("expimap", last_layer=layer), epochs=8, learning_rate=5e-3)
    losses = history.epochs["train_reconstruction"]
    assert losses.iloc[-1] < losses.iloc[0]
    batch = network_of(model).batches(cells_for(model.manifest)).take(torch.arange(8))
    network = network_of(model)
    mean = network.decode(batch, network.encode(batch)[0]).mean
    assert (mean >= 0).all()
    assert torch.allclose(mean.sum(1), batch.size_factor) == (layer == "softmax")


@pytest.mark.parametrize("layer", [None, "identity", "softplus", "exp", "relu"])
def test_last_layers_of_log_counts(layer: str | None) -> None:
    _, history = trained(manifest("expimap", likelihood="mse", last_layer=layer), epochs=8, learning_rate=5e-3)
    losses = history.epochs["train_reconstruction"]
    assert losses.iloc[-1] < losses.iloc[0]


@pytest.mark.slow
def test_library_sizes_are_inferred() -> None:
    """From expression, not from the observed ones, which may be anything then."""
    model, _ = trained(manifest("expimap", library_encoder=True), epochs=60, learning_rate=1e-2, early_stopping=None)
    network = network_of(model)
    batch = network.batches(cells_for(model.manifest)).take(torch.arange(240))
    conditions = network.condition_inputs(batch)
    found = network.size_factor(batch, conditions, noise=None, sample=False).detach()
    assert np.corrcoef(found.log(), batch.size_factor.log())[0, 1] > 0.8
    before = network.reconstruction(batch, network.encode(batch)[0])
    batch.size_factor = batch.size_factor * 3
    assert torch.equal(network.reconstruction(batch, network.encode(batch)[0]), before)


def test_gene_programs_that_tell_types_apart_are_active() -> None:
    model, _ = trained(manifest("expimap"), epochs=30, learning_rate=5e-3)
    found = predict(with_atlas(model, cells_for(model.manifest)), cells_for(model.manifest, cells=120, seed=5))
    truth = cells_for(model.manifest, cells=120, seed=5).labels["cell_type"]
    assert (found.levels["cell_type"].labels == truth).mean() > 0.8


def test_several_condition_keys_are_refused_by_name() -> None:
    with pytest.raises(errors.ManifestError, match="2: batch, tech"):
        Model.build(manifest("expimap", conditions=("batch", "tech")))


def test_no_conditions() -> None:
    model, _ = trained(manifest("expimap", conditions=()))
    assert [name for name in model.tensors() if "condition" in name] == []
    assert latent(model, cells_for(model.manifest)).shape == (240, 6)


def test_no_label_can_be_added() -> None:
    model, _ = trained(manifest("expimap"))
    with pytest.raises(errors.Unsupported, match="expimap has no prototypes"):
        add_label(model, "cell_type", label="novel", clusters=[0], cells=cells_for(model.manifest))


def test_decoder_layer() -> None:
    model, _ = trained(manifest("expimap", unconstrained=1))
    cells, network = cells_for(model.manifest), network_of(model)
    points = network.embed(cells)
    whole = network.decoder_layer(cells, points)
    assert whole.shape == (240, 60)
    assert_allclose(network.decoder_layer(cells, points, batch_size=7), whole, rtol=1e-5, atol=1e-6)
    weights, step = network.term_weights(), np.eye(7, dtype=np.float32)[3]
    assert_allclose(network.decoder_layer(cells, points + step) - whole, np.tile(weights[:, 3], (240, 1)), atol=1e-5)


# --- surgery with new terms ------------------------------------------------------------------------------------------


def test_new_terms_stand_behind_the_old_ones() -> None:
    reference, _ = trained(manifest("expimap", constrained=1, unconstrained=1))
    model = surgery(reference, query_of(reference), extensions=ADDED)
    new = model.manifest.terms[8:]
    assert model.manifest.terms[:8] == reference.manifest.terms
    assert [(t.name, t.kind, t.added_in) for t in new] == [
        ("a program of the query", "constrained", "1.1.0"),
        ("unconstrained_1", "unconstrained", "1.1.0"),
        ("unconstrained_2", "unconstrained", "1.1.0"),
    ]
    assert (new[0].genes, new[0].source) == (OWN.genes, "the lab")
    config = network_of(model).config
    assert (config.constrained_extensions, config.unconstrained_extensions, config.hsic) == (2, 3, False)
    assert latent(model, query_of(reference)).shape == (90, 11)


@pytest.mark.parametrize("soft", [False, True])
def test_new_terms_are_trained_and_old_columns_stay(soft: bool, tmp_path: Path) -> None:
    described = manifest("expimap", normalization="batch", soft_mask=soft, constrained=1, soft_extension_mask=soft)
    reference, _ = trained(described)
    cells, query = cells_for(reference.manifest), query_of(reference)
    before = latent(reference, cells)
    model = surgery(reference, query, extensions=Extensions(constrained=[OWN], unconstrained=2, soft=soft, hsic=True))
    started = model.network.tensors()
    fit(model, query, group_lasso=50.0, extension_l1=0.5, soft_mask_l1=0.5)
    assert_array_equal(latent(model, cells)[:, :7], before)
    assert np.abs(latent(model, cells)[:, 7:]).max() > 0
    moved = {name for name, rows in model.network.tensors().items() if not torch.equal(rows, started[name])}
    assert {name for name in moved if not name.endswith(".rows")} == {
        *(f"encoder.heads.2.{part}.{leaf}" for part in ("mean", "log_variance") for leaf in ("weight", "bias")),
        "decoder.programs.2.weight",
    }
    loaded = Model.load(model.save(tmp_path / "release"))
    fit(loaded, query)
    assert_array_equal(latent(loaded, cells)[:, :7], before)
    assert not torch.equal(program(loaded, 2).weight, program(model, 2).weight)


def test_masks_of_new_terms() -> None:
    reference, _ = trained(manifest("expimap"))
    query = query_of(reference)
    for soft in (False, True):
        options = Extensions(constrained=[OWN], unconstrained=1, soft=soft)
        model = fit(surgery(reference, query, extensions=options), query)
        weights = network_of(model).term_weights()[:, 6:]
        inside = np.isin(GENES, OWN.genes)
        assert (weights[inside] != 0).all()
        assert (weights[~inside, 0] != 0).all() == soft
        assert (weights[~inside, 0] == 0).all() != soft
        assert (weights[:, 1] != 0).all()


def test_terms_without_new_conditions() -> None:
    """A query of known conditions can be searched for programs of its own."""
    reference, _ = trained(manifest("expimap"))
    cells = cells_for(reference.manifest)
    before = latent(reference, cells)
    model = fit(surgery(reference, cells, extensions=ADDED), cells)
    assert_array_equal(latent(model, cells)[:, :6], before)


def test_a_second_cohort_leaves_the_terms_of_the_first_where_they_were() -> None:
    reference, _ = trained(manifest("expimap"))
    first = query_of(reference)
    once = fit(surgery(reference, first, extensions=ADDED), first)
    cells = cells_for(reference.manifest)
    before = [latent(once, part) for part in (cells, first)]
    second = cells_for(reference.manifest, SECOND_QUERY, cells=70, seed=2, labelled=False)
    other = Term(id="Q:2", name="another program", genes=GENES[1:4])
    twice = fit(surgery(once, second, extensions=Extensions(constrained=[other], unconstrained=1)), second)
    assert [term.kind for term in twice.manifest.terms[6:]] == [
        *("constrained", "unconstrained", "unconstrained"),
        *("constrained", "unconstrained"),
    ]
    assert [term.name for term in twice.manifest.terms if term.kind == "unconstrained"][-1] == "unconstrained_2"
    for part, expected in zip((cells, first), before, strict=True):
        assert_array_equal(latent(twice, part)[:, :9], expected)
    third = fit(surgery(twice, first.rows(np.arange(5)), extensions=Extensions(unconstrained=1)), first)
    assert_array_equal(latent(third, first)[:, :9], before[1])


def test_old_extensions_can_be_trained_again() -> None:
    reference, _ = trained(manifest("expimap", constrained=1, unconstrained=1, normalization="batch"))
    cells, query = cells_for(reference.manifest), query_of(reference)
    before = latent(reference, cells)
    model = fit(surgery(reference, query, extensions=Extensions(unconstrained=1, retrain=True)), query)
    assert model.manifest.lineage is not None
    assert model.manifest.lineage.retrained_extensions
    after = latent(model, cells)
    assert_array_equal(after[:, :6], before[:, :6])
    assert np.abs(after[:, 6:8] - before[:, 6:8]).max() > 1e-4


def test_a_model_that_may_move_trains_its_new_terms_too() -> None:
    reference, _ = trained(manifest("expimap"))
    query = query_of(reference)
    free = retraining(surgery(reference, query, extensions=ADDED), parts="expression")
    before = free.network.tensors()
    fit(free, query)
    moved = {name for name, rows in free.network.tensors().items() if not torch.equal(rows, before[name])}
    expected = ["encoder.hidden.first", "decoder", "theta", "encoder.heads.1"]
    assert {name for name in moved if not name.startswith(tuple(expected))} == set()
    assert all(any(name.startswith(part) for name in moved) for part in expected)


def test_labels_come_from_the_columns_the_atlas_has(tmp_path: Path) -> None:
    model, _ = trained(manifest("expimap"), epochs=30, learning_rate=5e-3)
    model = with_test_vectors(with_atlas(model, cells_for(model.manifest)), cells_for(model.manifest))
    query = query_of(model)
    known = fit(surgery(model, query), query)
    grown = fit(surgery(model, query, extensions=Extensions(unconstrained=2)), query, extension_l1=500.0)
    loaded = Model.load(grown.save(tmp_path / "release"))
    found = [predict(m, query, device="cpu").levels["cell_type"].labels for m in (known, grown, loaded)]
    assert (found[0] == found[1]).mean() > 0.95
    assert_array_equal(found[1], found[2])


def test_test_vectors_do_not_outlive_the_latent_they_are_of() -> None:
    model, _ = trained(manifest("expimap"))
    model = with_test_vectors(model, cells_for(model.manifest))
    grown = surgery(model, query_of(model), extensions=ADDED)
    assert (grown.manifest.test_vectors, dict(grown.extras)) == (None, {})
    same = surgery(model, query_of(model))
    assert same.extras == model.extras
    assert same.manifest.test_vectors == model.manifest.test_vectors


def test_new_terms_need_a_minor_version(tmp_path: Path) -> None:
    reference, _ = trained(manifest("expimap", constrained=1))
    query = query_of(reference)
    grown = fit(surgery(reference, query, extensions=ADDED), query)
    again = fit(surgery(reference, query, extensions=Extensions(retrain=True)), query)
    old, new, moved = (m.save(tmp_path / str(number)) for number, m in enumerate((reference, grown, again)))
    assert needed(release_folder.read(old), release_folder.read(new))[0] == "minor"
    assert needed(release_folder.read(old), release_folder.read(moved))[0] == "major"


def test_surgery_with_terms_is_seeded() -> None:
    reference, _ = trained(manifest("expimap"))
    first, again, other = (
        surgery(reference, query_of(reference), seed=seed, extensions=ADDED).tensors() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.programs.1.weight"], other["decoder.programs.1.weight"])


def test_terms_that_cannot_be_added() -> None:
    reference, _ = trained(manifest("expimap", constrained=1))
    query = query_of(reference)
    cases: list[tuple[Extensions, type[Exception], str]] = [
        (
            Extensions(constrained=[OWN.model_copy(update={"id": "P:0"})]),
            errors.ManifestError,
            "term ids must be unique",
        ),
        (Extensions(constrained=[Term(id="x", name="x", genes=("g60",))]), errors.ManifestError, "not of the panel"),
        (Extensions(unconstrained=-1), errors.InvalidInput, "unconstrained is -1"),
        (Extensions(constrained=[OWN], soft=True), errors.InvalidInput, "hard masks"),
    ]
    for extensions, error, message in cases:
        with pytest.raises(error, match=message):
            surgery(reference, query, extensions=extensions)
    other = Model.build(manifest("trvae"))
    with pytest.raises(errors.Unsupported, match="trvae has no gene programs"):
        surgery(other, query_of(other), extensions=ADDED)
