"""expiMap against the numbers scArches 0.6.1 computes; tests/golden/README.md says how they were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from hub_client.data.batches import Batch
from hub_client.interop import expimap as legacy
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Term
from hub_client.models.architectures._vae import VARIANCE_FLOOR
from hub_client.models.architectures.expimap import LAST_LAYERS, ExpiMap
from hub_client.models.model import Model
from hub_client.models.surgery import Extensions, surgery
from hub_client.programs.enrichment import bayes_factors
from hub_client.programs.terms import active_terms, program_genes, term_directions, term_genes
from tests.golden.recorded import Recording, arrays

REFERENCES = ["expimap_nb", "expimap_nb_strong", "expimap_soft_lenc", "expimap_softplus", "expimap_mse"]
QUERIES = ["expimap_nb_query", "expimap_nb_query_ext", "expimap_nb_query_ext_hard"]
ENRICHED = ["expimap_nb", "expimap_nb_strong", "expimap_soft_lenc", "expimap_nb_query", "expimap_nb_query_ext"]
COUNTED = [name for name in REFERENCES + QUERIES if name != "expimap_mse"]
STEPPED = {
    "expimap_nb": {"group_lasso": 0.7},
    "expimap_nb_query_ext": {"extension_l1": 0.7, "soft_mask_l1": 0.5},
}
"""The penalties of the recorded Adam steps."""
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}

every = pytest.mark.parametrize("name", REFERENCES + QUERIES)
queries = pytest.mark.parametrize("name", QUERIES)
stepped = pytest.mark.parametrize("name", STEPPED)


def at_fixed(name: str) -> tuple[Recording, ExpiMap, Batch, torch.Tensor]:
    """The recording, its network, its first 16 cells and the latent the decoder was recorded at."""
    recording = Recording(name)
    network = network_of(recording.model())
    batch = network.batches(recording.cells()).take(torch.arange(16))
    return recording, network, batch, torch.from_numpy(recording.forward["z_fixed"])


def network_of(model: Model) -> ExpiMap:
    assert isinstance(model.network, ExpiMap)
    return model.network


def value(tensor: torch.Tensor) -> NDArray[Any]:
    found: NDArray[Any] = tensor.detach().numpy()
    return found


def noise_of(recording: Recording) -> dict[str, torch.Tensor]:
    """The recorded draws; the library size's is the first column of the latent's."""
    noise = torch.from_numpy(recording.forward["eps"])
    return {"noise": noise, "library_noise": noise[:, :1]}


def kl_weight(recording: Recording) -> float:
    return 0.5 if recording.reference is None else 0.1


# --- the function ----------------------------------------------------------------------------------------------------


@every
def test_codes(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    codes = network.condition_inputs(batch)
    assert codes is not None
    assert_array_equal(value(codes), recording.forward["batch_codes"])
    assert_allclose(value(batch.size_factor), recording.forward["sizefactor"], rtol=1e-6)


@every
def test_encoder(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    mean, variance = network.encode(batch)
    assert_allclose(value(mean), recording.forward["enc_mean"], **CLOSE)
    assert_allclose(value(variance), np.exp(recording.forward["enc_logvar"]) + VARIANCE_FLOOR, **CLOSE)


@every
def test_decoder(name: str) -> None:
    recording, network, batch, z = at_fixed(name)
    outputs = network.decoder(z, network.condition_inputs(batch))
    assert_allclose(value(outputs), recording.forward["dec_y_first_layer"], **CLOSE)
    assert_allclose(value(LAST_LAYERS[network.config.mean_layer](outputs)), recording.forward["dec_out0"], **CLOSE)


@pytest.mark.parametrize("name", COUNTED)
def test_dispersion_and_likelihood(name: str) -> None:
    """At the latent that was fixed, with the observed library size also where the model infers it."""
    recording, network, batch, z = at_fixed(name)
    assert_allclose(value(network.log_theta[batch.combinations].exp()), recording.forward["dispersion"], **CLOSE)
    network.library_encoder = None
    decoded = network.decode(batch, z)
    assert_allclose(value(decoded.mean)[:2], recording.forward["dec_mean_first2"], rtol=1e-5, atol=1e-4)
    assert_allclose(value(network.reconstruction(batch, z)), recording.forward["nll_per_cell_zfixed"], rtol=1e-5)


@every
def test_losses(name: str) -> None:
    """With total counts and inferred library sizes; dependence of all extensions at once and one by one."""
    recording, network, batch, _ = at_fixed(name)
    terms = network(batch, kl_weight=kl_weight(recording), **noise_of(recording))
    for ours, theirs in (("reconstruction", "recon"), ("kl", "kl"), ("hsic", "third"), ("loss", "total")):
        assert_allclose(value(terms[ours]), recording.forward[f"loss_{theirs}"], rtol=1e-5)
    assert (float(terms["hsic"].detach()) > 0) == network.config.hsic


@every
def test_latent(name: str) -> None:
    recording = Recording(name)
    model = recording.model()
    mean, variance = network_of(model).posterior(recording.cells())
    assert_allclose(mean, recording.outputs["latent_mean"], rtol=0, atol=1e-5)
    assert_allclose(variance, recording.outputs["latent_var"], rtol=0, atol=1e-5)
    active = mean[:, active_terms(model)]
    assert_allclose(active, recording.outputs["latent_mean_only_active"], rtol=0, atol=1e-5)


@every
def test_decoder_layer(name: str) -> None:
    """scArches' get_y without noise."""
    recording = Recording(name)
    network, cells = network_of(recording.model()), recording.cells().rows(np.arange(24))
    found = network.decoder_layer(cells, network.embed(cells), batch_size=7)
    assert_allclose(found, recording.outputs["y_eps0_first24"], **CLOSE)


