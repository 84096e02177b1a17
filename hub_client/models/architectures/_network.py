"""The base of all networks: what a manifest describes, what every verb asks, and the records it is answered with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hub_client import errors
from hub_client.data.batches import Batch, Batches
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Axis as Names
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.configs import KindConfig
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest, TensorSpec
from hub_client.nn.injected import Parts
from hub_client.nn.layers import Axis, GrowingTable, tensor_axes
from hub_client.nn.training import History, Runtime, Trainee, run
from hub_client.nn.undrawn import undrawn

if TYPE_CHECKING:
    import pandas as pd

Start = Literal["random", "mean", "best"]
Array = NDArray[np.float32]
CELLS_PER_TRIAL = 2000
"""How many cells of a new category are tried under each reference category."""
Sources = dict[str, dict[int, int]]
"""For each axis, the position of a new entry among the new ones to the reference's entry that it starts from."""


@dataclass(frozen=True)
class Scores:
    """One label level's evidence."""

    labels: tuple[str, ...]
    """The level's categories, in manifest order."""
    values: Array
    """``(cells, labels)``: distances in the latent (smaller is closer) or probabilities."""
    kind: Literal["distance", "probability"]
    """Which of the two ``values`` holds."""
    mahalanobis_squared: Array | None = None
    """``(cells, labels)``: squared Mahalanobis distances to the labels' prototypes, under the covariance their cells
    share; None where there is none."""
    label_frequencies: Array | None = None
    """``(labels,)``: each label's share of the labelled reference cells; None where it is not known."""


class Decoded(NamedTuple):
    """The parameters of the distribution of a minibatch's expression."""

    mean: Tensor
    """Expected counts (or log1p counts for mse), ``(cells, genes)``; for zinb before counts are dropped."""
    dropout_logits: Tensor | None = None
    """Log-odds that a count was dropped, ``(cells, genes)``; None but for zinb."""
    inverse_dispersion: Tensor | None = None
    """Of nb and zinb, ``(cells, genes)`` or what broadcasts to it; None without, and where it was not asked for."""


