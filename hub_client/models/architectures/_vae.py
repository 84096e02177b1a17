"""What conditional VAEs have in common: encoder, likelihoods, surgery of condition rows, and how training treats them.

Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models", NeurIPS 2015;
surgery: Lotfollahi et al. 2022, doi 10.1038/s41587-021-01001-7.

Where all of them differ on purpose from scArches 0.6.1: surgery trains the rows of new conditions and nothing else, so
that reference cells stay where they were to the bit; frozen networks run without dropout and with batch
normalisation's running statistics; validation losses come from the posterior mean instead of a sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.data.cells import Cells
from hub_client.data.vocabulary import Vocabulary
from hub_client.manifest.configs import ExpiMapConfig, ScPoliConfig, TrVAEConfig
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._network import Array, Decoded, Network, by_combination
from hub_client.nn import losses
from hub_client.nn.encoder_input import ExpressionInput
from hub_client.nn.layers import Axis, Dense, Embedded, GrowingTable, HiddenLayers, OneHot
from hub_client.nn.training import Split

VARIANCE_FLOOR = 1e-4
Config = ScPoliConfig | TrVAEConfig | ExpiMapConfig
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


EXPECTED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nb": _scaled_fraction,
    "zinb": _scaled_fraction,
    "poisson": lambda outputs, _: torch.softmax(outputs, dim=1),  # like scArches' rate, without the size factor
    "mse": lambda outputs, _: F.relu(outputs),
}
"""The mean that hidden decoders give, from the last linear map's outputs and the size factor."""


def sampled(mean: Tensor, variance: Tensor, *, noise: Tensor | None, sample: bool) -> Tensor:
    """Return a point of the posterior, ``(cells, latent)``: at a standard normal ``noise``, drawn where it is None.

    ``sample=False`` is the posterior mean where no noise is given. Kingma and Welling 2014, section 2.4.
    """
    noise = torch.randn_like(mean) if noise is None and sample else noise
    return mean if noise is None else mean + torch.sqrt(variance) * noise


