"""scPoli: a conditional VAE with condition embeddings and label prototypes.

De Donno, Hediyeh-Zadeh, Moinfar et al., "Population-level integration of single-cell datasets enables multi-scale
analysis across samples", Nature Methods 20 (2023), doi 10.1038/s41592-023-02035-2.

Where this differs on purpose from scArches 0.6.1: surgery trains the rows of new conditions and nothing else; frozen
networks run without dropout and with batch normalisation's running statistics; prototypes, labels and validation losses
come from the posterior mean instead of a sample; unlabelled prototypes are made only where their weight is not 0 or
somebody asks for them; a label name that occurs at two levels has a prototype at each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hub_client import errors
from hub_client.architectures._base import Array, Scores, Start
from hub_client.data.batches import Batch, Batches
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.configs import ScPoli as Config
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Embedding, Manifest, TensorSpec
from hub_client.nn import losses
from hub_client.nn.clusters import clusters
from hub_client.nn.layers import Axis, Dense, GrowingTable, HiddenLayers, tensor_axes
from hub_client.nn.prototypes import PrototypeTable, unlabelled_loss
from hub_client.nn.training import History, Runtime, Split, run

VARIANCE_FLOOR = 1e-4
DISPERSED = ("nb", "zinb")
CELLS_PER_TRIAL = 2000
"""How many cells of a new condition are tried under each reference condition when rows start from the best one."""


class Encoder(nn.Module):
    """Expression and condition embeddings to the latent's mean and variance."""

    def __init__(self, config: Config, widths: list[Axis], latent: Axis, conditions: Axis | None) -> None:
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


class Decoder(nn.Module):
    """Latent and condition embeddings to the parameters of the counts' distribution."""

    def __init__(self, config: Config, widths: list[Axis], genes: Axis, conditions: Axis | None) -> None:
        super().__init__()
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
            raise errors.Unsupported("only zinb models have dropout logits.", kind="scpoli", verb="dropout_logits")
        logits: Tensor = self.dropout(hidden)
        return logits


