"""scPoli against the numbers scArches 0.6.1 computes; tests/golden/README.md says how they were recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.special import softmax

from hub_client.data.batches import Batch
from hub_client.interop import scpoli as legacy
from hub_client.labels.predict import predict
from hub_client.manifest.plan import Plan
from hub_client.models.architectures._vae import VARIANCE_FLOOR
from hub_client.models.architectures.scpoli import ScPoli
from hub_client.models.model import Model
from hub_client.models.surgery import add_label, surgery
from tests.golden.recorded import Recording, cells

REFERENCES = ["scpoli_default", "scpoli_multi", "scpoli_unknown_zinb", "scpoli_mse_encoder_only"]
QUERIES = ["scpoli_query_unlabeled", "scpoli_multi_query_newtype"]
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
ADAM = Plan(learning_rate=1e-3, adam_epsilon=0.01, weight_decay=0.04)
"""scArches' optimiser."""

PARTS = ("preds", "uncert", "weighted_distances")

every = pytest.mark.parametrize("name", REFERENCES + QUERIES)


def batch_of(network: ScPoli, recording: Recording, count: int) -> Batch:
    return network.batches(recording.cells()).take(torch.arange(count))


def at_fixed(name: str) -> tuple[Recording, ScPoli, Batch, torch.Tensor]:
    """The recording, its network, its first 16 cells and the latent the decoder was recorded at."""
    recording = Recording(name)
    network = network_of(recording.model())
    z = torch.from_numpy(recording.forward["z_fixed"])
    return recording, network, batch_of(network, recording, 16), z


def network_of(model: Model) -> ScPoli:
    assert isinstance(model.network, ScPoli)
    return model.network


def value(tensor: torch.Tensor) -> NDArray[Any]:
    found: NDArray[Any] = tensor.detach().numpy()
    return found


