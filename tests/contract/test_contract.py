"""What every architecture promises, for every example of :mod:`tests.contract.examples`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch import Tensor

from hub_client import errors
from hub_client.checks.verify import verify, with_test_vectors
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.hub.client import Hub
from hub_client.labels.evaluate import evaluate
from hub_client.labels.predict import predict
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures import ARCHITECTURES, Start
from hub_client.models.embed import embed
from hub_client.models.impute import impute_proteins
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests.contract.examples import EXAMPLES, SHORT, trained, untrained
from tests.simulated import GENES, QUERY, REFERENCE, SECOND_QUERY, cells_for, counts, log_counts

every = pytest.mark.parametrize("example", EXAMPLES)
starts = pytest.mark.parametrize("start", ["random", "mean", "best"])
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def fit(model: Model, cells: Cells, *, seed: int = 0, device: str = "cpu") -> Model:
    train(model, cells, plan=SHORT, seed=seed, progress=False, accelerator=device)
    return model


def latent(model: Model, cells: Cells, device: str = "cpu") -> NDArray[np.float32]:
    return embed(model, cells, device=device)


def query_of(model: Model) -> Cells:
    return cells_for(model.manifest, QUERY, cells=90, seed=1, labelled=False)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_every_architecture_has_an_example() -> None:
    assert {manifest.architecture.kind for manifest in EXAMPLES.values()} == set(ARCHITECTURES)


@every
def test_tensors_are_those_it_names(example: str) -> None:
    model = trained(example)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.network.tensors().items()}
    assert shapes == model.manifest.shapes()


@every
def test_save_then_load_gives_identical_latents(example: str, tmp_path: Path) -> None:
    model = trained(example)
    cells = cells_for(model.manifest)
    loaded = Model.load(model.save(tmp_path / "release"))
    assert same(loaded.tensors(), model.tensors())
    assert_array_equal(latent(loaded, cells), latent(model, cells))


@every
@starts
@devices
def test_surgery_leaves_the_reference_where_it_was(example: str, start: Start, device: str) -> None:
    reference = trained(example)
    cells = cells_for(reference.manifest)
    tensors, manifest, before = reference.tensors(), reference.manifest, latent(reference, cells, device)
    model = surgery(reference, query_of(reference), start=start)
    assert_array_equal(latent(model, cells, device), before)
    fit(model, query_of(reference), device=device)
    assert_array_equal(latent(model, cells, device), before)
    assert_array_equal(latent(reference, cells, device), before)
    assert same(reference.tensors(), tensors)
    assert reference.manifest is manifest


@every
@starts
def test_query_training_moves_only_what_surgery_added(example: str, start: Start) -> None:
    reference = trained(example)
    query = query_of(reference)
    model = surgery(reference, query, start=start)
    before = model.network.tensors()
    after = fit(model, query).network.tensors()
    old = reference.network.tensors()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    grown = {name for name in after if after[name].shape != old[name].shape}
    assert moved
    assert moved <= grown
    for name in grown:
        assert torch.equal(after[name][: len(old[name])], old[name]), name


@every
@starts
def test_surgery_is_seeded(example: str, start: Start) -> None:
    reference = trained(example)
    first, again, other = (surgery(reference, query_of(reference), start=start, seed=s) for s in (1, 1, 2))
    assert same(first.tensors(), again.tensors())
    assert same(first.tensors(), other.tensors()) == (start != "random")


@every
def test_a_second_cohort_leaves_the_first_where_it_was(example: str) -> None:
    reference = trained(example)
    first = query_of(reference)
    once = fit(surgery(reference, first), first)
    reference_cells = cells_for(reference.manifest)
    before = [latent(once, cells) for cells in (reference_cells, first)]
    second = cells_for(reference.manifest, SECOND_QUERY, cells=70, seed=2, labelled=False)
    twice = fit(surgery(once, second), second)
    assert [twice.manifest.version, once.manifest.version] == ["1.2.0", "1.1.0"]
    for cells, expected in zip((reference_cells, first), before, strict=True):
        assert_array_equal(latent(twice, cells), expected)


@every
def test_a_saved_query_model_goes_on_training_its_own_rows(example: str, tmp_path: Path) -> None:
    reference = trained(example)
    query, cells = query_of(reference), cells_for(reference.manifest)
    folder = fit(surgery(reference, query), query).save(tmp_path / "release")
    model, before = Model.load(folder), latent(reference, cells)
    saved = model.network.tensors()
    fit(model, query, seed=3)
    assert not same(model.network.tensors(), saved)
    assert_array_equal(latent(model, cells), before)


@every
def test_surgery_without_anything_new(example: str) -> None:
    reference = trained(example)
    cells = cells_for(reference.manifest)
    known = cells.rows(np.flatnonzero(cells.conditions["batch"] == REFERENCE[0]))
    model = surgery(reference, known)
    assert_array_equal(latent(model, known), latent(reference, known))
    with pytest.raises(errors.InvalidInput, match="nothing to train"):
        fit(model, known)


@every
def test_embed_does_not_depend_on_batch_size(example: str) -> None:
    model = trained(example)
    cells = cells_for(model.manifest)
    whole = latent(model, cells)
    for size in (1, 7, 1000):
        assert_allclose(embed(model, cells, batch_size=size, device="cpu"), whole, rtol=1e-5, atol=1e-5)


@every
def test_embed_does_not_depend_on_the_order_of_cells(example: str) -> None:
    model = trained(example)
    cells = cells_for(model.manifest)
    order = np.random.default_rng(0).permutation(len(cells))
    assert_allclose(latent(model, cells.rows(order)), latent(model, cells)[order], rtol=1e-5, atol=1e-5)


@every
def test_embed_does_not_depend_on_the_order_of_genes(example: str) -> None:
    model = trained(example)
    adata = counts(cells=50, proteins=model.manifest.proteins is not None)
    adata = log_counts(adata) if model.manifest.input.kind == "log1p" else adata
    shuffled = adata[:, np.random.default_rng(0).permutation(len(GENES))].copy()
    assert_array_equal(latent(model, align(shuffled, model)), latent(model, align(adata, model)))


@every
def test_embed_of_no_cells(example: str) -> None:
    model = trained(example)
    none = cells_for(model.manifest).rows(np.arange(0))
    assert latent(model, none).shape == (0, model.manifest.axes()["latent"])


@every
def test_an_epoch_lowers_the_loss(example: str) -> None:
    model = untrained(example)
    history = train(model, cells_for(model.manifest), plan=SHORT, progress=False, accelerator="cpu")
    for split in ("train", "validation"):
        losses = history.epochs[f"{split}_unweighted"]
        assert losses[1] < losses[0]


@every
def test_the_same_seed_gives_the_same_weights(example: str) -> None:
    models = [fit(untrained(example, seed=s), cells_for(EXAMPLES[example]), seed=s) for s in (1, 1, 2)]
    first, again, other = (model.tensors() for model in models)
    assert same(first, again)
    assert not same(first, other)


@every
def test_training_is_seeded_apart_from_the_start(example: str) -> None:
    one, two = (fit(untrained(example), cells_for(EXAMPLES[example]), seed=s).tensors() for s in (1, 2))
    assert not same(one, two)


@every
def test_the_callers_random_state_is_left_alone(example: str) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    ours, theirs = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = fit(untrained(example), cells_for(EXAMPLES[example]))
    query = query_of(model)
    predict(fit(surgery(model, query, start="random"), query), query)
    assert torch.equal(torch.get_rng_state(), ours)
    assert_array_equal(np.random.get_state()[1], theirs)


@every
def test_unknown_conditions_are_named(example: str) -> None:
    model = trained(example)
    for verb in (embed, predict, train):
        with pytest.raises(errors.VocabularyError, match="q0, q1") as caught:
            verb(model, query_of(model))
        assert caught.value.field == "batch"
        assert caught.value.unknown == QUERY


@every
def test_uncertainty_is_a_probability(example: str) -> None:
    model = trained(example)
    found = predict(model, cells_for(model.manifest), device="cpu")
    assert list(found.levels) == [level.key for level in model.manifest.labels]
    for level in found.levels.values():
        assert ((level.uncertainty >= 0) & (level.uncertainty <= 1)).all()
        assert_allclose(level.probabilities.sum(axis=1), 1.0, rtol=1e-6)


@every
def test_the_posterior_is_where_cells_are_embedded(example: str) -> None:
    model = trained(example)
    cells = cells_for(model.manifest)
    mean, variance = model.network.posterior(cells)
    assert_array_equal(mean, latent(model, cells))
    assert variance.shape == mean.shape
    assert (variance > 0).all()


@every
def test_every_gene_is_decoded(example: str) -> None:
    """What a cell's own point decodes to is nearer its counts than what the points of other cells do."""
    model = trained(example)
    network, cells = model.network, cells_for(model.manifest)
    batch = network.batches(cells).take(torch.arange(len(cells)))
    with torch.no_grad():
        z = network.encode(batch)[0]
        decoded, other = (network.decode(batch, points).mean for points in (z, z.flip(0)))
    assert decoded.shape == (len(cells), len(GENES))
    assert torch.isfinite(decoded).all()
    assert not torch.equal(decoded, other)


