"""The one training loop, and the record of how it went."""

from __future__ import annotations

import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from hub_client import errors
from hub_client.data.batches import Batches
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.plan import EarlyStopping, Plan
from hub_client.nn.processes import Processes

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Terms = dict[str, Tensor]
LIGHTNING = ("lightning.fabric", "lightning.pytorch")
"""Loggers whose remarks are about the machine, not about the data."""
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Weights, counts and losses are always float32; in mixed precision, matrix products are not."""
JUDGED_AT_ONCE = 1024
"""How many validation cells make a minibatch, at most."""
SHORT = {"reconstruction": "rec", "prototype": "proto", "classification": "class"}
"""What the progress bar calls a loss term with a long name."""
UNITS = {
    "loss": "weighted sum",
    "unweighted": "sum",
    "kl": "nats per cell",
    "prototype": "distance",
    "unlabelled": "distance",
    "mmd": "discrepancy",
}
"""The label of a loss term's axis in a plot; the reconstruction's depends on the likelihood."""


def unweighted_loss(row: Mapping[str, float]) -> float:
    """Return the unweighted loss of an epoch's validation cells, of the training cells where none are held out."""
    return row.get("validation_unweighted", row["train_unweighted"])


@dataclass(frozen=True)
class Judge:
    """What decides on early stopping and the best weights."""

    value: Callable[[Mapping[str, float]], float] | None = None
    """An epoch's row of the history to the number that is judged; smaller is better. None goes by the plan."""
    first: int = 0
    """The first epoch that is judged, if the network does not ask for a later one."""


@dataclass(frozen=True)
class Runtime:
    """Where training runs, in Lightning Fabric's words; ``precision`` is one of ``PRECISIONS``."""

    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    precision: str = "32-true"
    progress: bool = True
    judge: Judge = Judge()
    """What decides when it ends."""


@dataclass(frozen=True)
class History:
    """How training went.

    Attributes
    ----------
    epochs
        One row an epoch: each loss term of the training and the validation cells (means over cells; columns
        ``train_<term>`` and ``validation_<term>``), the learning rate and the cells trained on per second.
    best_epoch
        The epoch whose weights were kept; None when nothing was judged.
    stopped
        Why training ended: ``finished``, ``early stopping`` or ``interrupted``.
    seconds
        Wall time.
    device
        Where it ran.
    reconstruction_unit
        What the reconstruction term is measured in: ``nats``, or ``squared error`` for mse models.
    """

    epochs: pd.DataFrame
    best_epoch: int | None
    stopped: str
    seconds: float
    device: str
    reconstruction_unit: str = "nats"

    @property
    def losses(self) -> dict[str, float]:
        """The loss terms of the epoch that was kept."""
        if self.epochs.empty:
            return {}
        row = self.epochs.iloc[-1 if self.best_epoch is None else self.best_epoch]
        return {str(key): float(value) for key, value in row.items() if "_" in str(key) and np.isfinite(value)}

    def plot(self) -> Figure:
        """Return a figure of each loss term over epochs, training and validation."""
        from matplotlib.figure import Figure

        terms = sorted({c.removeprefix("train_") for c in map(str, self.epochs) if c.startswith("train_")})
        figure = Figure(figsize=(3.2 * max(len(terms), 1), 2.6), layout="constrained")
        for axes, term in zip(np.atleast_1d(figure.subplots(1, max(len(terms), 1))), terms, strict=False):
            self._plot_term(axes, term)
        if terms:
            figure.axes[0].legend(frameon=False)
        return figure

    def _plot_term(self, axes: Axes, term: str) -> None:
        for split in ("train", "validation"):
            if f"{split}_{term}" in self.epochs:
                axes.plot(self.epochs.index, self.epochs[f"{split}_{term}"], label=split)
        if self.best_epoch is not None:
            axes.axvline(self.best_epoch, color="0.6", linestyle=":", label="kept")
        unit = f"{self.reconstruction_unit} per cell" if term == "reconstruction" else UNITS.get(term, term)
        axes.set(title=term, xlabel="epoch", ylabel=unit)


