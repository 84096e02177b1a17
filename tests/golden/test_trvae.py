"""trVAE against the numbers scArches 0.6.1 computes; tests/golden/README.md says how they were recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from hub_client.data.batches import Batch
from hub_client.interop import trvae as legacy
from hub_client.manifest.plan import Plan
from hub_client.models.architectures._vae import VARIANCE_FLOOR
from hub_client.models.architectures.trvae import TrVAE
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests.golden.recorded import Recording

REFERENCES = ["trvae_nb", "trvae_zinb_mmdy_bn", "trvae_mse_boundary"]
QUERY = "trvae_nb_query"
TABLES = ("encoder.hidden.first.condition.rows", "decoder.hidden.first.condition.rows", "theta.rows")
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
ADAM = Plan(learning_rate=1e-3, adam_epsilon=0.01, weight_decay=0.04)
"""scArches' optimiser."""

every = pytest.mark.parametrize("name", [*REFERENCES, QUERY])


def at_fixed(name: str) -> tuple[Recording, TrVAE, Batch, torch.Tensor]:
    """The recording, its network, its first 16 cells and the latent the decoder was recorded at."""
    recording = Recording(name)
    network = network_of(recording.model())
    batch = network.batches(recording.cells()).take(torch.arange(16))
    return recording, network, batch, torch.from_numpy(recording.forward["z_fixed"])


def network_of(model: Model) -> TrVAE:
    assert isinstance(model.network, TrVAE)
    return model.network


def value(tensor: torch.Tensor) -> NDArray[Any]:
    found: NDArray[Any] = tensor.detach().numpy()
    return found


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
    conditions = network.condition_inputs(batch)
    assert_allclose(value(network.y(z, conditions)), recording.forward["dec_y_first_layer"], **CLOSE)
    outputs = network.decoder.mean(network.decoder(z, conditions))
    last = torch.relu if network.config.likelihood == "mse" else torch.nn.Softmax(dim=1)
    assert_allclose(value(last(outputs)), recording.forward["dec_out0"], **CLOSE)


@pytest.mark.parametrize("name", ["trvae_nb", "trvae_zinb_mmdy_bn", QUERY])
def test_dispersion_and_likelihood(name: str) -> None:
    recording, network, batch, z = at_fixed(name)
    decoded = network.decode(batch, z)
    assert_allclose(value(network.log_theta[batch.combinations].exp()), recording.forward["dispersion"], **CLOSE)
    assert_allclose(value(decoded.mean)[:2], recording.forward["dec_mean_first2"], rtol=1e-5, atol=1e-4)
    assert_allclose(value(network.reconstruction(batch, z)), recording.forward["nll_per_cell_zfixed"], rtol=1e-5)


def test_dropout_logits() -> None:
    recording, network, batch, z = at_fixed("trvae_zinb_mmdy_bn")
    decoded = network.decode(batch, z)
    assert decoded.dropout_logits is not None
    assert_allclose(value(decoded.dropout_logits), recording.forward["dec_dropout_logits"], **CLOSE)


@every
def test_losses(name: str) -> None:
    """With the discrepancy on z and on y, of all pairs of conditions and across a boundary."""
    recording, network, batch, _ = at_fixed(name)
    terms = network(batch, noise=torch.from_numpy(recording.forward["eps"]))
    for ours, theirs in (("reconstruction", "recon"), ("kl", "kl"), ("mmd", "third"), ("loss", "total")):
        assert_allclose(value(terms[ours]), recording.forward[f"loss_{theirs}"], rtol=1e-5)
    assert float(terms["mmd"].detach()) > 0


@every
def test_latent(name: str) -> None:
    recording = Recording(name)
    mean, variance = network_of(recording.model()).posterior(recording.cells())
    assert_allclose(mean, recording.outputs["latent_mean"], rtol=0, atol=1e-5)
    if "latent_var" in recording.outputs:
        assert_allclose(variance, recording.outputs["latent_var"], rtol=0, atol=1e-5)