@every
def test_codes(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    keys = list(recording.attributes["cell_type_keys_"])
    names = [network.vocabulary.labels[key].names for key in keys]
    flat = list(recording.attributes["cell_types_"])
    ours = [[-1 if c < 0 else flat.index(names[i][c]) for i, c in enumerate(row)] for row in batch.labels.tolist()]
    assert_array_equal(value(batch.conditions), recording.forward["batch_codes"])
    assert_array_equal(value(batch.combinations), recording.forward["combined_codes"])
    assert_allclose(value(batch.size_factor), recording.forward["sizefactor"], rtol=1e-6)
    labelled = recording.forward["celltype_codes"] >= 0
    assert_array_equal(np.array(ours)[labelled], recording.forward["celltype_codes"][labelled])


@every
def test_encoder(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    mean, variance = network.encode(batch)
    assert_allclose(value(network.condition_inputs(batch)), recording.forward["cond_embedding"], **CLOSE)
    assert_allclose(value(mean), recording.forward["enc_mean"], **CLOSE)
    assert_allclose(value(variance), np.exp(recording.forward["enc_logvar"]) + VARIANCE_FLOOR, **CLOSE)


@every
def test_decoder(name: str) -> None:
    recording, network, batch, z = at_fixed(name)
    hidden = network.decoder(z, network.condition_inputs(batch))
    outputs = network.decoder.mean(hidden)
    last = torch.relu if network.config.likelihood == "mse" else torch.nn.Softmax(dim=1)
    assert_allclose(value(hidden), recording.forward["dec_y_first_layer"], **CLOSE)
    assert_allclose(value(last(outputs)), recording.forward["dec_out0"], **CLOSE)


def test_dropout_logits() -> None:
    recording, network, batch, z = at_fixed("scpoli_unknown_zinb")
    logits = network.decoder.dropout_logits(network.decoder(z, network.condition_inputs(batch)))
    assert_allclose(value(logits), recording.forward["dec_dropout_logits"], **CLOSE)


@pytest.mark.parametrize("name", [name for name in REFERENCES + QUERIES if "mse" not in name])
def test_dispersion_and_likelihood(name: str) -> None:
    recording, network, batch, z = at_fixed(name)
    rows = network.log_theta[batch.combinations].exp()
    assert_allclose(value(rows), recording.forward["dispersion"], **CLOSE)
    assert_allclose(value(network.reconstruction(batch, z)), recording.forward["nll_per_cell_zfixed"], rtol=1e-5)


@every
def test_losses(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    terms = network(batch, noise=torch.from_numpy(recording.forward["eps"]))
    for ours, theirs in (("reconstruction", "recon"), ("kl", "kl"), ("loss", "total"), ("unweighted", "total")):
        assert_allclose(value(terms[ours]), recording.forward[f"loss_{theirs}"], rtol=1e-5)


@every
def test_latent(name: str) -> None:
    recording = Recording(name)
    assert_allclose(
        recording.model().network.embed(recording.cells()), recording.outputs["latent_mean"], rtol=0, atol=1e-5
    )


@every
@pytest.mark.parametrize("tag", ["dist", "prob", "p1"])
def test_classify(name: str, tag: str) -> None:
    recording = Recording(name)
    network = network_of(recording.model())
    found = network.distances(recording.outputs["latent_mean"], power=1.0 if tag == "p1" else 2.0)
    for level, scores in found.items():
        expected = {part: recording.outputs[f"classify_{tag}__{level}__{part}"] for part in PARTS}
        values = softmax(-scores.values, axis=1) if tag == "prob" else scores.values
        best = values.max(1) if tag == "prob" else values.min(1)
        assert_allclose(values, expected["weighted_distances"], **CLOSE)
        assert_allclose(best, expected["uncert"], **CLOSE)
        labels = np.array(scores.labels)[scores.values.argmin(1)]
        assert_array_equal(labels, expected["preds"])


@every
def test_scaled_uncertainty(name: str) -> None:
    recording = Recording(name)
    network = network_of(recording.model())
    for level, scores in network.distances(recording.outputs["latent_mean"]).items():
        for tag, values in (("scaled", scores.values.min(1)), ("prob_scaled", softmax(-scores.values, axis=1).max(1))):
            expected = recording.outputs[f"classify_{tag}__{level}__uncert"]
            assert_allclose(legacy.relative_uncertainty(values), expected, **CLOSE)


@every
def test_predict_names_the_same_labels(name: str) -> None:
    recording = Recording(name)
    found = predict(recording.model(), recording.cells(), device="cpu")
    for level, prediction in found.levels.items():
        assert_array_equal(prediction.labels.astype(str), recording.outputs[f"classify_dist__{level}__preds"])


@every
def test_labels_of_prototypes(name: str) -> None:
    recording = Recording(name)
    network = network_of(recording.model())
    for kind in ("labeled", "unlabeled"):
        if (means := recording.outputs.get(f"protoinfo_{kind}_X")) is None:
            continue
        for level, scores in network.distances(means).items():
            nearest = np.array(scores.labels)[scores.values.argmin(1)]
            info = f"protoinfo_{kind}_obs__{level}"
            assert_array_equal(nearest, recording.outputs[f"{info}_pred"])
            assert_allclose(scores.values.min(1), recording.outputs[f"{info}_uncert"], **CLOSE)


@every
def test_prototypes(name: str) -> None:
    """One flat list there, a table per level here."""
    recording = Recording(name)
    network = network_of(recording.model())
    flat = list(recording.attributes["cell_types_"])
    for key, table in zip(network.vocabulary.labels, network._prototype_tables(), strict=True):
        rows = [flat.index(label) for label in network.vocabulary.labels[key].names]
        assert_array_equal(value(table.means), recording.outputs["prototypes_labeled_mean"][rows])
        assert_array_equal(value(table.covariances), recording.outputs["prototypes_labeled_cov"][rows])
    unlabelled = recording.outputs.get("prototypes_unlabeled_mean", np.empty((0, network.config.latent)))
    assert_array_equal(value(network.unlabelled), unlabelled)


@every
def test_embeddings(name: str) -> None:
    recording = Recording(name)
    network = network_of(recording.model())
    for key, table in zip(network.vocabulary.conditions, network._embedding_tables(), strict=True):
        assert_array_equal(network.vocabulary.conditions[key].names, recording.outputs[f"cond_emb__{key}__names"])
        assert_allclose(value(table.rows), recording.outputs[f"cond_emb__{key}__X"], **CLOSE)


@every
def test_labelled_prototype_loss(name: str) -> None:
    """Recorded with the labels of all cells, also where the query was mapped without."""
    recording = Recording(name)
    network = network_of(recording.model())
    z = torch.from_numpy(recording.outputs["latent_mean"][:64])
    loss = network.prototype_loss(z, batch_of(network, recording, 64).labels)
    assert_allclose(value(loss), recording.outputs["proto_labeled_loss_first64"], rtol=1e-5)


@pytest.mark.parametrize("name", ["scpoli_unknown_zinb", *QUERIES])
def test_unlabelled_prototype_loss(name: str) -> None:
    recording = Recording(name)
    network = network_of(recording.model())
    z = torch.from_numpy(recording.outputs["latent_mean"][:64])
    nobody = torch.full((64, len(network.vocabulary.labels)), -1)
    loss = network.prototype_loss(z, nobody, unlabelled_weight=0.5)
    assert_allclose(value(loss), 0.5 * recording.outputs["proto_unlabeled_loss_first64"], rtol=1e-5)


def gradients(network: ScPoli) -> dict[str, torch.Tensor]:
    """The gradient of every tensor of a reference; all rows of its tables are the reference's."""
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name.replace(".reference", ".rows"): grad for name, grad in found.items() if grad is not None}


@pytest.mark.parametrize("name", ["scpoli_multi", "scpoli_unknown_zinb"])
def test_gradients(name: str) -> None:
    recording, network, batch, _ = at_fixed(name)
    network(batch, noise=torch.from_numpy(recording.forward["eps"]))["loss"].backward()
    found = gradients(network)
    expected = expected_tensors(recording, "grad__")
    assert set(expected) <= set(found)
    for tensor, values in expected.items():
        scale = float(values.abs().max())
        assert_allclose(value(found[tensor]), value(values), rtol=1e-4, atol=1e-5 * scale, err_msg=tensor)


def test_gradients_of_a_query() -> None:
    """Only the query's rows have one here; scArches also moves the reference's."""
    recording, network, batch, _ = at_fixed("scpoli_query_unlabeled")
    network(batch, noise=torch.from_numpy(recording.forward["eps"]))["loss"].backward()
    expected = expected_tensors(recording, "grad__")
    for table, name in zip(network.tables(), ("embeddings.0.rows", "theta.rows"), strict=True):
        assert table.reference.grad is None
        assert table.query.grad is not None
        assert_allclose(value(table.query.grad), value(expected[name])[3:], rtol=1e-4, atol=1e-4)


def expected_tensors(recording: Recording, prefix: str) -> dict[str, torch.Tensor]:
    """A recorded set of arrays with scArches' names, under ours."""
    state = {name.removeprefix(prefix): a for name, a in recording.forward.items() if name.startswith(prefix)}
    state.pop("losses", None)
    unlimited = recording.attributes | {"embedding_max_norm_": None}
    found = legacy.tensors_of(state, unlimited)
    return {name: tensor for name, tensor in found.items() if not name.startswith(("prototypes", "unlabelled"))}


def adam_steps(network: ScPoli, batch: Batch, noise: torch.Tensor, *, steps: int) -> list[float]:
    """Losses of some Adam steps on one minibatch, without dropout, as the training loop takes them."""
    optimizer = torch.optim.Adam(network.parameter_groups(ADAM), lr=ADAM.learning_rate, eps=ADAM.adam_epsilon)
    for table in network.tables():
        table.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = network(batch, noise=noise)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_adam_steps() -> None:
    recording, network, batch, _ = at_fixed("scpoli_multi")
    losses = adam_steps(network, batch, torch.from_numpy(recording.forward["eps"]), steps=3)
    assert_allclose(losses, recording.forward["adam3_losses"], rtol=1e-5)
    found = network.tensors()
    for name, expected in expected_tensors(recording, "adam3__").items():
        assert_allclose(value(found[name]), value(expected), rtol=0, atol=1e-4, err_msg=name)


def test_adam_steps_of_a_query() -> None:
    """The query's rows agree. The reference's stay here; in scArches weight decay shrinks their theta."""
    recording, network, batch, _ = at_fixed("scpoli_query_unlabeled")
    before = network.tensors()
    losses = adam_steps(network, batch, torch.from_numpy(recording.forward["eps"]), steps=3)
    assert_allclose(losses, recording.forward["adam3_losses"], rtol=1e-5)
    after, expected = network.tensors(), expected_tensors(recording, "adam3__")
    for name in ("embeddings.0.rows", "theta.rows"):
        assert_allclose(value(after[name])[3:], value(expected[name])[3:], rtol=0, atol=1e-4, err_msg=name)
        assert_array_equal(value(after[name])[:3], value(before[name])[:3])
    for name in set(before) - {"embeddings.0.rows", "theta.rows"}:
        assert_array_equal(value(after[name]), value(before[name]), err_msg=name)


@pytest.mark.parametrize("name", QUERIES)
def test_surgery_copies_what_scarches_copies(name: str) -> None:
    """Right after surgery all is the reference's but the new rows; those are random there and here."""
    recording = Recording(name)
    assert recording.reference is not None
    query = recording.cells()
    model = surgery(recording.reference.model(), query, start="random")
    theirs = legacy.tensors_of(recording.part("initial_state"), recording.attributes | {"embedding_max_norm_": None})
    old = recording.reference.model().network.tensors()
    ours = model.network.tensors()
    for tensor in (t for t in theirs if not t.startswith(("prototypes", "unlabelled"))):
        assert ours[tensor].shape == theirs[tensor].shape
        copied = len(old[tensor])
        assert_array_equal(value(ours[tensor])[:copied], value(old[tensor]), err_msg=tensor)
        assert_allclose(value(theirs[tensor])[:copied], value(old[tensor]), atol=1e-6, err_msg=tensor)


@pytest.mark.parametrize("name", QUERIES)
def test_surgery_makes_the_conditions_scarches_makes(name: str) -> None:
    """The same ones; new ones sorted here, in order of appearance there."""
    recording = Recording(name)
    assert recording.reference is not None
    ours = surgery(recording.reference.model(), recording.cells()).vocabulary
    theirs = recording.model().vocabulary
    assert set(ours.combinations) == set(theirs.combinations)
    assert ours.reference_combinations == theirs.reference_combinations
    for key, axis in theirs.conditions.items():
        assert (set(ours.conditions[key].names), ours.conditions[key].reference) == (set(axis.names), axis.reference)


def test_a_query_model_trains_what_scarches_trains() -> None:
    network = network_of(Recording("scpoli_multi_query_newtype").model())
    moving = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert moving == {"embeddings.0.query", "embeddings.1.query", "theta.query"}
    assert [table._reference for table in network.tables()] == [3, 2, 6]
    assert [table.frozen for table in network._prototype_tables()] == [4, 2]


def test_best_start_is_shot_surgery() -> None:
    recording = Recording("scpoli_shot_surgery")
    assert recording.reference is not None
    reference = recording.reference.model()
    query = cells("query", attributes=recording.reference.attributes)
    model = surgery(reference, query, start="best")
    assert model.manifest.lineage is not None
    assert model.manifest.lineage.copied == {f"batch={k}": v for k, v in recording.facts["mapping"]["mapping"].items()}
    found = model.network.tensors()
    assert_allclose(value(found["embeddings.0.rows"]), recording.outputs["embeddings"], rtol=0, atol=1e-6)
    assert_array_equal(value(found["theta.rows"]), recording.outputs["theta"].T)
    assert_allclose(model.network.embed(query), recording.outputs["latent_mean"], rtol=0, atol=1e-5)


def test_losses_that_choose_the_best_start() -> None:
    recording = Recording("scpoli_shot_surgery")
    assert recording.reference is not None
    network = network_of(recording.reference.model())
    query = cells("query", attributes=recording.reference.attributes)
    known = [row[0] for row in network.vocabulary.combinations]
    for new, losses in recording.facts["mapping"]["recon_losses"].items():
        found = network.trial_losses(query.rows(query.conditions["batch"] == new), [{"batch": name} for name in known])
        assert_allclose(found, [losses[name] for name in known], rtol=1e-5)


def test_a_label_for_unlabelled_prototypes() -> None:
    """scArches' add_new_cell_type."""
    recording = Recording("scpoli_query_unlabeled")
    expected = recording.part("add_new_cell_type")
    name, level = str(expected["name"]), str(expected["obs_key"])
    query = recording.cells()
    model = add_label(
        recording.model(), level, label=name, clusters=expected["unlabeled_prototypes"].tolist(), cells=query
    )
    (table,) = network_of(model)._prototype_tables()
    assert model.vocabulary.labels[level].names == (*recording.attributes["cell_types_"], name)
    assert_allclose(value(table.means), expected["labeled_mean"], rtol=0, atol=1e-5)
    assert_allclose(value(table.covariances), expected["labeled_cov"], rtol=0, atol=1e-5)
    assert_array_equal(predict(model, query, device="cpu").levels[level].labels.astype(str), expected["preds"])
    distances = network_of(model).distances(model.network.embed(query))[level].values
    assert_allclose(distances.min(1), expected["uncert"], rtol=0, atol=1e-5)