# --- gradients and steps ---------------------------------------------------------------------------------------------


@stepped
def test_gradients(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    network(batch, kl_weight=kl_weight(recording), **noise_of(recording))["loss"].backward()
    found = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    expected = expected_tensors(recording, "grad__")
    tables = {key.replace(part, ".rows") for key in found for part in (".reference", ".query")}
    assert set(expected) <= tables | set(found)
    for key, gradient in found.items():
        theirs = _rows(key, expected, reference=3)
        scale = float(theirs.abs().max())
        assert_allclose(value(gradient), value(theirs), rtol=1e-4, atol=1e-5 * scale, err_msg=key)


def _rows(key: str, expected: dict[str, torch.Tensor], *, reference: int) -> torch.Tensor:
    """The recorded rows of a parameter; a table has its reference's and its query's rows apart."""
    table, _, part = key.rpartition(".")
    parts = {"reference": slice(None, reference), "query": slice(reference, None)}
    return expected[f"{table}.rows"][parts[part]] if part in parts else expected[key]


def expected_tensors(recording: Recording, prefix: str) -> dict[str, torch.Tensor]:
    """A recorded set of arrays with scArches' names, under ours."""
    state = {name.removeprefix(prefix): a for name, a in recording.forward.items() if name.startswith(prefix)}
    return legacy.tensors_of(state, recording.attributes, reference=recording.described["reference"])


def adam_steps(network: ExpiMap, batch: Batch, plan: Plan, *, steps: int, **options: Any) -> list[float]:
    """Losses of some Adam steps on one minibatch, without dropout, as the training loop takes them."""
    optimizer = torch.optim.Adam(network.parameter_groups(plan), lr=plan.learning_rate, eps=plan.adam_epsilon)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = network(batch, **options)["loss"]
        loss.backward()
        optimizer.step()
        network.after_step(plan, plan.learning_rate, epoch=0)
        losses.append(loss.item())
    return losses


@stepped
def test_adam_steps_with_penalties(name: str) -> None:
    """What the query trains agrees; its reference rows stay here, and in scArches weight decay moves them."""
    recording, network, batch, _ = at_fixed(name)
    before = network.tensors()
    plan = Plan(learning_rate=1e-3, adam_epsilon=0.01, weight_decay=0.04, **STEPPED[name])
    losses = adam_steps(network, batch, plan, steps=3, kl_weight=kl_weight(recording), **noise_of(recording))
    assert_allclose(losses, recording.forward["adam3_losses"], rtol=1e-5)
    after, expected = network.tensors(), expected_tensors(recording, "adam3__")
    assert set(expected) == set(after)
    for key, theirs in expected.items():
        frozen = 3 if key.endswith(".rows") and recording.reference is not None else 0
        assert_array_equal(value(after[key])[:frozen], value(before[key])[:frozen], err_msg=key)
        assert_allclose(value(after[key])[frozen:], value(theirs)[frozen:], rtol=0, atol=1e-4, err_msg=key)


def test_penalties_make_the_recorded_zeros() -> None:
    recording, network, batch, _ = at_fixed("expimap_nb_query_ext")
    plan = Plan(learning_rate=1e-3, adam_epsilon=0.01, weight_decay=0.04, **STEPPED["expimap_nb_query_ext"])
    adam_steps(network, batch, plan, steps=3, kl_weight=0.1, **noise_of(recording))
    found = value(network.tensors()["decoder.programs.1.weight"])
    expected = value(expected_tensors(recording, "adam3__")["decoder.programs.1.weight"])
    assert_array_equal(found == 0, expected == 0)
    assert (expected == 0).any()


# --- terms -----------------------------------------------------------------------------------------------------------


@every
def test_terms(name: str) -> None:
    recording = Recording(name)
    model = recording.model()
    assert_array_equal(active_terms(model), recording.outputs["nonzero_terms"])
    by_sum, by_counts = (term_directions(model, method=method) for method in ("sum", "counts"))  # type: ignore[arg-type]
    assert_array_equal(by_sum.signs, recording.outputs["directions_sum"])
    assert_array_equal(by_counts.signs, recording.outputs["directions_counts"])
    assert by_counts.confidence is not None
    assert_allclose(by_counts.confidence, recording.outputs["directions_counts_confidence"], **CLOSE)
    assert [term.active for term in model.manifest.terms] == recording.outputs["nonzero_terms"].tolist()
    assert [term.direction for term in model.manifest.terms] == term_directions(model).signs.tolist()


def tables(recording: Recording, part: str) -> dict[str, dict[str, NDArray[Any]]]:
    """The recorded table of each term."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for key, values in recording.part(part).items():
        term, _, column = key.rpartition("/")
        found.setdefault(term, {})[column] = values
    return found


@every
def test_genes_of_terms(name: str) -> None:
    recording = Recording(name)
    model = recording.model()
    expected = tables(recording, "term_genes")
    assert len(expected) == len(model.manifest.terms)
    for position, columns in enumerate(expected.values()):
        found = term_genes(model, position)
        assert found["genes"].tolist() == columns["genes"].tolist()
        assert_allclose(found["weights"], columns["weights"], rtol=1e-6)
        assert_array_equal(found["in_mask"], columns["in_mask"])


@every
def test_genes_of_programs(name: str) -> None:
    recording = Recording(name)
    expected = [columns["genes"].tolist() for columns in tables(recording, "mask_genes").values()]
    assert list(program_genes(recording.model()).values()) == expected


def comparisons(recording: Recording) -> Iterator[tuple[str, str, str]]:
    """Each recorded comparison: its tag, its obs column and its category."""
    for key in recording.outputs:
        if key.startswith("enrich_") and key.endswith("__bf"):
            tag, category, _ = key.removeprefix("enrich_").split("__")
            yield tag, "cell_class" if tag == "sel" else "cell_type", category


@pytest.mark.parametrize("name", ENRICHED)
def test_enrichment(name: str) -> None:
    """From the recorded draws of cells."""
    recording = Recording(name)
    mean, variance = network_of(recording.model()).posterior(recording.cells())
    cells = arrays("cells", "ref" if recording.reference is None else "query")
    tags = set()
    for tag, column, category in comparisons(recording):
        labels, key = cells[f"obs_{column}"], f"enrich_{tag}__{category}__"
        one, other = recording.outputs[f"{key}idx1"], recording.outputs[f"{key}idx2"]
        assert set(labels[one]) == {category}
        assert category not in labels[other]
        scores = mean * recording.outputs["directions_sum"] if tag == "rest_dirs" else mean
        chosen = [1, 3, 4] if tag == "sel" else slice(None)
        found = bayes_factors(*((part[rows][:, chosen]) for rows in (one, other) for part in (scores, variance)))
        for part, values in found._asdict().items():
            assert_allclose(values, recording.outputs[key + part], rtol=0, atol=1e-5)
        tags.add(tag)
    assert tags == {"rest", "rest_dirs", "vs", "sel"}


# --- surgery ---------------------------------------------------------------------------------------------------------


def grown(recording: Recording) -> Model:
    """The reference after our surgery, with the terms that scArches' surgery added."""
    assert recording.reference is not None
    described, config = recording.model().manifest, network_of(recording.model()).config
    programs = [Term(id=t.id, name=t.name, genes=t.genes) for t in described.terms if t.kind == "constrained"]
    extensions = Extensions(
        constrained=tuple(programs),
        unconstrained=config.unconstrained_extensions,
        soft=config.soft_extension_mask,
        hsic=config.hsic,
        hsic_one_vs_all=config.hsic_one_vs_all,
    )
    wanted = extensions if programs else None
    return surgery(recording.reference.model(), recording.cells(), start="random", extensions=wanted)


@queries
def test_surgery_copies_what_scarches_copies(name: str) -> None:
    """Right after surgery all is the reference's but the new rows and terms; those are random there and here."""
    recording = Recording(name)
    assert recording.reference is not None
    reference = recording.described["reference"]
    theirs = legacy.tensors_of(recording.part("initial_state"), recording.attributes, reference=reference)
    old, ours = recording.reference.model().network.tensors(), grown(recording).network.tensors()
    assert {key: rows.shape for key, rows in ours.items()} == {key: rows.shape for key, rows in theirs.items()}
    assert {key for key in old if ours[key].shape != old[key].shape} == {key for key in old if key.endswith(".rows")}
    for key, rows in old.items():
        assert_array_equal(value(ours[key])[: len(rows)], value(rows), err_msg=key)
        assert_array_equal(value(theirs[key])[: len(rows)], value(rows), err_msg=key)


@queries
def test_surgery_describes_what_scarches_made(name: str) -> None:
    recording = Recording(name)
    ours, theirs = grown(recording).manifest, recording.model().manifest
    assert ours.architecture.model_copy(update={"dropout": 0.0}) == theirs.architecture
    for field in ("kind", "genes", "added_in"):
        assert [getattr(term, field) for term in ours.terms] == [getattr(term, field) for term in theirs.terms]


@queries
def test_only_what_scarches_trains_in_a_query_is_trained(name: str) -> None:
    """The query's part of it: rows of old conditions stay here."""
    recording = Recording(name)
    network = network_of(grown(recording))
    moving = {key for key, p in network.named_parameters() if p.requires_grad and p.numel()}
    trained = legacy.tensors_of(
        {key: values for key, values in recording.state.items() if key in recording.facts["trainable"]},
        recording.attributes,
        reference=recording.described["reference"],
    )
    assert moving == {key.replace(".rows", ".query") for key in trained}


@queries
def test_the_reference_in_a_query_model_is_where_it_was(name: str) -> None:
    """Its latent in the terms it had, to the bit."""
    recording = Recording(name)
    assert recording.reference is not None
    cells = recording.reference.cells()
    before, after = recording.reference.model().network.embed(cells), grown(recording).network.embed(cells)
    assert_array_equal(after[:, : before.shape[1]], before)