@every
def test_conditions_are_tried_by_their_losses(example: str) -> None:
    model = trained(example)
    cells = cells_for(model.manifest)
    (first, *_), own = REFERENCE, cells.rows(np.flatnonzero(cells.conditions["batch"] == REFERENCE[0]))
    losses = model.network.trial_losses(own, [{"batch": name} for name in REFERENCE])
    assert losses.shape == (len(REFERENCE),)
    expected = model.network.reconstruction_losses(own).mean(dtype=np.float64)
    assert losses[REFERENCE.index(first)] == expected


@every
def test_what_a_kind_has_not_is_refused_by_name(example: str) -> None:
    """The network and the config agree on what there is, and every refusal says which kinds have it."""
    model = trained(example)
    cells, config = cells_for(model.manifest).rows(np.arange(3)), model.manifest.architecture
    asked: dict[str, Callable[[], object]] = {
        "terms": model.network.term_weights,
        "proteins": lambda: impute_proteins(model, cells, samples=2),
    }
    for part, ask in asked.items():
        if part in config.parts:
            ask()
        else:
            with pytest.raises(errors.Unsupported, match=rf"{config.kind} has no .*; \w+ has\."):
                ask()
    if config.package is None:
        with pytest.raises(errors.Unsupported, match=r"no model of scvi-tools; these are scvi, scanvi, totalvi"):
            model.to_scvi()


