"""The training loop, with a network whose losses are written down beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.plan import EarlyStopping, Plan
from hub_client.models.model import Model
from hub_client.models.train import train
from hub_client.nn.training import History, Runtime, Split, Trainee, run, split
from tests.simulated import REFERENCE, cells_for, manifest

ROOT = Path(__file__).parents[2]
MANIFEST = manifest()
VOCABULARY = Vocabulary.of(MANIFEST)
CPU = Runtime(accelerator="cpu", progress=False)


class Scripted(Trainee):
    """One weight that moves; validation losses are those of a script, one an epoch. What it is given is recorded."""

    def __init__(self, *losses: float, slope: float = 1.0, first_judged: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.losses, self.slope, self.first_judged = losses, slope, first_judged
        self.batches: list[Batch] = []
        self.after_epochs: list[float] = []
        self.largest_gradient = 0.0

    def forward(self, batch: Batch, *, epoch: int, sample: bool = True) -> dict[str, Tensor]:
        scripted = torch.tensor(self.losses[min(epoch, len(self.losses) - 1)])
        if sample:
            self.batches.append(batch)
        loss = self.slope * self.weight.sum() * torch.randn(()).abs() + scripted
        return {"loss": loss, "unweighted": scripted, "reconstruction": scripted}

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        return {"epoch": epoch}

    def first_judged_epoch(self, plan: Plan, data: Split) -> int:
        return self.first_judged

    def after_step(self, plan: Plan, learning_rate: float, *, epoch: int) -> None:
        assert self.weight.grad is not None
        self.largest_gradient = max(self.largest_gradient, float(self.weight.grad.abs()))

    def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        self.after_epochs.append(float(self.weight.detach()))


def trained(network: Scripted, *, cells: Cells | None = None, seed: int = 0, **plan: Any) -> History:
    found = cells_for(MANIFEST) if cells is None else cells
    defaults = {"epochs": len(network.losses), "early_stopping": None}
    return run(network, found, plan=Plan(**(defaults | plan)), seed=seed, runtime=CPU, vocabulary=VOCABULARY)


def unbalanced() -> Cells:
    """Cells of which eight in ten are of the first batch."""
    cells = cells_for(MANIFEST, cells=600)
    kept = np.flatnonzero((cells.conditions["batch"] == REFERENCE[0]) | (np.arange(600) % 8 == 0))
    return cells.rows(kept)


@pytest.mark.parametrize("sampling", ["shuffle", "stratified"])
def test_an_epoch_of_steps_takes_some_of_many_cells(sampling: str) -> None:
    """As many as are due; where cells are shuffled, none twice before all were seen once."""
    network = Scripted(1.0)
    history = trained(network, steps=20, batch_size=8, validation_fraction=0, sampling=sampling, epochs=100)
    seen = torch.cat([batch.index for batch in network.batches]).numpy()
    cells = len(cells_for(MANIFEST))
    assert (len(history.epochs), [len(batch) for batch in network.batches]) == (20, [8] * 20)
    assert cells > len(seen) and (len(set(seen)) == len(seen)) is (sampling == "shuffle")


# --- the split -------------------------------------------------------------------------------------------------------


def test_split_parts_the_cells() -> None:
    cells = cells_for(MANIFEST)
    train, validation = split(cells, VOCABULARY, fraction=0.25, seed=0)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(cells)))
    assert train.tolist() == sorted(train.tolist())
    assert validation.tolist() == sorted(validation.tolist())


def test_split_is_stratified_by_condition_and_label() -> None:
    cells = cells_for(MANIFEST, cells=600)
    _, validation = split(cells, VOCABULARY, fraction=0.2, seed=0)
    groups = np.char.add(cells.conditions["batch"].astype(str), cells.labels["cell_type"].astype(str))
    for group in np.unique(groups):
        size = int((groups == group).sum())
        assert abs(int((groups[validation.numpy()] == group).sum()) - 0.2 * size) < 1


def test_split_is_seeded() -> None:
    first, again, other = (split(cells_for(MANIFEST), VOCABULARY, fraction=0.1, seed=s)[1].tolist() for s in (1, 1, 2))
    assert first == again != other


def test_a_group_of_one_cell_trains() -> None:
    cells = cells_for(MANIFEST)
    alone = cells.rows(np.array([0]))
    train, validation = split(alone, VOCABULARY, fraction=0.9, seed=0)
    assert (train.tolist(), validation.tolist()) == ([0], [])


def test_no_validation_cells() -> None:
    network = Scripted(3.0, 2.0, 4.0)
    history = trained(network, validation_fraction=0.0)
    assert not [column for column in history.epochs if column.startswith("validation")]
    assert history.best_epoch == 1
    assert sum(len(batch) for batch in network.batches) == 3 * 240


# --- minibatches -----------------------------------------------------------------------------------------------------


def test_every_training_cell_is_seen_once_an_epoch() -> None:
    network = Scripted(1.0)
    trained(network, batch_size=50)
    seen = torch.cat([batch.index for batch in network.batches])
    train, _ = split(cells_for(MANIFEST), VOCABULARY, fraction=Plan().validation_fraction, seed=0)
    assert sorted(seen.tolist()) == train.tolist()
    assert [len(batch) for batch in network.batches][:-1] == [50] * (len(network.batches) - 1)


def test_order_changes_from_epoch_to_epoch() -> None:
    network = Scripted(1.0, 1.0)
    trained(network, batch_size=1000)
    first, second = (batch.index.tolist() for batch in network.batches)
    assert first != second
    assert sorted(first) == sorted(second)


def test_stratified_sampling_draws_each_condition_equally_often() -> None:
    shares = {}
    for sampling in ("shuffle", "stratified"):
        network = Scripted(*[1.0] * 20)
        trained(network, cells=unbalanced(), sampling=sampling)
        seen = torch.cat([batch.combinations for batch in network.batches])
        shares[sampling] = (torch.bincount(seen, minlength=3) / len(seen)).tolist()
    assert shares["shuffle"][0] > 0.7
    assert shares["stratified"] == pytest.approx([1 / 3] * 3, abs=0.03)


# --- what the loop does ----------------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept() -> None:
    network = Scripted(5.0, 2.0, 3.0, 4.0)
    history = trained(network)
    assert (history.best_epoch, history.stopped, len(history.epochs)) == (1, "finished", 4)
    assert float(network.weight.detach()) == network.after_epochs[1] != network.after_epochs[3]
    assert history.losses["validation_unweighted"] == 2.0


def test_the_last_epoch_is_kept_on_demand() -> None:
    network = Scripted(5.0, 2.0, 3.0, 4.0)
    history = trained(network, keep_best=False)
    assert float(network.weight.detach()) == network.after_epochs[3]
    assert history.best_epoch is None
    assert history.losses["validation_unweighted"] == 4.0


def test_epochs_before_the_first_judged_one_are_not_kept() -> None:
    network = Scripted(1.0, 5.0, 4.0, 6.0, first_judged=1)
    assert trained(network).best_epoch == 2
    assert float(network.weight.detach()) == network.after_epochs[2]


def test_early_stopping() -> None:
    """Patience counts from the epoch after the first ``patience`` ones; then three without a gain stop it."""
    network = Scripted(5.0, 4.0, 3.0, 2.0, *[2.5] * 30)
    history = trained(network, early_stopping=EarlyStopping(patience=3, reduce_patience=None))
    assert (history.stopped, history.best_epoch, len(history.epochs)) == ("early stopping", 3, 7)
    assert float(network.weight.detach()) == network.after_epochs[3]


def test_a_gain_below_the_threshold_does_not_count() -> None:
    losses = np.linspace(10.0, 9.0, 40).tolist()
    stopped = {
        threshold: trained(Scripted(*losses), early_stopping=EarlyStopping(patience=5, threshold=threshold)).stopped
        for threshold in (0.0, 0.5)
    }
    assert stopped == {0.0: "finished", 0.5: "early stopping"}


class Telling(Scripted):
    """Tells labels apart the better, the longer it trains."""

    labels_term = "apart"

    def forward(self, batch: Batch, *, epoch: int, sample: bool = True) -> dict[str, Tensor]:
        return super().forward(batch, epoch=epoch, sample=sample) | {"apart": torch.tensor(1 / (1 + epoch))}


class Silent(Scripted):
    """Could tell labels apart, and is not asked to."""

    labels_term = "apart"


@pytest.mark.parametrize(
    ("network", "labelled", "best"),
    [(Telling, True, 29), (Telling, False, 1), (Silent, True, 1), (Scripted, True, 1)],
)
def test_labels_are_watched_where_cells_have_them(network: type[Scripted], labelled: bool, best: int) -> None:
    """Not held-out cells' loss, which rises from the second epoch on."""
    cells = cells_for(MANIFEST)
    cells = cells if labelled else replace(cells, labels={})
    rule = EarlyStopping(patience=3, watches="labels")
    history = trained(network(2.0, 1.0, *np.linspace(3, 9, 28)), cells=cells, early_stopping=rule)
    assert history.best_epoch == best
    assert history.stopped == ("finished" if best == 29 else "early stopping")