class ScPoli(nn.Module):
    """The network a manifest of kind ``scpoli`` describes."""

    kind: ClassVar[str] = "scpoli"

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        if not isinstance(manifest.architecture, Config):
            raise errors.ManifestError(
                f"an scpoli network cannot be built from a {manifest.architecture.kind} manifest."
            )
        self.manifest, self.config = manifest, manifest.architecture
        self.vocabulary = Vocabulary.of(manifest)
        self.grown_by_surgery = manifest.lineage is not None and manifest.lineage.relation == "surgery"
        named = {name: Axis(name, size) for name, size in manifest.axes().items()}
        conditions = named["embedding"] if named["embedding"].size else None
        hidden = [named[f"hidden.{index}"] for index in range(len(self.config.hidden))]
        self.embeddings = nn.ModuleList([self._embedding(c.key, c.encoding, named) for c in manifest.conditions])
        self.encoder = Encoder(
            self.config,
            [named["genes"], *hidden],
            named["latent"],
            conditions if "encoder" in self.config.inject else None,
        )
        self.decoder = Decoder(
            self.config,
            [named["latent"], *reversed(hidden)],
            named["genes"],
            conditions if "decoder" in self.config.inject else None,
        )
        self.theta = self._theta(named)
        self.prototypes = nn.ModuleList([self._prototypes(key, named) for key in self._prototype_levels()])
        self.register_buffer("unlabelled", torch.zeros(manifest.prototypes.unlabelled, self.config.latent))
        self.keep_dropout = False
        self._freeze()

    @classmethod
    def build(cls, manifest: Manifest, *, seed: int = 0) -> Self:
        """Return a freshly initialised network with the manifest's axes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(manifest).eval()

    def _embedding(self, key: str, encoding: object, named: dict[str, Axis]) -> GrowingTable:
        if not isinstance(encoding, Embedding):
            raise errors.ManifestError(
                f"condition {key!r} is one-hot, but scPoli embeds conditions: use encoding.kind = 'embedding'.",
                path=f"conditions.{key}.encoding",
            )
        axis = self.vocabulary.conditions[key]
        return GrowingTable(
            named[f"conditions.{key}"],
            named[f"embedding.{key}"],
            reference=axis.reference,
            max_norm=encoding.max_norm,
        )

    def _theta(self, named: dict[str, Axis]) -> GrowingTable | None:
        if self.config.likelihood not in DISPERSED:
            return None
        reference = self.vocabulary.reference_combinations
        return GrowingTable(named["combinations"], named["genes"], reference=reference)

    def _prototype_levels(self) -> list[str]:
        return [level.level for level in self.manifest.prototypes.levels]

    def _prototypes(self, key: str, named: dict[str, Axis]) -> PrototypeTable:
        frozen = self.vocabulary.labels[key].reference if self.grown_by_surgery else 0
        return PrototypeTable(named[f"labels.{key}"], named["latent"], frozen=frozen)

    def _freeze(self) -> None:
        if self.grown_by_surgery:
            self.requires_grad_(False)
            for table in self.tables():
                table.query.requires_grad_(True)

    def tables(self) -> list[GrowingTable]:
        """Return every table that surgery grows."""
        return [*self._embedding_tables(), *([self.theta] if self.theta is not None else [])]

    def _embedding_tables(self) -> list[GrowingTable]:
        return [table for table in self.embeddings if isinstance(table, GrowingTable)]

    def _prototype_tables(self) -> list[PrototypeTable]:
        return [table for table in self.prototypes if isinstance(table, PrototypeTable)]

    # --- tensors ---------------------------------------------------------------------------------------------------

    def specs(self) -> tuple[TensorSpec, ...]:
        """Return name, dtype and axis names of every tensor a release of this network holds."""
        axes = tensor_axes(self) | {"unlabelled": ("prototypes.unlabelled", "latent")}
        return tuple(TensorSpec(name=name, dtype="F32", shape=shape) for name, shape in sorted(axes.items()))

    def facts(self) -> dict[str, object]:
        """Return the manifest's fields that training can change."""
        prototypes = self.manifest.prototypes.model_copy(update={"unlabelled": len(self.unlabelled)})
        return {"prototypes": prototypes}

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of :meth:`specs`, on the CPU; reference and query rows as one."""
        tables = {name: module for name, module in self.named_modules() if isinstance(module, GrowingTable)}
        found = {f"{name}.rows": table.rows for name, table in tables.items()}
        state = self.state_dict()
        found |= {spec.name: state[spec.name] for spec in self.specs() if spec.name in state}
        return {name: tensor.detach().cpu().clone() for name, tensor in sorted(found.items())}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over tensors as :meth:`tensors` returned them."""
        tables = {f"{name}.rows": m for name, m in self.named_modules() if isinstance(m, GrowingTable)}
        for name, table in tables.items():
            table.load(tensors[name])
        state = self.state_dict()
        with torch.no_grad():
            for spec in self.specs():
                if spec.name not in tables:
                    state[spec.name].copy_(tensors[spec.name])

    # --- the function ----------------------------------------------------------------------------------------------

    def condition_rows(self, batch: Batch) -> Tensor | None:
        """Return the concatenated embeddings of each cell's conditions, ``(cells, embedding)``."""
        if not len(self.embeddings):
            return None
        return torch.cat([table(batch.conditions[:, i]) for i, table in enumerate(self.embeddings)], dim=1)

    def expression_product(self, batch: Batch) -> Tensor:
        """Return the first layer's product of expression and weights, ``(cells, hidden.0)``."""
        if batch.expression is not None:
            return batch.expression
        values = batch.values if self.config.likelihood == "mse" else torch.log1p(batch.values)
        product: Tensor = self.encoder.hidden.first.expression(batch.dense(values))
        return product

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the latent's posterior mean and variance, ``(cells, latent)`` each (De Donno 2023, Methods)."""
        mean, variance = self.encoder(self.expression_product(batch), self.condition_rows(batch))
        return mean, variance

    def reconstruction(self, batch: Batch, z: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats; squared error for mse) of each cell at ``z``, ``(cells,)``."""
        return self._compared(batch, self.decoder(z, self.condition_rows(batch)))

    def _compared(self, batch: Batch, hidden: Tensor) -> Tensor:
        return RECONSTRUCTIONS[self.config.likelihood](self, batch, hidden)

    def forward(
        self,
        batch: Batch,
        *,
        kl_weight: float = 1.0,
        prototype_weight: float = 0.0,
        unlabelled_weight: float = 0.0,
        noise: Tensor | None = None,
        sample: bool = True,
    ) -> dict[str, Tensor]:
        """Return the loss, ``reconstruction + kl_weight kl + prototype_weight prototype``, and its terms, over cells.

        ``noise`` is the standard normal draw behind the sampled latent, ``(cells, latent)``; None draws one, and
        ``sample=False`` takes the posterior mean.
        """
        conditions = self.condition_rows(batch)
        mean, variance = self.encoder(self.expression_product(batch), conditions)
        noise = torch.randn_like(mean) if noise is None and sample else noise
        z = mean if noise is None else mean + torch.sqrt(variance) * noise
        terms = {
            "reconstruction": self._compared(batch, self.decoder(z, conditions)).mean(),
            "kl": losses.kl_standard_normal(mean, variance).mean(),
            "prototype": self._weighted_prototypes(z, batch, prototype_weight, unlabelled_weight),
        }
        loss = terms["reconstruction"] + kl_weight * terms["kl"] + prototype_weight * terms["prototype"]
        return {"loss": loss, "unweighted": torch.stack(list(terms.values())).sum(), **terms}

    def prototype_loss(self, z: Tensor, labels: Tensor, *, unlabelled_weight: float = 0.0) -> Tensor:
        """Return the labelled prototypes' loss over all levels plus the weighted unlabelled prototypes' loss."""
        parts = [table.loss(z, codes) for table, codes in self._by_level(labels)]
        if len(self.unlabelled) and unlabelled_weight:
            parts.append(unlabelled_weight * unlabelled_loss(z, self.unlabelled))
        return torch.stack(parts).sum() if parts else z.new_zeros(())

    def _weighted_prototypes(self, z: Tensor, batch: Batch, weight: float, unlabelled_weight: float) -> Tensor:
        return self.prototype_loss(z, batch.labels, unlabelled_weight=unlabelled_weight) if weight else z.new_zeros(())

    # --- training: what the loop asks --------------------------------------------------------------------------------

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move: everything, or after surgery the rows of new conditions.

        A query that brings new labels but no new conditions has no rows to train; its prototypes are placed.
        """
        if not self.parameter_groups(plan) and self._moves(self.batches(cells).labels):
            return self._fit_labels(cells)
        return run(self, cells, plan=plan, seed=seed, runtime=runtime, vocabulary=self.vocabulary)

    def _fit_labels(self, cells: Cells) -> History:
        started = time.perf_counter()
        batches = self.batches(cells)
        self._place(self._means(batches), batches.labels)
        return History(pd.DataFrame(), None, "finished", time.perf_counter() - started, str(batches.device))

    def in_training(self) -> list[nn.Module]:
        """Return what runs in training mode: everything, or after surgery the tables that grew.

        The frozen network runs as in inference, without dropout unless ``keep_dropout`` is set (scArches'
        ``remove_dropout=False``), and never updates the running statistics of batch normalisation.
        """
        if not self.grown_by_surgery:
            return [self]
        dropouts = [module for module in self.modules() if isinstance(module, nn.Dropout)]
        return [*self.tables(), *(dropouts if self.keep_dropout else [])]

    def first_judged_epoch(self, plan: Plan, data: Split) -> int:
        """Return the first epoch with prototypes in the loss, which then has another value; without them, 0."""
        labelled = bool((data.labels >= 0).any())
        join = self._pretraining(plan) if labelled or plan.unlabelled_weight else 0
        return join if join < plan.epochs else 0

    def _pretraining(self, plan: Plan) -> int:
        return int(0.9 * plan.epochs) if plan.pretraining_epochs is None else plan.pretraining_epochs

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch: the KL term rises linearly from 0, prototypes join after pretraining."""
        rise = epoch / plan.kl_anneal_epochs if plan.kl_anneal_epochs else 1.0
        joined = epoch >= self._pretraining(plan)
        return {
            "kl_weight": plan.kl_weight * min(rise, 1.0),
            "prototype_weight": plan.prototype_weight if joined else 0.0,
            "unlabelled_weight": plan.unlabelled_weight if joined else 0.0,
        }

    def parameter_groups(self, plan: Plan) -> list[dict[str, Any]]:
        """Return what may move: condition embeddings without weight decay, the rest with the plan's."""
        embedded = set(self.embeddings.parameters())
        moving = [p for p in self.parameters() if p.requires_grad and p.numel()]
        groups = [
            {"params": [p for p in moving if p in embedded], "weight_decay": 0.0},
            {"params": [p for p in moving if p not in embedded], "weight_decay": plan.weight_decay},
        ]
        return [group for group in groups if group["params"]]

    def before_training(self, plan: Plan, data: Split) -> None:
        """Compute frozen first-layer products once instead of once an epoch."""
        if not self.encoder.hidden.first.expression.weight.requires_grad:
            data.batches.expression = self._products(data.batches)

    @torch.no_grad()
    def _products(self, batches: Batches) -> Tensor:
        return batches.rows(self.expression_product, batch_size=1024)

    def before_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Place the prototypes when they are about to join the loss."""
        if epoch == self._pretraining(plan):
            latent = self._means(data.batches, index=data.train)
            self._place(latent, data.labels)
            if plan.unlabelled_weight and bool((data.labels < 0).any()):
                self._place_unlabelled(latent, plan, seed=int(torch.randint(2**31, ())))

    def after_step(self, plan: Plan, learning_rate: float) -> None:
        """Do nothing: scPoli has no proximal step."""

    def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Move labelled prototypes to their cells' means, unlabelled ones one step down their loss."""
        for table in self._embedding_tables():
            table.shorten()
        steps_unlabelled = bool(len(self.unlabelled) and plan.unlabelled_weight)
        if epoch >= self._pretraining(plan) and (self._moves(data.labels) or steps_unlabelled):
            latent = self._means(data.batches, index=data.train)
            self._place(latent, data.labels)
            if steps_unlabelled:
                self._step_unlabelled(latent, plan)

    def after_training(self, plan: Plan, data: Split) -> None:
        """Place labelled prototypes also where training ended before they joined the loss."""
        if self._moves(data.labels):
            self._place(self._means(data.batches, index=data.train), data.labels)

    def _moves(self, labels: Tensor) -> bool:
        """Return whether prototypes that may move have cells among ``labels``, ``(cells, levels)``."""
        return any(bool((codes >= table.frozen).any()) for table, codes in self._by_level(labels))

    def _place(self, latent: Tensor, labels: Tensor) -> None:
        for table, codes in self._by_level(labels.to(latent.device)):
            table.place(latent, codes)

    def _by_level(self, labels: Tensor) -> list[tuple[PrototypeTable, Tensor]]:
        """Return each table of prototypes with its level's column of ``labels``, ``(cells, levels)``."""
        keys = list(self.vocabulary.labels)
        columns = [labels[:, keys.index(key)] for key in self._prototype_levels()]
        return list(zip(self._prototype_tables(), columns, strict=True))

    def _place_unlabelled(self, latent: Tensor, plan: Plan, *, seed: int) -> None:
        codes = clusters(
            latent.cpu().numpy(),
            method=plan.unlabelled_clustering,
            count=plan.unlabelled_clusters,
            resolution=plan.leiden_resolution,
            seed=seed,
        )
        groups = torch.from_numpy(codes).to(latent.device)
        self.unlabelled = torch.stack([latent[groups == code].mean(0) for code in torch.unique(groups)])

    def _step_unlabelled(self, latent: Tensor, plan: Plan) -> None:
        prototypes = nn.Parameter(self.unlabelled.clone())
        with torch.enable_grad():
            unlabelled_loss(latent, prototypes).backward()  # type: ignore[no-untyped-call]
        optimizer = torch.optim.Adam([prototypes], lr=plan.learning_rate, eps=plan.adam_epsilon)
        optimizer.step()
        self.unlabelled = prototypes.detach()

    def cluster_unlabelled(self, cells: Cells, plan: Plan, *, seed: int = 0) -> None:
        """Put unlabelled prototypes at the means of clusters of all cells' latents, in place."""
        self._place_unlabelled(torch.from_numpy(self.embed(cells)), plan, seed=seed)

    @property
    def log_theta(self) -> Tensor:
        """Log inverse dispersion, ``(combinations, genes)``."""
        if self.theta is None:
            raise errors.Unsupported(
                f"likelihood {self.config.likelihood!r} has no dispersion.", kind=self.kind, verb="log_theta"
            )
        return self.theta.rows

    # --- inference ---------------------------------------------------------------------------------------------------

    def batches(self, cells: Cells) -> Batches:
        """Return cells encoded for this network, where it lives."""
        return Batches(cells, self.vocabulary, device=next(self.parameters()).device)

    @torch.no_grad()
    def _means(self, batches: Batches, *, batch_size: int = 1024, index: Tensor | None = None) -> Tensor:
        training = self.training
        self.eval()
        means = batches.rows(lambda batch: self.encode(batch)[0], batch_size=batch_size, index=index)
        self.train(training)
        return means

    def embed(self, cells: Cells, *, batch_size: int = 512) -> Array:
        """Return the posterior mean of every cell, ``(cells, latent)``."""
        found: Array = self._means(self.batches(cells), batch_size=batch_size).cpu().numpy()
        return found

    def posterior(self, cells: Cells, *, batch_size: int = 512) -> tuple[Array, Array]:
        """Return the posterior's mean and variance of every cell, ``(cells, latent)`` each."""
        self.eval()
        with torch.no_grad():
            both = self.batches(cells).rows(lambda batch: torch.stack(self.encode(batch), dim=1), batch_size=batch_size)
        mean, variance = both.cpu().numpy().swapaxes(0, 1)
        return mean, variance

    def score(self, latent: Array) -> dict[str, Scores]:
        """Return the evidence of each level that has prototypes for points in the latent, ``(points, latent)``."""
        z = torch.from_numpy(np.ascontiguousarray(latent, dtype=np.float32))
        tables = dict(zip(self._prototype_levels(), self._prototype_tables(), strict=True))
        return {
            level: replace(scores, deviations=tables[level].deviations(z).numpy(), shares=tables[level].shares.numpy())
            for level, scores in self.distances(latent).items()
            if bool((tables[level].cells > 0).any())
        }

    def distances(self, latent: Array, *, power: float = 2.0) -> dict[str, Scores]:
        """Return each level's distances of points in the latent, ``(points, latent)``, to its prototypes."""
        z = torch.from_numpy(np.ascontiguousarray(latent, dtype=np.float32))
        found = {}
        for level, table in zip(self._prototype_levels(), self._prototype_tables(), strict=True):
            values = torch.cdist(z, table.means.cpu(), p=power)
            values[:, table.cells.cpu() == 0] = torch.inf
            found[level] = Scores(self.vocabulary.labels[level].names, values.numpy(), "distance")
        return found

    def gene_usage(self) -> Array:
        """Return the L2 norm of each gene's first-layer weights, ``(genes,)``."""
        weight = self.encoder.hidden.first.expression.weight
        usage: Array = torch.linalg.vector_norm(weight.detach(), dim=0).cpu().numpy()
        return usage

    # --- surgery -----------------------------------------------------------------------------------------------------

    def grown(self, manifest: Manifest, *, start: Start, cells: Cells, seed: int) -> tuple[ScPoli, dict[str, str]]:
        """Return the same function on old conditions with trainable rows for the manifest's new ones.

        Parameters
        ----------
        manifest
            This network's manifest with conditions, combinations and labels appended.
        start
            How new rows start: ``random`` (seeded standard normal), ``mean`` of the reference's rows, or ``best``:
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
        network = ScPoli.build(manifest, seed=seed)
        padded = _padded(self.tensors(), network.tensors())
        network.load(padded)
        choices = START[start](self, network, cells, seed)
        return network, choices

    def trial_losses(self, cells: Cells, combinations: list[int]) -> NDArray[np.float64]:
        """Return the mean reconstruction loss of ``cells`` as if each combination were theirs, ``(combinations,)``."""
        rows = self.vocabulary.combinations
        return np.array([self._trial(cells, rows[code]) for code in combinations])

    def _trial(self, cells: Cells, combination: tuple[str, ...]) -> float:
        keys = self.vocabulary.conditions
        names = {key: np.full(len(cells), value) for key, value in zip(keys, combination, strict=True)}
        return float(self.reconstruction_losses(replace(cells, conditions=names)).mean(dtype=np.float64))

    @torch.no_grad()
    def reconstruction_losses(self, cells: Cells, *, batch_size: int = 1024) -> Array:
        """Return each cell's reconstruction loss at its posterior mean, ``(cells,)`` (nats; squared error for mse)."""
        batches = self.eval().batches(cells)
        found = batches.rows(lambda batch: self.reconstruction(batch, self.encode(batch)[0]), batch_size=batch_size)
        losses: Array = found.cpu().numpy()
        return losses

    @torch.no_grad()
    def labelled(self, manifest: Manifest, *, level: str, clusters: Sequence[int], cells: Cells) -> ScPoli:
        """Return the same function with a label more, the last of ``level``, at the mean of unlabelled prototypes.

        Raises
        ------
        VocabularyError
            If there is no unlabelled prototype with such a number.
        """
        if strangers := [number for number in clusters if not 0 <= number < len(self.unlabelled)]:
            raise errors.VocabularyError(
                f"there are no unlabelled prototypes {errors.names(strangers)}; the model has {len(self.unlabelled)}, "
                "numbered from 0.",
                field="clusters",
                unknown=strangers,
                known=range(len(self.unlabelled)),
            )
        network = ScPoli.build(manifest)
        network.load(_padded(self.tensors(), network.tensors()))
        table = network._prototype_tables()[network._prototype_levels().index(level)]
        table.means[-1], table.cells[-1] = self.unlabelled[list(clusters)].mean(0), 1.0
        latent = self.embed(cells)
        nearest = network.distances(latent)[level].values.argmin(axis=1) == len(table.cells) - 1
        table.measure(torch.from_numpy(latent[nearest]), code=-1)
        return network

    def restrict(self, parts: Literal["all", "expression"]) -> None:
        """Let only some parts train: all, or the condition rows and the encoder's first expression weights."""
        if parts == "expression":
            self.requires_grad_(False)
            for module in (*self.tables(), self.encoder.hidden.first.expression):
                module.requires_grad_(True)

    def embedding_rows(self) -> dict[str, Tensor]:
        """Return each condition key's embeddings, ``(conditions, embedding)``."""
        return {k: t.rows.detach() for k, t in zip(self.vocabulary.conditions, self._embedding_tables(), strict=True)}

    def labelled_prototypes(self) -> tuple[Tensor, Tensor]:
        """Return means ``(labels, latent)`` and covariances ``(labels, latent, latent)``, level after level."""
        tables = self._prototype_tables()
        width = self.config.latent
        means = torch.cat([torch.zeros(0, width), *(table.means.cpu() for table in tables)])
        return means, torch.cat([torch.zeros(0, width, width), *(table.covariances.cpu() for table in tables)])

    @torch.no_grad()
    def place_prototypes(self, means: Tensor, covariances: Tensor) -> None:
        """Put the prototypes where :meth:`labelled_prototypes` said they were."""
        sizes = [len(table.cells) for table in self._prototype_tables()]
        if len(means) != sum(sizes):
            raise errors.InvalidInput(
                f"{len(means)} prototypes were given for {sum(sizes)} labels; give one for each label of each level.",
                facts={"prototypes": len(means), "labels": sum(sizes)},
            )
        blocks = (torch.split(means, sizes), torch.split(covariances, sizes))
        parts = zip(self._prototype_tables(), *blocks, strict=True)
        for table, mean, covariance in parts:
            table.means.copy_(mean)
            table.covariances.copy_(covariance)
            table.cells.fill_(1.0)


