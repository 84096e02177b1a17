"""What conditional VAEs have in common: encoder, likelihoods, surgery of condition rows, and how training treats them.

Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models", NeurIPS 2015;
surgery: Lotfollahi et al. 2022, doi 10.1038/s41587-021-01001-7.

Where all of them differ on purpose from scArches 0.6.1: surgery trains the rows of new conditions and nothing else, so
that reference cells stay where they were to the bit; frozen networks run without dropout and with batch
normalisation's running statistics; validation losses come from the posterior mean instead of a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hub_client import errors
from hub_client.data.batches import Batch, Batches
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.configs import ExpiMap, ScPoli, TrVAE
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest, TensorSpec
from hub_client.models.architectures._base import Array, Scores, Start
from hub_client.nn import losses
from hub_client.nn.layers import Axis, Dense, Embedded, GrowingTable, HiddenLayers, OneHot, tensor_axes
from hub_client.nn.training import History, Runtime, Split, run

VARIANCE_FLOOR = 1e-4
DISPERSED = ("nb", "zinb")
CELLS_PER_TRIAL = 2000
"""How many cells of a new condition are tried under each reference condition when rows start from the best one."""
Config = ScPoli | TrVAE | ExpiMap
Conditions = Embedded | OneHot | None
"""How a layer reads the conditions; None where they are not injected."""


class Posterior(Protocol):
    """An encoder: hidden layers whose first one reads expression and conditions, and the latent's mean and variance."""

    hidden: HiddenLayers

    def __call__(self, product: Tensor, conditions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and variance, ``(cells, latent)`` each, from the first layer's expression part."""
        ...


class Encoder(nn.Module):
    """Expression and conditions to the latent's mean and variance."""

    def __init__(self, config: Config, widths: list[Axis], latent: Axis, conditions: Conditions) -> None:
        super().__init__()
        self.hidden = HiddenLayers(
            widths, conditions=conditions, bias=True, normalization=config.normalization, dropout=config.dropout
        )
        self.mean = Dense(widths[-1], latent)
        self.log_variance = Dense(widths[-1], latent)

    def forward(self, product: Tensor, conditions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and variance, ``(cells, latent)`` each, from the first layer's expression part."""
        hidden = self.hidden.after_first(self.hidden.first.join(product, conditions))
        return self.mean(hidden), torch.exp(self.log_variance(hidden)) + VARIANCE_FLOOR


class Decoded(NamedTuple):
    """The parameters of the distribution of a minibatch's expression.

    Attributes
    ----------
    mean
        Expected counts (or log1p counts for mse), ``(cells, genes)``.
    dropout_logits
        Log-odds that a count was dropped, ``(cells, genes)``; None but for zinb.
    """

    mean: Tensor
    dropout_logits: Tensor | None = None


class Decoder(nn.Module):
    """Latent and conditions through hidden layers to the parameters of the counts' distribution."""

    def __init__(self, config: Config, widths: list[Axis], genes: Axis, conditions: Conditions) -> None:
        super().__init__()
        self.config = config
        self.hidden = HiddenLayers(
            widths, conditions=conditions, bias=False, normalization=config.normalization, dropout=config.dropout
        )
        self.mean = Dense(widths[-1], genes)
        self.dropout = Dense(widths[-1], genes) if config.likelihood == "zinb" else None

    def forward(self, z: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the last hidden layer, ``(cells, hidden.0)``."""
        hidden: Tensor = self.hidden(z, conditions)
        return hidden

    def dropout_logits(self, hidden: Tensor) -> Tensor:
        """Return the log-odds that a count was dropped, ``(cells, genes)``."""
        if self.dropout is None:
            raise errors.Unsupported(
                "only zinb models have dropout logits.", kind=self.config.kind, verb="dropout_logits"
            )
        logits: Tensor = self.dropout(hidden)
        return logits

    def decoded(self, hidden: Tensor, size_factor: Tensor) -> Decoded:
        """Return the parameters from the last hidden layer and the cells' counts, ``(cells,)``."""
        mean = EXPECTED[self.config.likelihood](self.mean(hidden), size_factor)
        return Decoded(mean, None if self.dropout is None else self.dropout_logits(hidden))


def _scaled_fraction(outputs: Tensor, size_factor: Tensor) -> Tensor:
    return torch.softmax(outputs, dim=1) * size_factor[:, None]


def _fraction(outputs: Tensor, size_factor: Tensor) -> Tensor:
    """Poisson: like scArches, the rate is the softmax itself, without the size factor."""
    return torch.softmax(outputs, dim=1)


def _positive(outputs: Tensor, size_factor: Tensor) -> Tensor:
    return F.relu(outputs)


EXPECTED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nb": _scaled_fraction,
    "zinb": _scaled_fraction,
    "poisson": _fraction,
    "mse": _positive,
}
"""The mean that hidden decoders give, from the last linear map's outputs and the size factor."""


def kl_weight(plan: Plan, epoch: int) -> float:
    """Return the KL term's weight in an epoch: it rises linearly from 0."""
    rise = epoch / plan.kl_anneal_epochs if plan.kl_anneal_epochs else 1.0
    return plan.kl_weight * min(rise, 1.0)


def sampled(mean: Tensor, variance: Tensor, *, noise: Tensor | None, sample: bool) -> Tensor:
    """Return a point of the posterior, ``(cells, latent)``: at a standard normal ``noise``, drawn where it is None.

    ``sample=False`` is the posterior mean where no noise is given. Kingma and Welling 2014, section 2.4.
    """
    noise = torch.randn_like(mean) if noise is None and sample else noise
    return mean if noise is None else mean + torch.sqrt(variance) * noise


class ConditionalVae(nn.Module, ABC):
    """A network whose encoder and decoder are told each cell's conditions, in rows of tables that surgery grows.

    A subclass builds ``encoder``, ``decoder`` and ``theta`` in its ``__init__``, after this one's, and then calls
    :meth:`freeze_reference`.
    """

    kind: ClassVar[str]
    config: Config
    encoder: Posterior
    theta: GrowingTable | None

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        if manifest.architecture.kind != self.kind:
            raise errors.ManifestError(
                f"the manifest's architecture is {manifest.architecture.kind}; this network's is {self.kind}.",
                path="architecture.kind",
            )
        self.manifest = manifest
        self.vocabulary = Vocabulary.of(manifest)
        self.grown_by_surgery = manifest.lineage is not None and manifest.lineage.relation == "surgery"
        self.keep_dropout = False

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Self:
        """Return a freshly initialised network with the manifest's axes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(manifest).eval()

    # --- what each kind says -----------------------------------------------------------------------------------------

    @abstractmethod
    def condition_inputs(self, batch: Batch) -> Tensor | None:
        """Return what the layers read of each cell's conditions: embeddings ``(cells, embedding)``, or codes."""

    @abstractmethod
    def condition_tables(self) -> list[list[GrowingTable]]:
        """Return, for each condition key, the tables that have a row for each of its categories."""

    @abstractmethod
    def decode(self, batch: Batch, z: Tensor, conditions: Tensor | None) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""

    @abstractmethod
    def first_layers(self) -> list[nn.Module]:
        """Return what reads expression or the latent first, without the conditions' tables."""

    @abstractmethod
    def parameter_groups(self, plan: Plan) -> list[dict[str, Any]]:
        """Return what may move, with its weight decay."""

    # --- building ----------------------------------------------------------------------------------------------------

    def named_axes(self) -> dict[str, Axis]:
        """Return the manifest's axes by name."""
        return {name: Axis(name, size) for name, size in self.manifest.axes().items()}

    def hidden_axes(self) -> list[Axis]:
        """Return the axes of the encoder's hidden layers, in their order."""
        named = self.named_axes()
        return [named[f"hidden.{index}"] for index in range(len(self.config.hidden))]

    def dispersion_table(self) -> GrowingTable | None:
        """Return a table of log inverse dispersions for likelihoods that have them, ``(combinations, genes)``."""
        if self.config.likelihood not in DISPERSED:
            return None
        named = self.named_axes()
        return GrowingTable(named["combinations"], named["genes"], reference=self.vocabulary.reference_combinations)

    def freeze_reference(self) -> None:
        """After surgery, let nothing train but the rows it added."""
        if self.grown_by_surgery:
            self.requires_grad_(False)
            for table in self.tables():
                table.query.requires_grad_(True)

    def tables(self) -> list[GrowingTable]:
        """Return every table that surgery grows."""
        conditions = [table for tables in self.condition_tables() for table in tables]
        return [*conditions, *([self.theta] if self.theta is not None else [])]

    # --- tensors -----------------------------------------------------------------------------------------------------

    def specs(self) -> tuple[TensorSpec, ...]:
        """Return name, dtype and axis names of every tensor a release of this network holds."""
        axes = tensor_axes(self) | self.bare_axes()
        return tuple(TensorSpec(name=name, dtype="F32", shape=shape) for name, shape in sorted(axes.items()))

    @abstractmethod
    def bare_axes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of tensors that no layer owns."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of :meth:`specs`, on the CPU; reference and query rows as one."""
        found = {name: table.rows for name, table in self._named_tables().items()}
        state = self.state_dict()
        found |= {spec.name: state[spec.name] for spec in self.specs() if spec.name in state}
        return {name: tensor.detach().cpu().clone() for name, tensor in sorted(found.items())}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over tensors as :meth:`tensors` returned them."""
        tables = self._named_tables()
        for name, table in tables.items():
            table.load(tensors[name])
        state = self.state_dict()
        with torch.no_grad():
            for spec in self.specs():
                if spec.name not in tables:
                    state[spec.name].copy_(tensors[spec.name])

    def _named_tables(self) -> dict[str, GrowingTable]:
        return {f"{name}.rows": table for name, table in self.named_modules() if isinstance(table, GrowingTable)}

    # --- the function ------------------------------------------------------------------------------------------------

    def expression_product(self, batch: Batch) -> Tensor:
        """Return the first layer's product of expression and weights, ``(cells, hidden.0)``."""
        if batch.expression is not None:
            return batch.expression
        product: Tensor = self.encoder.hidden.first.expression(self.expression(batch))
        return product

    def expression(self, batch: Batch) -> Tensor:
        """Return what encoders read of each cell, ``(cells, genes)``: log1p counts; for mse the values as they are."""
        return batch.dense(batch.values if self.config.likelihood == "mse" else torch.log1p(batch.values))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the latent's posterior mean and variance, ``(cells, latent)`` each."""
        return self.encoder(self.expression_product(batch), self.condition_inputs(batch))

    def reconstruction(self, batch: Batch, z: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats; squared error for mse) of each cell at ``z``, ``(cells,)``."""
        return self.compared(batch, self.decode(batch, z, self.condition_inputs(batch)))

    def compared(self, batch: Batch, decoded: Decoded) -> Tensor:
        """Return the negative log-likelihood (nats; squared error for mse) of each cell, ``(cells,)``."""
        return RECONSTRUCTIONS[self.config.likelihood](self, batch, decoded)

    @property
    def log_theta(self) -> Tensor:
        """Log inverse dispersion, ``(combinations, genes)``."""
        if self.theta is None:
            raise errors.Unsupported(
                f"likelihood {self.config.likelihood!r} has no dispersion.", kind=self.kind, verb="log_theta"
            )
        return self.theta.rows

    # --- training: what the loop asks --------------------------------------------------------------------------------

    def in_training(self) -> list[nn.Module]:
        """Return what runs in training mode: everything, or after surgery the tables that grew.

        The frozen network runs as in inference, without dropout unless ``keep_dropout`` is set (scArches'
        ``remove_dropout=False``), and never updates the running statistics of batch normalisation.
        """
        if not self.grown_by_surgery:
            return [self]
        dropouts = [module for module in self.modules() if isinstance(module, nn.Dropout)]
        return [*self.tables(), *(dropouts if self.keep_dropout else [])]

    def before_training(self, plan: Plan, data: Split) -> None:
        """Compute frozen first-layer products once instead of once an epoch."""
        if not self.encoder.hidden.first.expression.weight.requires_grad:
            data.batches.expression = self._products(data.batches)

    @torch.no_grad()
    def _products(self, batches: Batches) -> Tensor:
        return batches.rows(self.expression_product, batch_size=1024)

    def moving(self) -> list[nn.Parameter]:
        """Return the parameters that may move."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.numel()]

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
        found: Array = self.means(self.batches(cells), batch_size=batch_size).cpu().numpy()
        return found

    def posterior(self, cells: Cells, *, batch_size: int = 512) -> tuple[Array, Array]:
        """Return the posterior's mean and variance of every cell, ``(cells, latent)`` each."""
        self.eval()
        with torch.no_grad():
            both = self.batches(cells).rows(lambda batch: torch.stack(self.encode(batch), dim=1), batch_size=batch_size)
        mean, variance = both.cpu().numpy().swapaxes(0, 1)
        return mean, variance

    @torch.no_grad()
    def reconstruction_losses(self, cells: Cells, *, batch_size: int = 1024) -> Array:
        """Return each cell's reconstruction loss at its posterior mean, ``(cells,)`` (nats; squared error for mse)."""
        batches = self.eval().batches(cells)
        found = batches.rows(lambda batch: self.reconstruction(batch, self.encode(batch)[0]), batch_size=batch_size)
        losses: Array = found.cpu().numpy()
        return losses

    def gene_usage(self) -> Array:
        """Return the L2 norm of each gene's first-layer weights, ``(genes,)``."""
        weight = self.encoder.hidden.first.expression.weight
        usage: Array = torch.linalg.vector_norm(weight.detach(), dim=0).cpu().numpy()
        return usage

    # --- surgery -----------------------------------------------------------------------------------------------------

    def grown(self, manifest: Manifest, *, start: Start, cells: Cells, seed: int) -> tuple[Self, dict[str, str]]:
        """Return the same function on old conditions with trainable rows for the manifest's new ones.

        Parameters
        ----------
        manifest
            This network's manifest with conditions, combinations and labels appended.
        start
            How new rows start: ``random`` (seeded, as in a new network), ``mean`` of the reference's rows, or ``best``:
            those of the reference condition under which the new condition's cells are reconstructed best
            (scArches' shot surgery).
        cells
            The query, for ``best``.
        seed
            Of random rows and of the cells ``best`` tries.

        Returns
        -------
        tuple
            The network, and for ``best`` which reference condition each new one was started from.
        """
        network = type(self).build(manifest, seed=seed)
        network.load(padded(self.tensors(), network.tensors()))
        return network, START[start](self, network, cells, seed)

    def trial_losses(self, cells: Cells, combinations: list[int]) -> NDArray[np.float64]:
        """Return the mean reconstruction loss of ``cells`` as if each combination were theirs, ``(combinations,)``."""
        rows = self.vocabulary.combinations
        return np.array([self._trial(cells, rows[code]) for code in combinations])

    def _trial(self, cells: Cells, combination: tuple[str, ...]) -> float:
        keys = self.vocabulary.conditions
        names = {key: np.full(len(cells), value) for key, value in zip(keys, combination, strict=True)}
        return float(self.reconstruction_losses(replace(cells, conditions=names)).mean(dtype=np.float64))

    def restrict(self, parts: Literal["all", "expression"]) -> None:
        """Let only some parts train: all, or the condition rows and the first layers."""
        if parts == "expression":
            self.requires_grad_(False)
            for module in (*self.tables(), *self.first_layers()):
                module.requires_grad_(True)


class OneHotVae(ConditionalVae):
    """A conditional VAE with one condition, one-hot, and no classifier: trVAE and expiMap."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        keys = [condition.key for condition in manifest.conditions]
        if len(keys) > 1:
            raise errors.ManifestError(
                f"{self.kind} has one condition key, and the manifest has {len(keys)}: {errors.names(keys)}. "
                "Join them into one obs column, or use scPoli.",
                path="conditions",
            )

    def condition(self) -> OneHot | None:
        """Return how layers read the condition; None where the model has none."""
        named = self.named_axes()
        axes = [OneHot(named[f"conditions.{key}"], a.reference) for key, a in self.vocabulary.conditions.items()]
        return axes[0] if axes else None

    def condition_inputs(self, batch: Batch) -> Tensor | None:
        """Return the code of each cell's condition, ``(cells,)``."""
        return batch.conditions[:, 0] if batch.conditions.shape[1] else None

    def condition_tables(self) -> list[list[GrowingTable]]:
        """Return the tables with a row of first-layer weights for each category."""
        tables = [module for module in self.modules() if isinstance(module, GrowingTable) and module is not self.theta]
        return [tables] if tables else []

    def bare_axes(self) -> dict[str, tuple[str, ...]]:
        """Return nothing: every tensor belongs to a layer."""
        return {}

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move: everything, or after surgery the rows of new conditions."""
        return run(self, cells, plan=plan, seed=seed, runtime=runtime, vocabulary=self.vocabulary)

    def first_judged_epoch(self, plan: Plan, data: Split) -> int:
        """Return 0: every epoch has the same terms."""
        return 0

    def parameter_groups(self, plan: Plan) -> list[dict[str, Any]]:
        """Return what may move, all with the plan's weight decay."""
        moving = self.moving()
        return [{"params": moving, "weight_decay": plan.weight_decay}] if moving else []

    def before_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Do nothing: there are no prototypes to place."""

    def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Do nothing: there are no prototypes to move."""

    def after_training(self, plan: Plan, data: Split) -> None:
        """Do nothing: there are no prototypes to place."""

    def score(self, latent: Array) -> dict[str, Scores]:
        """Return nothing: labels come from the reference's cells."""
        return {}

    def labelled(self, manifest: Manifest, *, level: str, clusters: Sequence[int], cells: Cells) -> Self:
        """Refuse: only architectures with prototypes can learn a label from them.

        Raises
        ------
        Unsupported
            Always.
        """
        raise errors.Unsupported(
            f"{self.kind} has no prototypes, so no label can be added to level {level!r}; scPoli has.",
            kind=self.kind,
            verb="add_label",
        )


def padded(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return old tensors with the rows that only the new network has appended: random rows, or zero prototypes.

    Unlabelled prototypes, of which the new network has none, are left behind: they are of the old cells. Tensors that
    only the new network has, those of terms that surgery added, are its own.
    """
    known = {name: old.get(name, rows) for name, rows in new.items()}
    return {name: torch.cat([rows, new[name][len(rows) :]])[: len(new[name])] for name, rows in known.items()}


# --- how new rows start ----------------------------------------------------------------------------------------------


def _random(old: ConditionalVae, new: ConditionalVae, cells: Cells, seed: int) -> dict[str, str]:
    return {}


@torch.no_grad()
def _mean(old: ConditionalVae, new: ConditionalVae, cells: Cells, seed: int) -> dict[str, str]:
    for table in new.tables():
        table.query.copy_(table.reference.mean(0).expand_as(table.query))
    return {}


@torch.no_grad()
def _best(old: ConditionalVae, new: ConditionalVae, cells: Cells, seed: int) -> dict[str, str]:
    """Start each new row from the reference's row that reconstructs its cells best."""
    _mean(old, new, cells, seed)
    known, rows = old.vocabulary.combinations, new.vocabulary.combinations
    codes = new.vocabulary.combination_codes(new.vocabulary.condition_codes(cells.conditions))
    trials: dict[int, NDArray[np.float64]] = {}
    for code in sorted(set(codes[codes >= len(known)].tolist())):
        tried = cells.rows(drawn(np.flatnonzero(codes == code), seed))
        trials[code] = old.trial_losses(tried, list(range(len(known))))
        if new.theta is not None:
            new.theta.query[code - len(known)] = new.theta.reference[int(trials[code].argmin())]
    choices = {}
    for position, (key, axis) in enumerate(new.vocabulary.conditions.items()):
        for offset, name in enumerate(axis.new):
            seen = [code for code in trials if rows[code][position] == name]
            source = _best_category(known, position, [trials[code] for code in seen])
            if source is not None:
                row = old.vocabulary.conditions[key].names.index(source)
                for table in new.condition_tables()[position]:
                    table.query[offset] = table.reference[row]
                choices[f"{key}={name}"] = source
    return choices


def drawn(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the rows that are tried, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:CELLS_PER_TRIAL])


def _best_category(known: tuple[tuple[str, ...], ...], position: int, trials: list[NDArray[np.float64]]) -> str | None:
    """Return the known category of one key under which a new category's cells have the smallest mean loss."""
    if not trials:
        return None
    loss = np.mean(trials, axis=0)
    return known[int(loss.argmin())][position]


START: dict[Start, Callable[[ConditionalVae, ConditionalVae, Cells, int], dict[str, str]]] = {
    "random": _random,
    "mean": _mean,
    "best": _best,
}


# --- likelihoods -----------------------------------------------------------------------------------------------------


def _counts_loss(network: ConditionalVae, batch: Batch, decoded: Decoded) -> Tensor:
    """Negative binomial, with an inverse dispersion per gene and combination of conditions."""
    return losses.negative_binomial(batch.nonzero, decoded.mean, log_theta=network.log_theta, codes=batch.combinations)


def _inflated_loss(network: ConditionalVae, batch: Batch, decoded: Decoded) -> Tensor:
    return losses.zero_inflated_negative_binomial(
        batch.nonzero,
        decoded.mean,
        log_theta=network.log_theta,
        codes=batch.combinations,
        dropout_logits=cast(Tensor, decoded.dropout_logits),
    )


def _poisson_loss(network: ConditionalVae, batch: Batch, decoded: Decoded) -> Tensor:
    return losses.poisson(batch.nonzero, decoded.mean)


def _squared_error(network: ConditionalVae, batch: Batch, decoded: Decoded) -> Tensor:
    return losses.mean_squared_error(batch.dense(batch.values), decoded.mean)


RECONSTRUCTIONS: Mapping[str, Callable[[ConditionalVae, Batch, Decoded], Tensor]] = {
    "nb": _counts_loss,
    "zinb": _inflated_loss,
    "poisson": _poisson_loss,
    "mse": _squared_error,
}