def test_learning_rate_is_cut() -> None:
    rule = EarlyStopping(patience=6, reduce_patience=2, reduce_factor=0.5)
    history = trained(Scripted(*[2.0] * 12), early_stopping=rule, learning_rate=0.8)
    assert history.epochs["lr"].tolist() == [0.8] * 8 + [0.4] * 2 + [0.2] * 2


@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradient_clip(clip: float | None) -> None:
    network = Scripted(1.0, slope=1000.0)
    trained(network, gradient_clip=clip)
    assert network.largest_gradient == 0.5 if clip else network.largest_gradient > 100


def test_weight_decay_reaches_the_optimiser() -> None:
    ends = []
    for decay in (0.0, 100.0):
        network = Scripted(1.0, 1.0, slope=0.0)
        nn.init.ones_(network.weight)
        trained(network, weight_decay=decay, keep_best=False)
        ends.append(float(network.weight.detach()))
    assert ends[0] == 1.0 > ends[1]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(loss: float) -> None:
    network = Scripted(1.0, 1.0, loss)
    with pytest.raises(errors.InvalidInput, match=r"epoch 2; the model is as it was.*learning_rate") as caught:
        trained(network)
    assert caught.value.facts["epoch"] == 2
    assert network.after_epochs[1] != 0.0 == float(network.weight.detach())
    assert not network.training