class ConditionalVae(Network):
    """A network whose encoder and decoder read each cell's conditions, in rows of tables that surgery grows.

    A subclass builds ``encoder``, ``decoder`` and ``theta`` in its ``__init__``, after this one's, and then calls
    :meth:`freeze_reference`.
    """

    config: Config
    encoder: Posterior
    theta: GrowingTable | None

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.keep_dropout = False
        self.expression = ExpressionInput(
            self.named_axes()["genes"],
            reads=self.config.encoder_input,
            counts=self.config.likelihood != "mse",
            observed=manifest.input.size_factor is not None,
        )

    # --- what each kind defines --------------------------------------------------------------------------------------

    @abstractmethod
    def condition_inputs(self, batch: Batch) -> Tensor | None:
        """Return what the layers read of each cell's conditions: embeddings ``(cells, embedding)``, or codes."""

    @abstractmethod
    def decoded(self, batch: Batch, z: Tensor, conditions: Tensor | None) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""

    # --- building ----------------------------------------------------------------------------------------------------

    def hidden_axes(self) -> list[Axis]:
        """Return the axes of the encoder's hidden layers, in their order."""
        named = self.named_axes()
        return [named[f"hidden.{index}"] for index in range(len(self.config.hidden))]

    def dispersion_table(self) -> GrowingTable | None:
        """Return a table of log inverse dispersions for likelihoods that have them, ``(combinations, genes)``."""
        if self.config.likelihood not in ("nb", "zinb"):
            return None
        named = self.named_axes()
        return GrowingTable(named["combinations"], named["genes"], reference=self.vocabulary.reference_combinations)

    # --- the function ------------------------------------------------------------------------------------------------

    def expression_product(self, batch: Batch, *, gene_dropout: float = 0.0) -> Tensor:
        """Return the first layer's product of expression and weights, ``(cells, hidden.0)``.

        ``gene_dropout`` is the share of each cell's genes that are hidden from the encoder (Vincent 2008, denoising).
        """
        if batch.expression is not None:
            return batch.expression
        expression = F.dropout(self.expression(batch), gene_dropout, training=gene_dropout > 0)
        product: Tensor = self.encoder.hidden.first.expression(expression)
        return product

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the latent's posterior mean and variance, ``(cells, latent)`` each."""
        return self.encoder(self.expression_product(batch), self.condition_inputs(batch))

    def decode(self, batch: Batch, z: Tensor) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""
        found = self.decoded(batch, z, self.condition_inputs(batch))
        if self.theta is None:
            return found
        return found._replace(inverse_dispersion=self.log_theta.index_select(0, batch.combinations).exp())

    def cell_losses(self, batch: Batch) -> Tensor:
        """Return each cell's reconstruction loss at its posterior mean, ``(cells,)`` (nats; squared error for mse)."""
        return self.reconstruction(batch, self.encode(batch)[0])

    def reconstruction(self, batch: Batch, z: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats; squared error for mse) of each cell at ``z``, ``(cells,)``."""
        return self.compared(batch, self.decoded(batch, z, self.condition_inputs(batch)))

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

    def first_weight(self) -> Tensor:
        """Return the weights of the genes in the encoder's first layer, ``(hidden.0, genes)``."""
        return self.encoder.hidden.first.expression.weight

    def best_sources(self, new: Vocabulary, cells: Cells, *, seed: int) -> dict[str, dict[int, int]]:
        """Return the reference's entry each new one starts best from: theta has a row for each combination."""
        return by_combination(self, new, cells, seed)

    # --- training: what the loop asks --------------------------------------------------------------------------------

    def in_training(self) -> list[nn.Module]:
        """Return what runs in training mode; after surgery also dropout where ``keep_dropout`` is set.

        That is scArches' ``remove_dropout=False``.
        """
        kept = self.grown_by_surgery and self.keep_dropout
        dropouts = [module for module in self.modules() if isinstance(module, nn.Dropout)]
        return [*super().in_training(), *(dropouts if kept else [])]

    @torch.no_grad()
    def before_training(self, plan: Plan, data: Split) -> None:
        """Look at a reference's cells, and compute frozen first-layer products once instead of once an epoch."""
        if not self.grown_by_surgery:
            self.expression.look_at(data.batches, index=data.train)
        if not self.first_weight().requires_grad:
            data.batches.expression = data.batches.rows(self.expression_product, batch_size=1024)


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
        axes = (OneHot(named[f"conditions.{key}"], a.reference) for key, a in self.vocabulary.conditions.items())
        return next(axes, None)

    def condition_inputs(self, batch: Batch) -> Tensor | None:
        """Return the code of each cell's condition, ``(cells,)``."""
        return batch.conditions[:, 0] if batch.conditions.shape[1] else None

    @abstractmethod
    def y(self, z: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the decoder's first linear map (in trVAE after its activation) at ``z``, ``(cells, width)``."""

    @torch.no_grad()
    def decoder_layer(self, cells: Cells, latent: Array, *, batch_size: int = 512) -> Array:
        """Return :meth:`y` under the conditions of cells at a point of the latent for each, ``(cells, latent)``."""
        batches = self.eval().batches(cells)
        points = torch.from_numpy(np.ascontiguousarray(latent, dtype=np.float32)).to(batches.device)
        found = batches.rows(lambda b: self.y(points[b.index], self.condition_inputs(b)), batch_size=batch_size)
        values: Array = found.cpu().numpy()
        return values


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


RECONSTRUCTIONS: Mapping[str, Callable[[ConditionalVae, Batch, Decoded], Tensor]] = {
    "nb": _counts_loss,
    "zinb": _inflated_loss,
    "poisson": lambda _, batch, decoded: losses.poisson(batch.nonzero, decoded.mean),
    "mse": lambda _, batch, decoded: losses.mean_squared_error(batch.dense(batch.values), decoded.mean),
}