class Trainee(nn.Module, ABC):
    """What the loop asks of a network, besides a forward that gives the loss terms; the hooks do nothing by default."""

    labels_term: ClassVar[str | None] = None
    """The loss term that says how poorly labels are told apart, if there is one."""

    @abstractmethod
    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the keyword arguments of forward in this epoch (weights that are annealed)."""

    def moving(self) -> list[nn.Parameter]:
        """Return the parameters that may move."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.numel()]

    def parameter_groups(self, plan: Plan) -> list[dict[str, Any]]:
        """Return the optimiser's groups: only what may move, all with the plan's weight decay."""
        moving = self.moving()
        return [{"params": moving, "weight_decay": plan.weight_decay}] if moving else []

    def in_training(self) -> list[nn.Module]:
        """Return the modules that run in training mode."""
        return [self]

    def divisible(self, cells: int) -> bool:
        """Return whether several processes may share the next minibatch, of so many cells, in training."""
        return True

    def first_judged_epoch(self, plan: Plan, data: Split) -> int:
        """Return the first epoch whose validation loss counts for early stopping and the best weights."""
        return 0

    def before_training(self, plan: Plan, data: Split) -> None:
        """Do what precedes the first epoch."""

    def before_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Do what precedes an epoch."""

    def after_step(self, plan: Plan, learning_rate: float, *, epoch: int) -> None:
        """Do what follows every optimiser step."""

    def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Do what follows an epoch, before validation."""

    def after_training(self, plan: Plan, data: Split) -> None:
        """Do what follows the last epoch, on the weights that are kept."""


@dataclass(frozen=True)
class Split:
    """The data of one training run: all cells, and which of them train and validate."""

    batches: Batches
    train: Tensor
    validation: Tensor

    @property
    def labels(self) -> Tensor:
        """Label codes of the training cells, ``(cells, levels)``; -1 where a cell has none."""
        return self.batches.labels[self.train]