def test_what_changed_its_shape_in_training_is_put_back() -> None:
    """Unlabelled prototypes are as many as there are clusters."""

    class Clustered(Scripted):
        def __init__(self, *losses: float) -> None:
            super().__init__(*losses)
            self.register_buffer("unlabelled", torch.zeros(0, 2))

        def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
            self.unlabelled = torch.ones(3, 2)

    network = Clustered(1.0, float("nan"))
    with pytest.raises(errors.InvalidInput, match="epoch 1"):
        trained(network)
    assert network.unlabelled.shape == (0, 2)


def test_no_cells() -> None:
    with pytest.raises(errors.InvalidInput, match="no cells"):
        trained(Scripted(1.0), cells=cells_for(MANIFEST).rows(np.arange(0)))


def test_no_epochs() -> None:
    network = Scripted(1.0)
    history = trained(network, epochs=0)
    assert (history.stopped, history.best_epoch, len(history.epochs), history.losses) == ("finished", None, 0, {})
    assert float(network.weight.detach()) == 0.0
    assert history.plot().axes


def test_training_is_seeded() -> None:
    ends = []
    for seed in (1, 1, 2):
        network = Scripted(3.0, 2.0)
        trained(network, seed=seed)
        ends.append(float(network.weight.detach()))
    assert ends[0] == ends[1] != ends[2]


def test_the_network_comes_back_ready_for_inference() -> None:
    network = Scripted(1.0)
    trained(network)
    assert not network.training
    assert network.weight.device.type == "cpu"


def test_losses_are_means_over_cells() -> None:
    """The last minibatch is smaller; its loss weighs less."""

    class Sized(Scripted):
        def forward(self, batch: Batch, *, epoch: int, sample: bool = True) -> dict[str, Tensor]:
            size = torch.tensor(float(len(batch)))
            return {"loss": self.weight.sum(), "unweighted": size}

    history = trained(Sized(1.0), batch_size=200, validation_fraction=0.0)
    assert history.epochs["train_unweighted"][0] == pytest.approx((200 * 200 + 40 * 40) / 240)