def _padded(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return old tensors with the rows that only the new network has appended: random rows, or zero prototypes.

    Unlabelled prototypes, of which the new network has none, are left behind: they are of the old cells.
    """
    return {name: torch.cat([old[name], rows[len(old[name]) :]])[: len(rows)] for name, rows in new.items()}


def _random(old: ScPoli, new: ScPoli, cells: Cells, seed: int) -> dict[str, str]:
    return {}


@torch.no_grad()
def _mean(old: ScPoli, new: ScPoli, cells: Cells, seed: int) -> dict[str, str]:
    for table in new.tables():
        table.query.copy_(table.reference.mean(0).expand_as(table.query))
    return {}


@torch.no_grad()
def _best(old: ScPoli, new: ScPoli, cells: Cells, seed: int) -> dict[str, str]:
    """Start each new row from the reference's row that reconstructs its cells best."""
    _mean(old, new, cells, seed)
    known, rows = old.vocabulary.combinations, new.vocabulary.combinations
    codes = new.vocabulary.combination_codes(new.vocabulary.condition_codes(cells.conditions))
    trials: dict[int, NDArray[np.float64]] = {}
    for code in sorted(set(codes[codes >= len(known)].tolist())):
        tried = cells.rows(_drawn(np.flatnonzero(codes == code), seed))
        trials[code] = old.trial_losses(tried, list(range(len(known))))
        if new.theta is not None:
            new.theta.query[code - len(known)] = new.theta.reference[int(trials[code].argmin())]
    choices = {}
    for position, (key, axis) in enumerate(new.vocabulary.conditions.items()):
        for offset, name in enumerate(axis.new):
            seen = [code for code in trials if rows[code][position] == name]
            source = _best_category(known, position, [trials[code] for code in seen])
            if source is not None:
                table = new._embedding_tables()[position]
                table.query[offset] = table.reference[old.vocabulary.conditions[key].names.index(source)]
                choices[f"{key}={name}"] = source
    return choices


def _drawn(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the rows that are tried, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:CELLS_PER_TRIAL])


