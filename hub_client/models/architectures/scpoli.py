"""scPoli: a conditional VAE with condition embeddings and label prototypes.

De Donno, Hediyeh-Zadeh, Moinfar et al., "Population-level integration of single-cell datasets enables multi-scale
analysis across samples", Nature Methods 20 (2023), doi 10.1038/s41592-023-02035-2.

Where this differs on purpose from scArches 0.6.1, besides what all conditional VAEs here do: prototypes and labels come
from the posterior mean instead of a sample; unlabelled prototypes are made only where their weight is not 0 or somebody
asks for them; a label name that occurs at two levels has a prototype at each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.data.cells import Cells
from hub_client.manifest.configs import ScPoliConfig
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Embedding, Manifest
from hub_client.models.architectures._network import Array, Decoded, Scores, padded, with_sum
from hub_client.models.architectures._vae import ConditionalVae, Decoder, Encoder, sampled
from hub_client.nn import losses
from hub_client.nn.clusters import clusters
from hub_client.nn.layers import Axis, Embedded, GrowingTable
from hub_client.nn.processes import of_all_cells
from hub_client.nn.prototypes import PrototypeTable, unlabelled_loss
from hub_client.nn.training import History, Runtime, Split


class ScPoli(ConditionalVae):
    """The network a manifest of kind ``scpoli`` describes."""

    kind: ClassVar[str] = "scpoli"
    labels_term: ClassVar[str | None] = "contrast"
    config: ScPoliConfig

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        named, hidden = self.named_axes(), self.hidden_axes()
        self.embeddings = nn.ModuleList([self._embedding(c.key, c.encoding, named) for c in manifest.conditions])
        embedding = Embedded(named["embedding"]) if named["embedding"].size else None
        encoded, decoded = (embedding if part in self.config.inject else None for part in ("encoder", "decoder"))
        self.encoder = Encoder(self.config, [named["genes"], *hidden], named["latent"], encoded)
        self.decoder = Decoder(self.config, [named["latent"], *reversed(hidden)], named["genes"], decoded)
        self.theta = self.dispersion_table()
        self.prototypes = nn.ModuleList([self._prototypes(key, named) for key in self._prototype_levels()])
        self.register_buffer("unlabelled", torch.zeros(manifest.prototypes.unlabelled, self.config.latent))
        self.freeze_reference()

    def _embedding(self, key: str, encoding: object, named: dict[str, Axis]) -> GrowingTable:
        if not isinstance(encoding, Embedding):
            raise errors.ManifestError(
                f"condition {key!r} is one-hot, but scPoli embeds conditions: use encoding.kind = 'embedding'.",
                path=f"conditions.{key}.encoding",
            )
        axis = self.vocabulary.conditions[key]
        return GrowingTable(
            named[f"conditions.{key}"], named[f"embedding.{key}"], reference=axis.reference, max_norm=encoding.max_norm
        )

    def _prototype_levels(self) -> list[str]:
        return [level.level for level in self.manifest.prototypes.levels]

    def _prototypes(self, key: str, named: dict[str, Axis]) -> PrototypeTable:
        frozen = self.vocabulary.labels[key].reference if self.grown_by_surgery else 0
        return PrototypeTable(named[f"labels.{key}"], named["latent"], frozen=frozen)

    def first_layers(self) -> list[nn.Module]:
        """Return the encoder's first expression weights."""
        return [self.encoder.hidden.first.expression]

    def _embedding_tables(self) -> list[GrowingTable]:
        return [table for table in self.embeddings if isinstance(table, GrowingTable)]

    def _prototype_tables(self) -> list[PrototypeTable]:
        return [table for table in self.prototypes if isinstance(table, PrototypeTable)]

    def shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every tensor a release of this network holds."""
        return super().shapes() | {"unlabelled": ("prototypes.unlabelled", "latent")}

    def facts(self) -> dict[str, object]:
        """Return the manifest's fields that training can change."""
        return {"prototypes": self.manifest.prototypes.model_copy(update={"unlabelled": len(self.unlabelled)})}

    # --- the function ----------------------------------------------------------------------------------------------

    def condition_inputs(self, batch: Batch) -> Tensor | None:
        """Return the concatenated embeddings of each cell's conditions, ``(cells, embedding)``."""
        if not len(self.embeddings):
            return None
        return torch.cat([table(batch.conditions[:, i]) for i, table in enumerate(self.embeddings)], dim=1)

    def decoded(self, batch: Batch, z: Tensor, conditions: Tensor | None) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""
        return self.decoder.decoded(self.decoder(z, conditions), batch.size_factor)

    def forward(
        self,
        batch: Batch,
        *,
        kl_weight: float = 1.0,
        prototype_weight: float = 0.0,
        unlabelled_weight: float = 0.0,
        contrast_weight: float = 0.0,
        label_smoothing: float = 0.0,
        gene_dropout: float = 0.0,
        noise: Tensor | None = None,
        sample: bool = True,
    ) -> dict[str, Tensor]:
        """Return the loss and its terms, over cells.

        The loss is ``reconstruction + kl_weight kl + prototype_weight prototype + contrast_weight contrast``; the last
        of them is there if its weight is not 0, and is what tells labels apart. Where unlabelled prototypes take part,
        their loss is returned too, as ``unlabelled``; ``prototype`` contains it.
        ``noise`` is the standard normal draw behind the sampled latent, ``(cells, latent)``; None draws one, and
        ``sample=False`` takes the posterior mean and hides no genes.
        """
        conditions = self.condition_inputs(batch)
        product = self.expression_product(batch, gene_dropout=gene_dropout if sample else 0.0)
        mean, variance = self.encoder(product, conditions)
        z = sampled(mean, variance, noise=noise, sample=sample)
        takes_part = bool(prototype_weight or unlabelled_weight)
        joined = self._prototype_terms(z, batch.labels, unlabelled_weight) if takes_part else {}
        terms = {
            "reconstruction": self.compared(batch, self.decoded(batch, z, conditions)).mean(),
            "kl": losses.kl_standard_normal(mean, variance).mean(),
            "prototype": joined["prototype"] if prototype_weight else z.new_zeros(()),
        }
        loss = terms["reconstruction"] + kl_weight * terms["kl"] + prototype_weight * terms["prototype"]
        if contrast_weight:
            terms["contrast"] = self.contrast(z, batch.labels, label_smoothing)
            loss = loss + contrast_weight * terms["contrast"]
        shown = {name: term for name, term in joined.items() if name not in terms}
        return with_sum(loss, terms) | shown

    def prototype_loss(self, z: Tensor, labels: Tensor, *, unlabelled_weight: float = 0.0) -> Tensor:
        """Return the labelled prototypes' loss over all levels plus the weighted unlabelled prototypes' loss."""
        return self._prototype_terms(z, labels, unlabelled_weight)["prototype"]

    def contrast(self, z: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return how surely prototypes tell labels apart, summed over levels (nats per labelled cell)."""
        z, labels = of_all_cells(z), of_all_cells(labels)
        parts = [table.contrast(z, codes, label_smoothing) for table, codes in self._by_level(labels)]
        return torch.stack(parts).sum() if parts else z.new_zeros(())

    def _prototype_terms(self, z: Tensor, labels: Tensor, unlabelled_weight: float) -> dict[str, Tensor]:
        """Return that loss as ``prototype``, and the unlabelled prototypes' part of it, if any, as ``unlabelled``."""
        z, labels = of_all_cells(z), of_all_cells(labels)
        parts = [table.loss(z, codes) for table, codes in self._by_level(labels)]
        found: dict[str, Tensor] = {}
        if len(self.unlabelled) and unlabelled_weight:
            found["unlabelled"] = unlabelled_loss(z, self.unlabelled)
            parts.append(unlabelled_weight * found["unlabelled"])
        return {"prototype": torch.stack(parts).sum() if parts else z.new_zeros(()), **found}

    # --- training: what the loop asks --------------------------------------------------------------------------------

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move: everything, or after surgery the rows of new conditions.

        A query that brings new labels but no new conditions has no rows to train; its prototypes are placed.
        """
        started, batches = time.perf_counter(), self.batches(cells)
        if self.parameter_groups(plan) or not self._moves(batches.labels):
            return super().fit(cells, plan, seed=seed, runtime=runtime)
        self._place(self.means(batches), batches.labels)
        return History(pd.DataFrame(), None, "finished", time.perf_counter() - started, str(batches.device))

    def first_judged_epoch(self, plan: Plan, data: Split) -> int:
        """Return the first epoch with prototypes in the loss, which then has another value; without them, 0."""
        labelled = bool((data.labels >= 0).any())
        join = self._pretraining(plan) if labelled or plan.scpoli.unlabelled_weight else 0
        return join if join < plan.epochs else 0

    def _pretraining(self, plan: Plan) -> int:
        return int(0.9 * plan.epochs) if plan.scpoli.pretraining_epochs is None else plan.scpoli.pretraining_epochs

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch: the KL term rises linearly from 0, prototypes join after pretraining."""
        joined = epoch >= self._pretraining(plan)
        return (
            super().objective(plan, epoch)
            | {
                "prototype_weight": plan.scpoli.prototype_weight if joined else 0.0,
                "unlabelled_weight": plan.scpoli.unlabelled_weight if joined else 0.0,
            }
            | self._contrast_weights(plan, joined=joined)
        )

    def _contrast_weights(self, plan: Plan, *, joined: bool) -> dict[str, float]:
        """Return the weights of the contrast, which no plan of scArches has."""
        wanted = joined and plan.scpoli.contrast_weight
        options = {"contrast_weight": plan.scpoli.contrast_weight, "label_smoothing": plan.scpoli.label_smoothing}
        return options if wanted else {}

    def parameter_groups(self, plan: Plan) -> list[dict[str, Any]]:
        """Return what may move: condition embeddings without weight decay, the rest with the plan's."""
        embedded = set(self.embeddings.parameters())
        moving = self.moving()
        groups = [
            {"params": [p for p in moving if p in embedded], "weight_decay": 0.0},
            {"params": [p for p in moving if p not in embedded], "weight_decay": plan.weight_decay},
        ]
        return [group for group in groups if group["params"]]

    def before_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Place the prototypes when they are about to join the loss."""
        if epoch == self._pretraining(plan):
            latent = self.means(data.batches, index=data.train)
            self._place(latent, data.labels)
            if plan.scpoli.unlabelled_weight and bool((data.labels < 0).any()):
                self._place_unlabelled(latent, plan, seed=int(torch.randint(2**31, ())))

    def after_epoch(self, epoch: int, plan: Plan, data: Split) -> None:
        """Move labelled prototypes to their cells' means, unlabelled ones one step down their loss."""
        for table in self._embedding_tables():
            table.shorten()
        steps_unlabelled = bool(len(self.unlabelled) and plan.scpoli.unlabelled_weight)
        if epoch >= self._pretraining(plan) and (self._moves(data.labels) or steps_unlabelled):
            latent = self.means(data.batches, index=data.train)
            self._place(latent, data.labels)
            if steps_unlabelled:
                self._step_unlabelled(latent, plan)

    def after_training(self, plan: Plan, data: Split) -> None:
        """Place labelled prototypes also where training ended before they joined the loss."""
        if self._moves(data.labels):
            self._place(self.means(data.batches, index=data.train), data.labels)

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
            method=plan.scpoli.unlabelled_clustering,
            count=plan.scpoli.unlabelled_clusters,
            resolution=plan.scpoli.leiden_resolution,
            seed=seed,
        )
        groups = torch.from_numpy(codes).to(latent.device)
        self.unlabelled = torch.stack([latent[groups == code].mean(0) for code in torch.unique(groups)])

    def _step_unlabelled(self, latent: Tensor, plan: Plan) -> None:
        prototypes = nn.Parameter(self.unlabelled.clone())
        with torch.enable_grad():
            unlabelled_loss(latent, prototypes).backward()  # type: ignore[no-untyped-call]
        torch.optim.Adam([prototypes], lr=plan.learning_rate, eps=plan.adam_epsilon).step()
        self.unlabelled = prototypes.detach()

    def cluster_unlabelled(self, cells: Cells, plan: Plan, *, seed: int = 0) -> None:
        """Put unlabelled prototypes at the means of clusters of all cells' latents, in place."""
        self._place_unlabelled(torch.from_numpy(self.embed(cells)), plan, seed=seed)

    def score(self, latent: Array) -> dict[str, Scores]:
        """Return the evidence of each level that has prototypes for points in the latent, ``(points, latent)``."""
        z = torch.from_numpy(np.ascontiguousarray(latent, dtype=np.float32))
        tables = dict(zip(self._prototype_levels(), self._prototype_tables(), strict=True))
        return {
            level: replace(
                scores,
                mahalanobis_squared=tables[level].mahalanobis_squared(z).numpy(),
                label_frequencies=tables[level].label_frequencies.numpy(),
            )
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
        network = ScPoli.blank(manifest)
        network.load(padded(self.tensors(), network.tensors()))
        table = network._prototype_tables()[network._prototype_levels().index(level)]
        table.means[-1], table.cells[-1] = self.unlabelled[list(clusters)].mean(0), 1.0
        latent = self.embed(cells)
        nearest = network.distances(latent)[level].values.argmin(axis=1) == len(table.cells) - 1
        table.measure(torch.from_numpy(latent[nearest]), code=-1)
        return network

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
        """Put the prototypes where :meth:`labelled_prototypes` returned them."""
        sizes = [len(table.cells) for table in self._prototype_tables()]
        if len(means) != sum(sizes):
            raise errors.InvalidInput(
                f"{len(means)} prototypes were given for {sum(sizes)} labels; give one for each label of each level.",
                facts={"prototypes": len(means), "labels": sum(sizes)},
            )
        blocks = (torch.split(means, sizes), torch.split(covariances, sizes))
        for table, mean, covariance in zip(self._prototype_tables(), *blocks, strict=True):
            table.means.copy_(mean)
            table.covariances.copy_(covariance)
            table.cells.fill_(1.0)