@every
def test_gene_usage(example: str) -> None:
    usage = trained(example).network.gene_usage()
    assert usage.shape == (len(GENES),)
    assert (usage > 0).all()


@every
def test_the_manifest_survives_training_and_surgery(example: str) -> None:
    """What the facts and specs say goes into a manifest that is valid when read back."""
    reference = trained(example)
    query = query_of(reference)
    for model in (reference, fit(surgery(reference, query, start="best"), query)):
        assert Manifest.model_validate_json(model.manifest.to_bytes()) == model.manifest


@every
def test_a_reference_and_what_grew_from_it_come_back_from_a_hub(example: str, tmp_path: Path) -> None:
    """Test vectors replay, the query's version rises by a minor step, and all latents are those that were pushed."""
    hub, described = Hub(tmp_path / "hub"), trained(example).manifest
    cells = cells_for(described)
    hub.push(with_test_vectors(trained(example), cells), "lab/model")
    reference = hub.pull("lab/model")
    verify(reference)
    query = query_of(reference)
    grown = fit(surgery(reference, query), query)
    hub.push(grown, "lab/model")
    again = hub.pull("lab/model")
    assert (again.manifest.version, again.manifest.lineage and again.manifest.lineage.relation) == ("1.1.0", "surgery")
    verify(again)
    assert_array_equal(latent(again, query), latent(grown, query))
    assert_array_equal(latent(again, cells), latent(trained(example), cells))
    assert list(predict(again, query, device="cpu").levels) == [level.key for level in described.labels]


@every
def test_predictions_are_judged(example: str) -> None:
    model = trained(example)
    cells = cells_for(model.manifest)
    report = evaluate(predict(model, cells, device="cpu"), {key: cells.labels[key] for key in cells.labels})
    assert [level.level for level in report.levels] == [level.key for level in model.manifest.labels]
    assert all(0 <= level.accuracy <= 1 and level.cells == len(cells) for level in report.levels)


@every
def test_the_card_renders(example: str, tmp_path: Path) -> None:
    text = (trained(example).save(tmp_path / "release") / "README.md").read_text()
    assert "doi.org/10." in text
    assert f"{len(GENES)}" in text


@every
def test_a_network_that_is_loaded_draws_nothing(example: str) -> None:
    """And has nothing of its random start, which loading would have to replace."""
    model = trained(example)
    state = torch.random.get_rng_state()
    blank = type(model.network).blank(model.manifest)
    assert torch.equal(torch.random.get_rng_state(), state)
    drawn = type(model.network).build(model.manifest, seed=3)
    for network in (blank, drawn):
        network.load(model.network.tensors())
    assert same(blank.state_dict(), drawn.state_dict())
    assert same(dict(blank.named_buffers()), dict(drawn.named_buffers()))