def _best_category(known: tuple[tuple[str, ...], ...], position: int, trials: list[NDArray[np.float64]]) -> str | None:
    """Return the known category of one key under which a new category's cells have the smallest mean loss."""
    if not trials:
        return None
    loss = np.mean(trials, axis=0)
    return known[int(loss.argmin())][position]


def _fraction(network: ScPoli, hidden: Tensor) -> Tensor:
    return torch.softmax(network.decoder.mean(hidden), dim=1)


def _counts_loss(network: ScPoli, batch: Batch, hidden: Tensor) -> Tensor:
    """Negative binomial: mean = size factor x softmax, an inverse dispersion per gene and combination."""
    mean = _fraction(network, hidden) * batch.size_factor[:, None]
    return losses.negative_binomial(batch.nonzero, mean, log_theta=network.log_theta, codes=batch.combinations)


def _inflated_loss(network: ScPoli, batch: Batch, hidden: Tensor) -> Tensor:
    mean = _fraction(network, hidden) * batch.size_factor[:, None]
    return losses.zero_inflated_negative_binomial(
        batch.nonzero,
        mean,
        log_theta=network.log_theta,
        codes=batch.combinations,
        dropout_logits=network.decoder.dropout_logits(hidden),
    )


def _poisson_loss(network: ScPoli, batch: Batch, hidden: Tensor) -> Tensor:
    """Poisson: like scArches, the rate is the softmax itself, without the size factor."""
    return losses.poisson(batch.nonzero, _fraction(network, hidden))


def _squared_error(network: ScPoli, batch: Batch, hidden: Tensor) -> Tensor:
    return losses.mean_squared_error(batch.dense(batch.values), F.relu(network.decoder.mean(hidden)))


RECONSTRUCTIONS: dict[str, Callable[[ScPoli, Batch, Tensor], Tensor]] = {
    "nb": _counts_loss,
    "zinb": _inflated_loss,
    "poisson": _poisson_loss,
    "mse": _squared_error,
}


START: dict[Start, Callable[[ScPoli, ScPoli, Cells, int], dict[str, str]]] = {
    "random": _random,
    "mean": _mean,
    "best": _best,
}