class Network(Trainee):
    """A network that a manifest describes. Everything beyond the manifest is in its tensors.

    A subclass builds its layers in its ``__init__``, after this one's, and then calls :meth:`freeze_reference`. The
    rows of categories are :class:`~hub_client.nn.layers.GrowingTable`, whose axes name what surgery grows.
    """

    kind: ClassVar[str]
    cells_at_once: ClassVar[int] = 1024
    """How many cells make a minibatch where losses are compared."""
    config: KindConfig

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        if manifest.architecture.kind != self.kind:
            raise errors.ManifestError(
                f"the manifest's architecture is {manifest.architecture.kind}; this network's is {self.kind}.",
                path="architecture.kind",
            )
        self.manifest = manifest
        self.config = manifest.architecture
        self.vocabulary = Vocabulary.of(manifest)
        self.grown_by_surgery = manifest.lineage is not None and manifest.lineage.relation == "surgery"

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Self:
        """Return a freshly initialised network with the manifest's axes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(manifest).eval()

    @classmethod
    def blank(cls, manifest: Manifest) -> Self:
        """Return a network with the manifest's axes for :meth:`load`; its weights, which are not drawn, are zero."""
        with undrawn():
            return cls(manifest).eval()

    # --- what each kind defines --------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the latent's posterior mean and variance, ``(cells, latent)`` each."""

    @abstractmethod
    def decode(self, batch: Batch, z: Tensor) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""

    @abstractmethod
    def cell_losses(self, batch: Batch) -> Tensor:
        """Return the same reconstruction loss of each cell every time, ``(cells,)`` (nats; squared error for mse)."""

    @abstractmethod
    def first_layers(self) -> list[nn.Module]:
        """Return what reads expression or the latent first, without the tables of categories."""

    @abstractmethod
    def first_weight(self) -> Tensor:
        """Return the weights of the genes in the encoder's first layer, ``(hidden.0, genes)``."""

    def drawn_latent(self, batch: Batch) -> Tensor:
        """Return a point of each cell's posterior, ``(cells, latent)``, as :meth:`decode` reads it."""
        mean, variance = self.encode(batch)
        return mean + torch.sqrt(variance) * torch.randn_like(mean)

    # --- what some kinds have; the others raise Unsupported, or return nothing ------------------------------------

    def facts(self) -> dict[str, object]:
        """Return the manifest's fields that training can change."""
        return {}

    def look_at(self, cells: Cells) -> None:
        """Take from a query's cells what is not trained."""

    def score(self, latent: Array) -> dict[str, Scores]:
        """Return the evidence for every label of every level at points of the latent; empty without a classifier."""
        return {}

    def labelled(self, manifest: Manifest, *, level: str, clusters: Sequence[int], cells: Cells) -> Self:
        """Return the same function with a label more, the last of ``level``, made of unlabelled prototypes."""
        raise self.config.without(
            "prototypes", f"prototypes, so no label can be added to level {level!r}", verb="add_label"
        )

    def term_weights(self) -> Array:
        """Return each gene's weight in each term, ``(genes, terms)``, in the manifest's order."""
        raise self.config.without("terms", "gene programs", verb="terms")

    def directions(self) -> NDArray[np.int64]:
        """Return whether a rising score of a term means more (1) or less (-1) of its program, ``(terms,)``; or 0."""
        raise self.config.without("terms", "gene programs", verb="terms")

    def imputed_proteins(self, cells: Cells, *, under: Sequence[str], samples: int) -> pd.DataFrame:
        """Return the expected foreground counts of each protein under some batches, ``(cells, proteins)``."""
        raise self.config.without("proteins", "proteins", verb="impute_proteins")

    def to_scvi(self, cells: Cells | None = None, *, obs: pd.DataFrame | None = None) -> Any:
        """Return scvi-tools' own model with these weights, around aligned cells or some without counts."""
        raise self.config.foreign("scvi-tools", verb="to_scvi")

    # --- building ----------------------------------------------------------------------------------------------------

    def named_axes(self) -> dict[str, Axis]:
        """Return the manifest's axes by name."""
        return {name: Axis(name, size) for name, size in self.manifest.axes().items()}

    def tables(self) -> list[GrowingTable]:
        """Return every table that surgery grows."""
        return [module for module in self.modules() if isinstance(module, GrowingTable)]

    def growing(self) -> dict[str, list[Parts]]:
        """Return the parameters of everything that surgery grows, by the axis they have an entry for each name of."""
        found: dict[str, list[Parts]] = {}
        for table in self.tables():
            found.setdefault(table.axes()["rows"][0], []).append(Parts(table.reference, table.query, dim=0))
        return found

    def freeze_reference(self) -> None:
        """After surgery, let nothing train but what it added."""
        if self.grown_by_surgery:
            self.requires_grad_(False)
            for part in self._parts():
                part.query.requires_grad_(True)

    def restrict(self, parts: Literal["all", "expression"]) -> None:
        """Let only some parts of a whole network train: all, or the rows of categories and the first layers."""
        if parts == "expression":
            self.requires_grad_(False)
            for part in self._parts():
                part.reference.requires_grad_(True)
                part.query.requires_grad_(True)
            for module in self.first_layers():
                module.requires_grad_(True)

    def _parts(self) -> list[Parts]:
        return [part for parts in self.growing().values() for part in parts]

    # --- tensors -----------------------------------------------------------------------------------------------------

    @property
    def body(self) -> nn.Module:
        """The module that the names of tensors are relative to."""
        return self

    def shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every tensor a release of this network holds."""
        return tensor_axes(self)

    def turned(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor as a release holds it from the module's layout, or the reverse."""
        return tensor

    def specs(self) -> tuple[TensorSpec, ...]:
        """Return name, dtype and axis names of every tensor a release of this network holds."""
        return tuple(TensorSpec(name=name, dtype="F32", shape=shape) for name, shape in sorted(self.shapes().items()))

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of every tensor of :meth:`specs`, on the CPU; reference and query rows as one."""
        found = self.shared_tensors()
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}

    def shared_tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`tensors` copies, where it can be without a copy: training moves them."""
        return {name: self.turned(name, read(self.body, name)).detach().cpu() for name in sorted(self.shapes())}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors as :meth:`tensors` returned them."""
        for name in self.shapes():
            write(self.body, name, self.turned(name, tensors[name]))

    # --- training ----------------------------------------------------------------------------------------------------

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move: everything, or after surgery what it added; and report how it went."""
        return run(self, cells, plan=plan, seed=seed, runtime=runtime, vocabulary=self.vocabulary)

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch: the KL term rises linearly from 0; and what share of genes is hidden."""
        rise = epoch / plan.kl_anneal_epochs if plan.kl_anneal_epochs else 1.0
        hidden = {"gene_dropout": plan.gene_dropout} if plan.gene_dropout and not self.grown_by_surgery else {}
        return {"kl_weight": plan.kl_weight * min(rise, 1.0), **hidden}

    def in_training(self) -> list[nn.Module]:
        """Return what runs in training mode: everything, or after surgery the tables that grew.

        The frozen network runs as in inference, without dropout, and never updates the running statistics of batch
        normalisation.
        """
        return [*self.tables()] if self.grown_by_surgery else [self]

    # --- inference ---------------------------------------------------------------------------------------------------

    def batches(self, cells: Cells) -> Batches:
        """Return cells encoded for this network, where it lives."""
        return Batches(cells, self.vocabulary, device=next(self.parameters()).device)

    @torch.no_grad()
    def means(self, batches: Batches, *, batch_size: int = 1024, index: Tensor | None = None) -> Tensor:
        """Return the posterior mean of encoded cells (or those at ``index``), ``(cells, latent)``, where they are."""
        training = self.training
        self.eval()
        means = batches.rows(lambda batch: self.encode(batch)[0], batch_size=batch_size, index=index)
        self.train(training)
        return means

    def embed(self, cells: Cells, *, batch_size: int = 512) -> Array:
        """Return the posterior mean of every cell, ``(cells, latent)``."""
        means: Array = self.means(self.batches(cells), batch_size=batch_size).cpu().numpy()
        return means

    @torch.no_grad()
    def posterior(self, cells: Cells, *, batch_size: int = 512) -> tuple[Array, Array]:
        """Return the posterior's mean and variance of every cell, ``(cells, latent)`` each."""
        batches = self.eval().batches(cells)
        both = batches.rows(lambda batch: torch.stack(self.encode(batch), dim=1), batch_size=batch_size)
        mean, variance = both.cpu().numpy().swapaxes(0, 1)
        return mean, variance

    @torch.no_grad()
    def reconstruction_losses(self, cells: Cells, *, batch_size: int | None = None) -> Array:
        """Return each cell's :meth:`cell_losses`, ``(cells,)``."""
        batches = self.eval().batches(cells)
        losses: Array = batches.rows(self.cell_losses, batch_size=batch_size or self.cells_at_once).cpu().numpy()
        return losses

    def trial_losses(self, cells: Cells, trials: Sequence[Mapping[str, str]]) -> NDArray[np.float64]:
        """Return the mean reconstruction loss of ``cells`` as if each trial's categories were theirs, ``(trials,)``."""
        columns = [{key: np.full(len(cells), name) for key, name in trial.items()} for trial in trials]
        tried = [replace(cells, conditions=cells.conditions | column) for column in columns]
        return np.array([self.reconstruction_losses(each).mean(dtype=np.float64) for each in tried])

    def gene_usage(self) -> Array:
        """Return how much the encoder uses each gene: the L2 norm of its first-layer weights, ``(genes,)``."""
        usage: Array = torch.linalg.vector_norm(self.first_weight().detach(), dim=0).cpu().numpy()
        return usage

    # --- surgery -----------------------------------------------------------------------------------------------------

    def grown(self, manifest: Manifest, *, start: Start, cells: Cells, seed: int) -> tuple[Self, dict[str, str]]:
        """Return the same function on old categories with trainable rows for the manifest's new ones.

        Parameters
        ----------
        manifest
            This network's manifest with categories, combinations and labels appended.
        start
            How new rows start: ``random`` (seeded, as in a new network), ``mean`` of the reference's rows, or ``best``:
            those of the reference category under which the new category's cells are reconstructed best
            (scArches' shot surgery).
        cells
            The query, for ``best``, and for what is not trained.
        seed
            Of random rows and of the cells ``best`` tries.

        Returns
        -------
        tuple
            The network, and for ``best`` which reference category each new one was started from.
        """
        network = type(self).build(manifest, seed=seed)
        network.load(padded(self.tensors(), network.tensors()))
        network.look_at(cells)
        return network, START[start](self, network, cells, seed)

    def best_sources(self, new: Vocabulary, cells: Cells, *, seed: int) -> Sources:
        """Return, for each axis, the reference's entry that each new entry starts best from."""
        return by_key(self, new, cells, seed)


