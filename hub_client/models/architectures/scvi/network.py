"""scVI, scANVI and totalVI: scvi-tools' own modules, built from the manifest, with weights that know their axes.

Lopez, Regier, Cole, Jordan and Yosef, "Deep generative modeling for single-cell transcriptomics", Nature Methods 15
(2018), doi 10.1038/s41592-018-0229-2. Xu, Lopez, Mehlman, Regier, Jordan and Yosef, "Probabilistic harmonization and
annotation of single-cell transcriptomics data with deep generative models", Molecular Systems Biology 17 (2021), doi
10.15252/msb.20209620. Gayoso, Steier, Lopez et al., "Joint probabilistic modeling of single-cell multi-omic data with
totalVI", Nature Methods 18 (2021), doi 10.1038/s41592-020-01050-x.

What they compute, and their losses, are scvi-tools' (1.4). Where this differs on purpose:

- The weights of each category are rows of a table (:mod:`hub_client.nn.injected`). Surgery adds rows where the axis is,
  and trains those rows and nothing else, so that reference cells stay where they were to the bit. scvi-tools appends
  columns behind all keys', trains old ones too, and moves the running statistics of batch normalisation.
- Validation losses are computed under the same noise in every epoch.
- Logistic-normal latents are described by the mean of the normal, before the softmax; scvi-tools averages random draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.data.cells import Cells
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._network import Decoded, Network, owner_of, read, with_sum
from hub_client.models.architectures.scvi import export, likelihood
from hub_client.models.architectures.scvi.modules import ModuleAxes, plain_module, plain_state, split_categories
from hub_client.models.architectures.scvi.tables import LABEL, OUTRIGHT, Config, PerCategory
from hub_client.nn.encoder_input import ExpressionInput
from hub_client.nn.injected import InjectedLayers, Parts, parts
from hub_client.nn.layers import tensor_axes
from hub_client.nn.training import History, Runtime, Split
from hub_client.nn.undrawn import undrawn

NOISE_SEED = 0
"""Of the noise under which losses are compared: those of validation cells, and those of conditions that are tried."""
LIBRARIES: Mapping[str, Callable[[Tensor], Tensor]] = {"library": torch.log, "library_gene": lambda total: total}
"""What scvi-tools' modules call the observed library size, and what they make of the counts' sum."""
LEAST_LOG = -12.0
"""The least that a centred encoder reads: scvi-tools' modules take what it is log1p of, and float32 ends near -1."""
LEAST_VARIANCE = 1e-8
"""Of the logarithms of library sizes in a batch; what is less is rounding, and the cells do not vary."""