def split(cells: Cells, vocabulary: Vocabulary, *, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the row numbers of training and validation cells, each sorted.

    The split is random under the seed and stratified by the combination of conditions and the finest label (the level
    with the most categories); a group of one cell trains.
    """
    groups = _strata(cells, vocabulary)
    generator = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for group in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == group))
        wanted = len(members) * fraction  # its remainder is drawn; never all
        count = int(wanted) + int(generator.random() < wanted - int(wanted))
        held.append(members[: min(count, len(members) - 1)])
    validation = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    train = np.setdiff1d(np.arange(len(cells)), validation)
    return torch.from_numpy(train), torch.from_numpy(validation)


def _strata(cells: Cells, vocabulary: Vocabulary) -> NDArray[np.int64]:
    combined = vocabulary.combination_codes(vocabulary.condition_codes(cells.conditions, cells=len(cells)))
    levels = [axis for key, axis in vocabulary.labels.items() if key in cells.labels]
    if not levels:
        return combined
    finest = max(levels, key=len)
    return combined * (len(finest) + 1) + finest.codes(cells.labels[finest.name], unknown=-1) + 1


def run(network: Trainee, cells: Cells, *, plan: Plan, seed: int, runtime: Runtime, vocabulary: Vocabulary) -> History:
    """Train ``network`` in place on ``cells``.

    The caller's random state is left as it was. Ctrl-C ends training and keeps the best weights so far, or the current
    ones while no epoch has been judged. Whatever else ends it leaves the network as it was before.

    Raises
    ------
    InvalidInput
        If there is nothing to train or nothing to train on, or the loss becomes NaN.
    """
    fabric = _fabric(runtime)
    cuda = [fabric.device.index or 0] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), quiet(*LIGHTNING, level=logging.ERROR, module="lightning"):
        torch.manual_seed(seed)
        data = _split(network, cells, plan, seed, fabric, vocabulary)
        drawn = plan.cells_an_epoch(len(data.train), devices=fabric.world_size)
        plan = plan.over(len(data.train), devices=fabric.world_size)
        loop = _Loop(network, plan, data, fabric, runtime, np.random.SeedSequence(seed), drawn)
        before = _copied(network)
        try:
            return loop.run()
        except BaseException:
            restore(network, before)
            raise
        finally:
            network.to("cpu").eval()


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@torch.no_grad()
def restore(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Put a network's tensors back, also those that have another shape now, as unlabelled prototypes may."""
    for name, tensor in state.items():
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        if getattr(module, attribute).shape == tensor.shape:
            getattr(module, attribute).copy_(tensor)
        else:
            setattr(module, attribute, tensor)


def _fabric(runtime: Runtime) -> Fabric:
    if runtime.precision not in PRECISIONS:
        raise errors.InvalidInput(
            f"precision is {runtime.precision!r}; it is one of {errors.names(PRECISIONS)}.",
            facts={"precision": runtime.precision},
        )
    from lightning.fabric import Fabric  # takes seconds to import

    with quiet(*LIGHTNING, level=logging.ERROR, module="lightning"):
        try:
            fabric = Fabric(accelerator=runtime.accelerator, devices=runtime.devices, precision=runtime.precision)
        except (RuntimeError, TypeError, ValueError) as error:
            raise errors.InvalidInput(
                f"training cannot run with accelerator={runtime.accelerator!r}, devices={runtime.devices!r}: {error}",
                facts={"accelerator": runtime.accelerator, "devices": runtime.devices},
            ) from None
        fabric.launch()
    return fabric


@contextmanager
def quiet(*names: str, level: int, module: str = "") -> Iterator[None]:
    """Silence what loggers of these names report below a level, and the warnings of a module, by default of all."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _split(network: Trainee, cells: Cells, plan: Plan, seed: int, fabric: Fabric, vocabulary: Vocabulary) -> Split:
    train, validation = split(cells, vocabulary, fraction=plan.validation_fraction, seed=seed)
    if not len(train):
        raise errors.InvalidInput("there are no cells to train on: the query is empty.", facts={"cells": len(cells)})
    if not network.moving():
        raise errors.InvalidInput(
            "there is nothing to train: all conditions of these cells are known to the model, and its rows are frozen. "
            "Use predict() as it is."
        )
    return Split(Batches(cells, vocabulary, device=fabric.device), train, validation)


@dataclass
class _Stopper:
    """Counts epochs without improvement, as scArches does: the first ``patience`` judged epochs are never counted."""

    rule: EarlyStopping | None
    best: float = float("inf")
    seen: int = 0
    waited: int = 0
    waited_to_reduce: int = 0

    def judge(self, loss: float) -> tuple[bool, bool, bool]:
        """Return whether the loss is the best so far, whether to cut the learning rate, and whether to stop."""
        gain, self.seen = self.best - loss, self.seen + 1
        improved = gain > 0
        self.best = min(self.best, loss)
        if self.rule is None or self.seen <= self.rule.patience:
            return improved, False, False
        idle = gain <= self.rule.threshold
        self.waited = self.waited + 1 if idle else 0
        self.waited_to_reduce = self.waited_to_reduce + 1 if idle else 0
        reduce = self.rule.reduce_patience is not None and self.waited_to_reduce >= self.rule.reduce_patience
        self.waited_to_reduce = 0 if reduce else self.waited_to_reduce
        return improved, reduce, self.waited >= self.rule.patience


@dataclass
class _Loop:
    network: Trainee
    plan: Plan
    data: Split
    fabric: Fabric
    runtime: Runtime
    seeds: np.random.SeedSequence
    drawn: int
    """How many training cells make an epoch."""
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int | None = None

    def run(self) -> History:
        started = time.perf_counter()
        self.processes = Processes(self.fabric.world_size, self.fabric.global_rank)
        self.network.to(self.fabric.device)
        self.trainable = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.network.parameter_groups(self.plan), lr=self.plan.learning_rate, eps=self.plan.adam_epsilon, fused=True
        )
        self.module, self.optimizer = self.fabric.setup(self.network, self.optimizer)
        if self.plan.epochs:
            self.network.before_training(self.plan, self.data)
        self.shuffle = np.random.default_rng(self.seeds.spawn(1)[0])
        self.left = np.empty(0, dtype=np.int64)
        self.stopper = _Stopper(self.plan.early_stopping or None)
        self.watched = self._watched()
        self.first_judged = max(self.network.first_judged_epoch(self.plan, self.data), self.runtime.judge.first)
        stopped = self._epochs()
        if self.best is not None:
            self.network.load_state_dict(self.best)
        self.network.after_training(self.plan, self.data)
        frame = pd.DataFrame(self.rows).rename_axis("epoch")
        return History(frame, self.best_epoch, stopped, time.perf_counter() - started, str(self.fabric.device))

    def _epochs(self) -> str:
        columns = (TextColumn("training"), BarColumn(12), MofNCompleteColumn(), TextColumn("{task.description}"))
        shown = self.runtime.progress and self.fabric.is_global_zero
        # on standard error, as it is no result
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as bar:
            task = bar.add_task("", total=self.plan.epochs)
            try:
                for epoch in range(self.plan.epochs):
                    row, stop = self._epoch(epoch)
                    bar.update(task, advance=1, description=_described(row))
                    if stop:
                        return "early stopping"
            except KeyboardInterrupt:
                return "interrupted"
        return "finished"

    def _epoch(self, epoch: int) -> tuple[dict[str, float], bool]:
        started = time.perf_counter()
        self.network.before_epoch(epoch, self.plan, self.data)
        objective = self.network.objective(self.plan, epoch)
        terms = self._train(epoch, objective)
        seconds = time.perf_counter() - started
        self.network.after_epoch(epoch, self.plan, self.data)
        row = {f"train_{name}": value for name, value in terms.items()}
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "cells/s": self.drawn / seconds}
        row |= {f"validation_{name}": value for name, value in self._validate(objective).items()}
        self.rows.append(row)
        return row, self._judge(epoch, row)

    def _train(self, epoch: int, objective: dict[str, float]) -> dict[str, float]:
        self.network.eval()
        for module in self.network.in_training():
            module.train()
        sums = _Sums()
        for index in self._shuffled():
            share = self.processes.share(len(index), divisible=self.network.divisible(len(index)))
            with self.fabric.no_backward_sync(
                self.module
            ):  # which refuses parameters without gradients, as without rows
                with share.together():
                    terms: Terms = self.module(self.data.batches.take(index[share.own]), **objective)
                self.optimizer.zero_grad(set_to_none=True)
                self.fabric.backward(terms["loss"] * share.weight)
            self.processes.average_gradients(self.trainable)
            if self.plan.gradient_clip is not None:
                nn.utils.clip_grad_value_(self.trainable, self.plan.gradient_clip)
            self.optimizer.step()
            self.network.after_step(self.plan, self.optimizer.param_groups[0]["lr"], epoch=epoch)
            sums.add(terms, share.counted)
        return sums.means(self.processes)

    def _shuffled(self) -> Iterator[Tensor]:
        train = self.data.train.numpy()
        if self.plan.sampling == "stratified":
            codes = self.data.batches.combinations.cpu().numpy()[train]
            weights = 1.0 / np.bincount(codes)[codes]
            order = self.shuffle.choice(train, size=self.drawn, p=weights / weights.sum())
        else:
            order = self._next(train)
        yield from torch.split(torch.from_numpy(order), self.plan.batch_size * self.processes.count)

    def _next(self, train: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the next cells of an epoch: all in random order, or of many as many as are due, each once a round."""
        while len(self.left) < self.drawn:
            self.left = np.concatenate([self.left, self.shuffle.permutation(train)])
        order, self.left = np.split(self.left, [self.drawn])
        return order

    @torch.no_grad()
    def _validate(self, objective: dict[str, float]) -> dict[str, float]:
        self.network.eval()
        sums, parts = _Sums(), -(-len(self.data.validation) // JUDGED_AT_ONCE)
        for first in range(parts):  # each part is from all of the file: terms may compare conditions within one
            index = self.data.validation[first::parts]
            share = self.processes.share(len(index))
            with share.together():
                terms = self.network(self.data.batches.take(index[share.own]), sample=False, **objective)
            sums.add(terms, share.counted)
        return sums.means(self.processes)

    def _judge(self, epoch: int, row: dict[str, float]) -> bool:
        loss = unweighted_loss(row)
        if not np.isfinite(loss):
            raise errors.InvalidInput(
                f"the loss became {loss} in epoch {epoch}; the model is as it was before training. Train with a lower "
                f"learning_rate in the plan (it was {self.plan.learning_rate:g}), or set its gradient_clip.",
                facts={"epoch": epoch, "loss": loss},
            )
        if epoch < self.first_judged:
            return False
        improved, reduce, stop = self.stopper.judge(self._judged(row))
        if improved and self.plan.keep_best:
            self.best = _copied(self.network)
            self.best_epoch = epoch
        if reduce and self.plan.early_stopping:
            for group in self.optimizer.param_groups:
                group["lr"] *= self.plan.early_stopping.reduce_factor
        return stop

    def _watched(self) -> str | None:
        """Return the loss term that the plan judges instead of the unweighted loss, where held-out cells have it."""
        labelled = bool((self.data.batches.labels[self.data.validation] >= 0).any())
        wanted = self.plan.early_stopping and self.plan.early_stopping.watches == "labels"
        return self.network.labels_term if wanted and labelled else None

    def _judged(self, row: Mapping[str, float]) -> float:
        """Return the number that an epoch is judged by."""
        if self.runtime.judge.value:
            return self.runtime.judge.value(row)
        watched = f"validation_{self.watched}"  # a plan may leave the term out
        return row[watched] if self.watched and watched in row else unweighted_loss(row)


class _Sums:
    """Cell-weighted sums of loss terms, kept on the device until an epoch ends."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.total: Tensor | float = 0.0
        self.cells = 0

    def add(self, terms: Terms, cells: int) -> None:
        self.names = tuple(terms)
        self.total = self.total + torch.stack([value.detach() for value in terms.values()]) * cells
        self.cells += cells

    def means(self, processes: Processes) -> dict[str, float]:
        """Return the means over the cells of all processes."""
        if not isinstance(self.total, Tensor):
            return {}
        *sums, cells = processes.totals([*self.total.tolist(), self.cells], self.total.device)
        return {name: value / cells for name, value in zip(self.names, sums, strict=True)}


def say(text: str) -> None:
    """Print what somebody who watches the training wants to know, on standard error, as it is no result."""
    Console(stderr=True).print(text, highlight=False)


def _described(row: dict[str, float]) -> str:
    """Return an epoch's loss terms and cells per second."""
    sums = ("train_loss", "train_unweighted")
    values = {key.removeprefix("train_"): row[key] for key in row if key.startswith("train_") and key not in sums}
    terms = "  ".join(f"{SHORT.get(term, term)} {value:.1f}" for term, value in values.items() if value)
    return f"{terms}  {row['cells/s']:,.0f} cells/s"