def with_sum(loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a forward gives: the loss, the sum of its terms without weights, and the terms."""
    return {"loss": loss, "unweighted": torch.stack(list(terms.values())).sum(), **terms}


def padded(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return old tensors with the rows that only the new network has appended: random rows, or zero prototypes.

    Unlabelled prototypes, of which the new network has none, are left behind: they are of the old cells. Tensors that
    only the new network has, those of terms that surgery added, are its own.
    """
    known = {name: old.get(name, rows) for name, rows in new.items()}
    return {name: torch.cat([rows, new[name][len(rows) :]])[: len(new[name])] for name, rows in known.items()}


def owner_of(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that has a tensor or a module at a dotted path, and what it calls it."""
    owner, _, attribute = path.rpartition(".")
    return module.get_submodule(owner), attribute


def read(module: nn.Module, path: str) -> Tensor:
    """Return the tensor at a dotted path; of a growing table, all rows as one."""
    owner, attribute = owner_of(module, path)
    tensor: Tensor = owner.rows if isinstance(owner, GrowingTable) else getattr(owner, attribute)
    return tensor


@torch.no_grad()
def write(module: nn.Module, path: str, value: Tensor) -> None:
    """Take over a tensor at a dotted path, to the bit."""
    owner, attribute = owner_of(module, path)
    if isinstance(owner, GrowingTable):
        owner.load(value)
    elif parametrize.is_parametrized(owner, attribute):
        setattr(owner, attribute, value.detach())
    else:
        getattr(owner, attribute).copy_(value)


# --- how the rows of new categories start ---------------------------------------------------------------------------


@torch.no_grad()
def _mean(old: Network, new: Network, cells: Cells, seed: int) -> dict[str, str]:
    for part in (part for parts in new.growing().values() for part in parts):
        part.query.copy_(part.reference.mean(part.dim, keepdim=True).expand_as(part.query))
    return {}


@torch.no_grad()
def _best(old: Network, new: Network, cells: Cells, seed: int) -> dict[str, str]:
    """Start each new row from the reference's that reconstructs its cells best; without cells, from the mean."""
    _mean(old, new, cells, seed)
    sources, growing = old.best_sources(new.vocabulary, cells, seed=seed), new.growing()
    for axis, codes in sources.items():
        for part in growing.get(axis, []):
            for offset, code in codes.items():
                part.query.select(part.dim, offset).copy_(part.reference.select(part.dim, code))
    return {
        f"{key}={names.new[offset]}": names.names[code]
        for axis, (key, names) in _by_axis(new.vocabulary).items()
        for offset, code in sources.get(axis, {}).items()
    }


START: Mapping[str, Callable[[Network, Network, Cells, int], dict[str, str]]] = {
    "random": lambda *_: {},
    "mean": _mean,
    "best": _best,
}


def _by_axis(vocabulary: Vocabulary) -> dict[str, tuple[str, Names]]:
    """Return every categorical key and its names, by the axis that tensors have."""
    found = {f"conditions.{key}": (key, names) for key, names in vocabulary.conditions.items()}
    return found | {f"categorical.{key}": (key, names) for key, names in vocabulary.covariates.items()}


def by_key(old: Network, new: Vocabulary, cells: Cells, seed: int) -> Sources:
    """Return the best sources of new categories, one key after another."""
    before = _by_axis(old.vocabulary)
    known = {key: cells.conditions[key].astype(object) for key, _ in before.values()}
    for key, names in before.values():
        known[key][~np.isin(known[key], names.names)] = names.names[0]
    found: Sources = {axis: {} for axis in before}
    for axis, (key, names) in _by_axis(new).items():
        categories = before[axis][1].names
        for offset, name in enumerate(names.new):
            rows = np.flatnonzero(cells.conditions[key] == name)
            if len(rows):
                tried = replace(cells, conditions=cells.conditions | known).rows(drawn(rows, seed))
                best = int(old.trial_losses(tried, [{key: category} for category in categories]).argmin())
                known[key][rows] = categories[best]
                found[axis][offset] = best
    return found


def by_combination(old: Network, new: Vocabulary, cells: Cells, seed: int) -> Sources:
    """Return the best sources of new combinations of conditions, and of the categories that occur in them."""
    known, rows = old.vocabulary.combinations, new.combinations
    trials = [dict(zip(new.conditions, names, strict=True)) for names in known]
    codes = new.combination_codes(new.condition_codes(cells.conditions))
    losses: dict[int, NDArray[np.float64]] = {}
    for code in sorted(set(codes[codes >= len(known)].tolist())):
        losses[code] = old.trial_losses(cells.rows(drawn(np.flatnonzero(codes == code), seed)), trials)
    found: Sources = {"combinations": {code - len(known): int(loss.argmin()) for code, loss in losses.items()}}
    for position, (key, names) in enumerate(new.conditions.items()):
        found[f"conditions.{key}"] = {}
        for offset, name in enumerate(names.new):
            seen = [loss for code, loss in losses.items() if rows[code][position] == name]
            if seen:
                source = known[int(np.mean(seen, axis=0).argmin())][position]
                found[f"conditions.{key}"][offset] = names.names.index(source)
    return found


def drawn(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the rows that are tried, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:CELLS_PER_TRIAL])