class ScviTools(Network):
    """A network around one of scvi-tools' modules.

    Attributes
    ----------
    module
        scvi-tools' module, with the weights of categories in tables and parameters of their own.
    """

    cells_at_once: ClassVar[int] = 512
    config: Config

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        if len(manifest.conditions) > 1:
            raise errors.ManifestError(
                f"{self.kind} has one batch key, and the manifest has {len(manifest.conditions)} conditions; name the "
                "others in covariates.categorical.",
                path="conditions",
            )
        self.module_axes = ModuleAxes(manifest)
        self.seen_data = False
        self.module = plain_module(manifest)
        split_categories(self.module, self.module_axes)
        genes = self.named_axes()["genes"]
        observed = manifest.input.size_factor is not None
        self.module.expression = ExpressionInput(genes, reads=self.config.encoder_input, counts=True, observed=observed)
        self.freeze_reference()

    # --- building ----------------------------------------------------------------------------------------------------

    def freeze_reference(self) -> None:
        """Let the zero rows of keys with one category stay zero, and after surgery nothing but new rows move."""
        super().freeze_reference()
        for table in self.tables():
            if len(table.rows) == 1:
                table.requires_grad_(False)

    def growing(self) -> dict[str, list[Parts]]:
        """Return the parameters of everything that surgery grows, by the axis they have an entry for each name of."""
        found = super().growing()
        for entry in self.per_category():
            if entry.trained:
                axis = self.module_axes.per(entry).axis.name
                found.setdefault(axis, []).append(parts(*owner_of(self.module, entry.name)))
        return found

    def per_category(self) -> list[PerCategory]:
        """Return the module's tensors with an entry for each batch or label."""
        return self.module_axes.kind.per_category(self.manifest)

    def first_layers(self) -> list[nn.Module]:
        """Return the first layers of the encoders."""
        return [stack.first.values for stack in self._encoders()]

    def first_weight(self) -> Tensor:
        """Return the weights of the genes in the encoder's first layer, ``(hidden.0, genes)``."""
        return self._encoders()[0].first.values.weight[:, : len(self.vocabulary.genes)]

    def _encoders(self) -> list[InjectedLayers]:
        stacks = self.module_axes.kind.stacks.items()
        return [cast(InjectedLayers, self.module.get_submodule(path)) for path, s in stacks if "genes" in s.inputs]

    # --- tensors -----------------------------------------------------------------------------------------------------

    @property
    def body(self) -> nn.Module:
        """The module that the names of tensors are relative to."""
        body: nn.Module = self.module
        return body

    def shapes(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every tensor a release of this network holds, the one that surgery grows first."""
        return self._shapes

    @cached_property
    def _shapes(self) -> dict[str, tuple[str, ...]]:
        found = tensor_axes(self.module)
        for path, (outputs, inputs) in self.module_axes.kind.dense.items():
            found |= {f"{path}.weight": (outputs, inputs), f"{path}.bias": (outputs,)}
        found |= {name: (other,) for name, other in OUTRIGHT.items() if hasattr(self.module, name)}
        for entry in self.per_category():
            own = self.module_axes.per(entry).axis.name
            found[entry.name] = (own,) if entry.other is None else (own, entry.other)
        return found

    def turned(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor with an entry for each category in scvi-tools' layout from a release's, or the reverse."""
        return tensor.T if name in self._columns else tensor

    @cached_property
    def _columns(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.per_category() if entry.dim == 1)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors as :meth:`tensors` returned them."""
        super().load(tensors)
        self.seen_data = True

    def take(self, plain: nn.Module) -> None:
        """Take over the weights of scvi-tools' own module, which is used up."""
        split_categories(plain, self.module_axes)
        self.load({name: self.turned(name, read(plain, name)) for name in self.shapes()})

    def plain(self) -> Any:
        """Return scvi-tools' own module with these weights."""
        with undrawn():
            plain = plain_module(self.manifest)
        plain.load_state_dict(plain_state(self.module, plain))
        return plain.eval()

    def to_scvi(self, cells: Cells | None = None, *, obs: pd.DataFrame | None = None) -> Any:
        """Return scvi-tools' own model with these weights, around aligned cells or some without counts.

        Raises
        ------
        InvalidInput
            If cells have no label, and each label has a dispersion of its own.
        Unsupported
            If the encoder reads what scvi-tools' does not.
        """
        if self.module.expression.reads != "log1p":
            raise errors.Unsupported(
                f"the encoder of {self.manifest.name} reads centred log1p counts, and scvi-tools' reads log1p counts: "
                "to_scvi() is for models with encoder_input = 'log1p'.",
                kind=self.kind,
                verb="to_scvi",
            )
        if cells is not None:
            self._check_labels(cells)
        return export.scvi_model(self.manifest, self.plain().state_dict(), cells, obs=obs)

    # --- the function ------------------------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what scvi-tools' modules read of a minibatch, by its registry's keys."""
        none = torch.zeros_like(batch.index)
        found = {
            "X": batch.dense(batch.values),
            "batch": batch.conditions[:, :1] if batch.conditions.shape[1] else none[:, None],
            # where a cell has no label 0 stands, which only some dispersions read
            "labels": batch.labels[:, :1].clamp(min=0) if batch.labels.shape[1] else none[:, None],
        }
        if batch.covariates.shape[1]:
            found["extra_categorical_covs"] = batch.covariates
        if batch.continuous.shape[1]:
            found["extra_continuous_covs"] = batch.continuous
        if self.manifest.input.size_factor is not None:
            found["size_factor"] = batch.size_factor[:, None]
        if self.manifest.proteins is not None:
            unmeasured = batch.size_factor.new_zeros((len(batch), len(self.manifest.proteins.panel)))
            found["proteins"] = batch.proteins if batch.proteins.shape[1] else unmeasured
        return found

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the latent's posterior mean and variance, ``(cells, latent)`` each."""
        with self._forked():
            posterior = self.inferred(batch, self.inputs(batch))["qz"]
        return posterior.loc, posterior.scale.square()

    def encoder_inputs(
        self, batch: Batch, tensors: dict[str, Tensor], *, gene_dropout: float = 0.0
    ) -> dict[str, Tensor]:
        """Return :meth:`inputs` with what the encoder is to read, whose log1p scvi-tools' modules take, for counts."""
        if self.module.expression.reads == "log1p" and not gene_dropout:
            return tensors
        read = F.dropout(self.module.expression(batch), gene_dropout, training=gene_dropout > 0)
        return tensors | {"X": torch.expm1(read.clamp(min=LEAST_LOG)) if self.config.log1p_input else read}

    def inferred(self, batch: Batch, tensors: dict[str, Tensor], *, gene_dropout: float = 0.0) -> dict[str, Any]:
        """Return what the module infers of a minibatch; library sizes are those of the counts."""
        read = self.encoder_inputs(batch, tensors, gene_dropout=gene_dropout)
        given = self.module._get_inference_input(read, full_forward_pass=True)
        found: dict[str, Any] = self.module.inference(**given)
        if read is not tensors and self.config.use_observed_library_size:
            total = tensors["X"].sum(1, keepdim=True)
            found |= {name: of(total) for name, of in LIBRARIES.items() if name in found}
        return found

    def decode(self, batch: Batch, z: Tensor) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""
        with self._forked(NOISE_SEED):
            tensors = self.inputs(batch)
            inferred = self.inferred(batch, tensors) | {"z": z}
            return self.expected(likelihood.whole(self.module, batch, tensors, inferred))

    def expected(self, generated: Mapping[str, Any]) -> Decoded:
        """Return the parameters of the genes' counts from what a module's ``generative`` returned."""
        found = generated["px"]
        if self.config.likelihood == "zinb":
            return Decoded(found.mu, found.zi_logits, found.theta)
        return Decoded(found.mean, None, found.theta if self.config.likelihood == "nb" else None)

    def drawn_latent(self, batch: Batch) -> Tensor:
        """Return a point of each cell's posterior, ``(cells, latent)``; of a logistic-normal one after the softmax."""
        drawn: Tensor = self.inferred(batch, self.inputs(batch))["z"]
        return drawn

    def losses(self, batch: Batch, *, sample: bool, gene_dropout: float = 0.0, **weights: Any) -> tuple[Tensor, Any]:
        """Return points of the latent, ``(cells, latent)``, and scvi-tools' losses at them.

        ``gene_dropout`` is the share of each cell's genes that are hidden from the encoder. ``sample=False`` draws the
        points under the same noise each time, and hides none.
        """
        with nullcontext() if sample else self._forked(NOISE_SEED):
            tensors = self.inputs(batch)
            inferred = self.inferred(batch, tensors, gene_dropout=gene_dropout if sample else 0.0)
            generated = self.module_axes.kind.generative(self.module, batch, tensors, inferred)
            losses = self.module.loss(tensors, inferred, generated, **weights)
        return inferred["z"], losses

    def cell_losses(self, batch: Batch) -> Tensor:
        """Return each cell's reconstruction loss under the same noise each time, ``(cells,)`` (nats)."""
        terms = dict(self.losses(batch, sample=False)[1].reconstruction_loss)
        if not batch.proteins.shape[1]:
            terms.pop("reconst_loss_protein", None)
        return _total(terms)

    @contextmanager
    def _forked(self, seed: int | None = None) -> Iterator[None]:
        """Leave the caller's random state as it is, and draw under a seed."""
        device = self.module.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if seed is not None:
                torch.manual_seed(seed)
            yield

    # --- training: what the loop asks --------------------------------------------------------------------------------

    def fit(self, cells: Cells, plan: Plan, *, seed: int, runtime: Runtime) -> History:
        """Train in place what may move: everything, or after surgery the rows of new categories."""
        self._check_labels(cells)
        if not self.seen_data:
            self.look_at(cells)
            self.look_at_proteins(cells, seed)
        history = super().fit(cells, plan, seed=seed, runtime=runtime)
        self.seen_data = True
        return history

    def before_training(self, plan: Plan, data: Split) -> None:
        """Take from a reference's training cells what a centred encoder reads expression against."""
        if not self.grown_by_surgery:
            self.module.expression.look_at(data.batches, index=data.train)

    def in_training(self) -> list[nn.Module]:
        """Return what runs in training mode: everything, or nothing after surgery.

        Without dropout and with batch normalisation's running statistics, frozen layers are the same function for the
        query as for the reference.
        """
        return [] if self.grown_by_surgery else [self]

    def look_at_proteins(self, cells: Cells, seed: int) -> None:
        """Take from a reference's cells what is known of its proteins."""

    def _check_labels(self, cells: Cells) -> None:
        """Refuse to train on unlabelled cells where each label has a dispersion of its own."""
        if not any(entry.per == LABEL and entry.name in OUTRIGHT for entry in self.per_category()):
            return
        level = self.manifest.labels[0]
        found = cells.labels.get(level.key, np.full(len(cells), ""))
        if unlabelled := int((~np.isin(found, level.categories)).sum()):
            raise errors.InvalidInput(
                f"{unlabelled:,} of {len(cells):,} cells have no label of {level.key!r}, and this {self.config.kind} "
                f"has a dispersion for each label: give labels={{{level.key!r}: column}} to align().",
                facts={"level": level.key, "unlabelled": unlabelled},
            )

    @torch.no_grad()
    def look_at(self, cells: Cells) -> None:
        """Take from the data what is not trained: the library sizes of batches, after surgery of new ones.

        scvi-tools' placeholders, 0 and 1, stay for batches without cells, and its variance of 1 for those whose cells
        do not vary, such as a single one: it would make a distribution without width.
        """
        if not hasattr(self.module, "library_log_means"):
            return
        codes = self.vocabulary.condition_codes(cells.conditions, cells=len(cells)).sum(axis=1)
        logs = np.log(np.maximum(np.asarray(cells.x.sum(axis=1), dtype=np.float64).reshape(-1), 1))
        batch = self.module_axes.batch
        for code in np.unique(codes[codes >= batch.reference] if batch and self.grown_by_surgery else codes):
            self.module.library_log_means[0, code] = logs[codes == code].mean()
            variance = logs[codes == code].var()
            self.module.library_log_vars[0, code] = variance if variance > LEAST_VARIANCE else 1.0


class ScVI(ScviTools):
    """The network a manifest of kind ``scvi`` describes."""

    kind: ClassVar[str] = "scvi"

    def forward(
        self, batch: Batch, *, kl_weight: float = 1.0, gene_dropout: float = 0.0, sample: bool = True
    ) -> dict[str, Tensor]:
        """Return scvi-tools' loss and its terms, over cells; the rest as for :meth:`losses`."""
        _, found = self.losses(batch, sample=sample, gene_dropout=gene_dropout, kl_weight=kl_weight)
        return with_sum(found.loss, terms_of(found))


def terms_of(found: Any) -> dict[str, Tensor]:
    """Return the terms of scvi-tools' losses, over cells."""
    return {"reconstruction": _total(found.reconstruction_loss).mean(), "kl": _total(found.kl_local).mean()}


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of loss terms of each cell, ``(cells,)``."""
    return torch.stack(list(terms.values())).sum(0)
