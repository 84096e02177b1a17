"""trVAE: a conditional VAE that pulls conditions together by their maximum mean discrepancy.

Lotfollahi, Naghipourfar, Theis and Wolf, "Conditional out-of-distribution generation for unpaired data using transfer
VAE", Bioinformatics 36 (2020), doi 10.1093/bioinformatics/btaa800.

A one-hot condition's weights are a table with a row for each category, so that surgery can append rows and train
nothing else. The discrepancy is measured in query training too, between the conditions of each minibatch; it then moves
the new rows only. Labels come from the reference's cells in the latent: trVAE has no classifier.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from hub_client.data.batches import Batch
from hub_client.manifest.configs import TrVAEConfig
from hub_client.manifest.v1 import Manifest
from hub_client.models.architectures._network import Decoded, with_sum
from hub_client.models.architectures._vae import Decoder, Encoder, OneHotVae, sampled
from hub_client.nn import losses
from hub_client.nn.processes import of_all_cells


class TrVAE(OneHotVae):
    """The network a manifest of kind ``trvae`` describes."""

    kind: ClassVar[str] = "trvae"
    config: TrVAEConfig

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        named, hidden, condition = self.named_axes(), self.hidden_axes(), self.condition()
        self.encoder = Encoder(self.config, [named["genes"], *hidden], named["latent"], condition)
        self.decoder = Decoder(self.config, [named["latent"], *reversed(hidden)], named["genes"], condition)
        self.theta = self.dispersion_table()
        self.freeze_reference()

    def first_layers(self) -> list[nn.Module]:
        """Return the first weights and normalisations of encoder and decoder."""
        stacks = (self.encoder.hidden, self.decoder.hidden)
        return [module for hidden in stacks for module in (hidden.first.expression, hidden.activations[0])]

    # --- the function ------------------------------------------------------------------------------------------------

    def decoded(self, batch: Batch, z: Tensor, conditions: Tensor | None) -> Decoded:
        """Return the parameters of the distribution of each cell's expression at ``z``, ``(cells, latent)``."""
        return self._decoded(batch, self.y(z, conditions))

    def y(self, z: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the decoder's first layer, ``(cells, width)``: where conditions are mixed (the paper's MMD layer)."""
        return self.decoder.hidden.first_layer(z, conditions)

    def _decoded(self, batch: Batch, y: Tensor) -> Decoded:
        return self.decoder.decoded(self.decoder.hidden.after_first_layer(y), batch.size_factor)

    def forward(
        self,
        batch: Batch,
        *,
        kl_weight: float = 1.0,
        gene_dropout: float = 0.0,
        noise: Tensor | None = None,
        sample: bool = True,
    ) -> dict[str, Tensor]:
        """Return the loss, ``reconstruction + kl_weight kl + mmd``, and its terms, over cells.

        ``mmd`` is the discrepancy between the minibatch's conditions times the config's weight. ``noise`` is the
        standard normal draw behind the sampled latent, ``(cells, latent)``; None draws one, and ``sample=False`` takes
        the posterior mean and hides no genes.
        """
        conditions = self.condition_inputs(batch)
        product = self.expression_product(batch, gene_dropout=gene_dropout if sample else 0.0)
        mean, variance = self.encoder(product, conditions)
        z = sampled(mean, variance, noise=noise, sample=sample)
        y = self.y(z, conditions)
        terms = {
            "reconstruction": self.compared(batch, self._decoded(batch, y)).mean(),
            "kl": losses.kl_standard_normal(mean, variance).mean(),
            "mmd": self.discrepancy({"z": z, "y": y}[self.config.mmd_on], conditions),
        }
        loss = terms["reconstruction"] + kl_weight * terms["kl"] + terms["mmd"]
        return with_sum(loss, terms)

    def discrepancy(self, points: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the weighted maximum mean discrepancy between the conditions of points ``(cells, ...)``: a scalar."""
        if not self.config.mmd or conditions is None:
            return points.new_zeros(())
        known = self.manifest.axes()["combinations"]
        points, conditions = of_all_cells(points), of_all_cells(conditions)
        found = losses.mmd(points, conditions, conditions=known, boundary=self.config.mmd_boundary)
        return self.config.mmd_weight * found