def test_latent_of_the_reference_in_a_query_model() -> None:
    recording = Recording(QUERY)
    assert recording.reference is not None
    found = recording.model().network.embed(recording.reference.cells())
    assert_allclose(found, recording.outputs["latent_mean_of_ref"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_decoder_layer(name: str) -> None:
    """scArches' get_y without noise."""
    recording = Recording(name)
    network, cells = network_of(recording.model()), recording.cells().rows(np.arange(24))
    found = network.decoder_layer(cells, network.embed(cells), batch_size=7)
    assert_allclose(found, recording.outputs["y_eps0_first24"], **CLOSE)


@pytest.mark.parametrize("name", REFERENCES)
def test_gradients(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    network(batch, noise=torch.from_numpy(recording.forward["eps"]))["loss"].backward()
    found = {key.replace(".reference", ".rows"): p.grad for key, p in network.named_parameters() if p.grad is not None}
    expected = expected_tensors(recording, "grad__")
    assert set(expected) <= set(found)
    for tensor, values in expected.items():
        scale = float(values.abs().max())
        assert_allclose(value(found[tensor]), value(values), rtol=1e-4, atol=1e-5 * scale, err_msg=tensor)


def expected_tensors(recording: Recording, prefix: str) -> dict[str, torch.Tensor]:
    """A recorded set of arrays with scArches' names, under ours."""
    state = {name.removeprefix(prefix): a for name, a in recording.forward.items() if name.startswith(prefix)}
    return legacy.tensors_of(state, recording.attributes)


def adam_steps(network: TrVAE, batch: Batch, noise: torch.Tensor, *, steps: int) -> list[float]:
    """Losses of some Adam steps on one minibatch, without dropout, as the training loop takes them."""
    optimizer = torch.optim.Adam(network.parameter_groups(ADAM), lr=ADAM.learning_rate, eps=ADAM.adam_epsilon)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = network(batch, noise=noise)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_adam_steps() -> None:
    recording, network, batch, _ = at_fixed("trvae_nb")
    losses = adam_steps(network, batch, torch.from_numpy(recording.forward["eps"]), steps=3)
    assert_allclose(losses, recording.forward["adam3_losses"], rtol=1e-5)
    found = network.tensors()
    for name, expected in expected_tensors(recording, "adam3__").items():
        assert_allclose(value(found[name]), value(expected), rtol=0, atol=1e-4, err_msg=name)


def test_adam_steps_of_a_query() -> None:
    """The query's rows agree. The reference's stay here; in scArches gradients and weight decay move them."""
    recording, network, batch, _ = at_fixed(QUERY)
    before = network.tensors()
    losses = adam_steps(network, batch, torch.from_numpy(recording.forward["eps"]), steps=3)
    assert_allclose(losses, recording.forward["adam3_losses"], rtol=1e-5)
    after, expected = network.tensors(), expected_tensors(recording, "adam3__")
    for name in TABLES:
        assert_allclose(value(after[name])[3:], value(expected[name])[3:], rtol=0, atol=1e-4, err_msg=name)
        assert_array_equal(value(after[name])[:3], value(before[name])[:3])
        assert not torch.equal(expected[name][:3], before[name][:3]), name
    for name in set(before) - set(TABLES):
        assert_array_equal(value(after[name]), value(before[name]), err_msg=name)


def test_surgery_copies_what_scarches_copies() -> None:
    """Right after surgery all is the reference's but the new rows; those are random there and here."""
    recording = Recording(QUERY)
    assert recording.reference is not None
    model = surgery(recording.reference.model(), recording.cells(), start="random")
    theirs = legacy.tensors_of(recording.part("initial_state"), recording.attributes)
    old, ours = recording.reference.model().network.tensors(), model.network.tensors()
    assert {name for name in ours if ours[name].shape != old[name].shape} == set(TABLES)
    assert ours.keys() == theirs.keys()
    for name, rows in theirs.items():
        assert ours[name].shape == rows.shape
        assert_array_equal(value(ours[name])[: len(old[name])], value(old[name]), err_msg=name)
        assert_array_equal(value(rows)[: len(old[name])], value(old[name]), err_msg=name)


def test_only_what_scarches_trains_in_a_query_is_trained() -> None:
    """The query's part of it: rows of old conditions stay here."""
    recording = Recording(QUERY)
    assert recording.reference is not None
    network = network_of(surgery(recording.reference.model(), recording.cells()))
    moving = {key for key, p in network.named_parameters() if p.requires_grad and p.numel()}
    state = {key: values for key, values in recording.state.items() if key in recording.facts["trainable"]}
    trained = legacy.tensors_of(state, recording.attributes)
    assert moving == {key.replace(".rows", ".query") for key in trained}


def test_new_rows_start_as_wide_as_scarches() -> None:
    """Uniformly within one over the root of the number of conditions; theta from a standard normal."""
    recording = Recording(QUERY)
    assert recording.reference is not None
    ours = surgery(recording.reference.model(), recording.cells(), start="random").network.tensors()
    theirs = legacy.tensors_of(recording.part("initial_state"), recording.attributes)
    for name in TABLES[:2]:
        for rows in (ours[name][3:], theirs[name][3:]):
            assert 0.9 / np.sqrt(5) < float(rows.abs().max()) <= 1 / np.sqrt(5), name
    assert_allclose([ours["theta.rows"][3:].std(), theirs["theta.rows"][3:].std()], 1.0, atol=0.1)


def test_surgery_makes_the_conditions_scarches_makes() -> None:
    """The same ones; new ones sorted here, in order of appearance there."""
    recording = Recording(QUERY)
    assert recording.reference is not None
    ours = surgery(recording.reference.model(), recording.cells()).vocabulary.conditions["batch"]
    theirs = recording.model().vocabulary.conditions["batch"]
    assert (set(ours.names), ours.reference) == (set(theirs.names), theirs.reference)