def test_validation_compares_cells_from_all_of_the_file() -> None:
    """Cells sorted by condition: each minibatch of validation has all conditions, and each cell is judged once."""

    class Watched(Scripted):
        def forward(self, batch: Batch, *, epoch: int, sample: bool = True) -> dict[str, Tensor]:
            self.judged = [*getattr(self, "judged", []), *([] if sample else [batch])]
            return super().forward(batch, epoch=epoch, sample=sample)

    cells = cells_for(MANIFEST, cells=2700)
    network = Watched(1.0)
    trained(network, cells=cells.rows(np.argsort(cells.conditions["batch"])), validation_fraction=0.9)
    assert [set(batch.combinations.tolist()) for batch in network.judged] == [{0, 1, 2}] * 3
    assert all(len(batch) <= 1024 for batch in network.judged)
    judged = torch.cat([batch.index for batch in network.judged])
    assert len(judged) == len(set(judged.tolist())) == sum(len(batch) for batch in network.judged) > 2400


# --- History ---------------------------------------------------------------------------------------------------------


def test_history_plots_each_term_of_both_splits() -> None:
    figure = trained(Scripted(5.0, 2.0, 3.0)).plot()
    assert [axes.get_title() for axes in figure.axes] == ["loss", "reconstruction", "unweighted"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["train", "validation", "kept"]
    assert figure.axes[1].lines[1].get_ydata().tolist() == [5.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("likelihood", "unit"), [("nb", "nats per cell"), ("poisson", "nats per cell"), ("mse", "squared error per cell")]
)
def test_plots_name_their_units(likelihood: str, unit: str) -> None:
    model = Model.build(manifest(likelihood=likelihood))
    history = train(model, cells_for(model.manifest), plan=Plan(epochs=1), progress=False, accelerator="cpu")
    labels = {axes.get_title(): axes.get_ylabel() for axes in history.plot().axes}
    assert (labels["reconstruction"], labels["kl"], labels["prototype"]) == (unit, "nats per cell", "distance")


def test_history_says_where_and_how_long() -> None:
    history = trained(Scripted(5.0))
    assert history.device == "cpu"
    assert history.seconds > 0
    assert history.epochs["cells/s"][0] > 0
    assert history.epochs.index.name == "epoch"


def test_no_epochs_cost_nothing() -> None:
    """What is computed for epochs to come is not computed for none."""

    class Prepared(Scripted):
        def before_training(self, plan: Plan, data: Split) -> None:
            self.prepared = True

    for epochs in (0, 1):
        network = Prepared(5.0)
        run(network, cells_for(MANIFEST), plan=Plan(epochs=epochs), seed=0, runtime=CPU, vocabulary=VOCABULARY)
        assert hasattr(network, "prepared") == bool(epochs)


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import json, os, signal
from hub_client.models.architectures.scpoli import ScPoli
from hub_client.manifest.plan import Plan
from hub_client.models.model import Model
from hub_client.models.train import train
from hub_client.labels.predict import predict
from tests.simulated import cells_for, manifest

class Interrupted(ScPoli):
    def after_step(self, plan, learning_rate, *, epoch):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == self.interrupted:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
found, described = [], manifest()
for steps in STEPS:
    model = Model(described, Interrupted.build(described))
    model.network.interrupted = steps
    cells = cells_for(described)
    plan = Plan(epochs=1000, pretraining_epochs=2, batch_size=64)
    history = train(model, cells, plan=plan, progress=False, accelerator="cpu")
    levels = predict(model, cells, device="cpu").levels
    found.append({"stopped": history.stopped, "best": history.best_epoch, "epochs": len(history.epochs),
                  "recorded": model.manifest.training.epochs, "levels": list(levels), "mode": model.network.training})
print(json.dumps(found))
"""
INTERRUPTIONS = {18: (4, {2, 3}), 6: (1, {None})}
"""After how many minibatches the signal comes: how many epochs there are then, and which may be the best."""


@pytest.mark.slow
def test_ctrl_c_keeps_what_there_is() -> None:
    """Four minibatches an epoch: the signal comes in the fifth epoch, or before any was judged."""
    script = INTERRUPTED.replace("STEPS", str([*INTERRUPTIONS]))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for found, (epochs, best) in zip(json.loads(done.stdout), INTERRUPTIONS.values(), strict=True):
        assert (found["stopped"], found["epochs"], found["recorded"]) == ("interrupted", epochs, epochs)
        assert found["best"] in best
        assert found["levels"] == ["cell_type"]
        assert not found["mode"]
