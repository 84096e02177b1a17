"""expiMap: a conditional VAE whose latent dimensions are gene programs, read out by one linear map.

Lotfollahi, Rybakov, Hrovatin et al., "Biologically informed deep learning to query gene programs in single-cell
atlases", Nature Cell Biology 25 (2023), doi 10.1038/s41556-022-01072-x.

Each term of the manifest is a column of the latent. The decoder has no hidden layers: a gene's value is the sum of its
weights in the terms times the cell's scores, plus the weight of the cell's condition. A hard mask lets a term reach the
genes of its program only; a soft one lets it reach all under an L1 penalty. The group lasso empties whole terms, by a
proximal step after every step of the optimiser at the learning rate of that step.

Terms come in blocks: the annotated ones, then the extensions that each surgery added. A block has layers of its own, so
that what one surgery adds leaves the columns of earlier blocks where they were to the bit, and so that the optimiser of
a query is given the new block's weights and no others. scArches has one layer for all extensions and one for all that
are constrained, and overwrites their number in every surgery; it also trains what extensions the reference had, which
here is asked for by name.

Where this differs on purpose besides: the loss of dependence never is NaN; ``alpha_l1`` can be annealed; a term's
direction follows from the shares of counts that its genes have (:meth:`ExpiMap.directions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hub_client import errors
from hub_client.data.batches import Batch
from hub_client.manifest.configs import ExpiMapConfig
from hub_client.manifest.inputs import Genes
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest, Term
from hub_client.models.architectures._network import Array, Decoded, with_sum
from hub_client.models.architectures._vae import VARIANCE_FLOOR, Conditions, Encoder, OneHotVae, sampled
from hub_client.nn import losses
from hub_client.nn.layers import Axis, Dense, GrowingTable, HiddenLayers, MaskedLinear
from hub_client.nn.penalties import group_lasso_, soft_threshold_
from hub_client.nn.processes import of_all_cells

LIBRARY_HIDDEN, LIBRARY = Axis("128", 128), Axis("1", 1)
"""The hidden layer of the library-size encoder, and its one output."""


class TermHead(nn.Module):
    """The last hidden layer to one block's mean and log variance."""

    def __init__(self, hidden: Axis, terms: Axis) -> None:
        super().__init__()
        self.mean = Dense(hidden, terms)
        self.log_variance = Dense(hidden, terms)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, ``(cells, terms)`` each."""
        return self.mean(hidden), self.log_variance(hidden)


class TermEncoder(nn.Module):
    """Expression and conditions to the terms' means and variances, with a head for each block of terms."""

    def __init__(self, config: ExpiMapConfig, widths: list[Axis], blocks: list[Axis], conditions: Conditions) -> None:
        super().__init__()
        self.hidden = HiddenLayers(
            widths, conditions=conditions, bias=True, normalization=config.normalization, dropout=config.dropout
        )
        self.heads = nn.ModuleList([TermHead(widths[-1], block) for block in blocks])

    def forward(self, product: Tensor, conditions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and variance, ``(cells, terms)`` each, from the first layer's expression part."""
        hidden = self.hidden.after_first(self.hidden.first.join(product, conditions))
        means, log_variances = zip(*(head(hidden) for head in self.heads), strict=True)
        return torch.cat(means, dim=1), torch.exp(torch.cat(log_variances, dim=1)) + VARIANCE_FLOOR


class LinearDecoder(nn.Module):
    """Scores and conditions to genes by one linear map, with a part for each block of terms."""

    def __init__(self, programs: list[MaskedLinear], genes: Axis, conditions: Conditions) -> None:
        super().__init__()
        self.programs = nn.ModuleList(programs)
        self.condition = None if conditions is None else conditions.weights(genes)
        self._sizes = [program.weight.shape[1] for program in programs]

    def forward(self, z: Tensor, conditions: Tensor | None) -> Tensor:
        """Return ``(cells, genes)``, before the last layer."""
        parts = [
            program(scores) for program, scores in zip(self.programs, torch.split(z, self._sizes, dim=1), strict=True)
        ]
        if self.condition is not None and conditions is not None:
            parts.append(self.condition(conditions))
        return cast(Tensor, sum(parts[1:], start=parts[0]))


TERMS_AT_ONCE, CONDITIONS_AT_ONCE = 256, 256
"""Of how many terms the directions are computed at once, and of how many conditions the shares; both in float64."""
LAST_LAYERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda outputs: torch.softmax(outputs, dim=1),
    "softplus": F.softplus,
    "exp": torch.exp,
    "relu": F.relu,
    "identity": lambda outputs: outputs,
}
"""What makes a mean of the decoder's outputs, ``(cells, genes)``; only the softmax is multiplied by the size factor."""


class ExpiMap(OneHotVae):
    """The network a manifest of kind ``expimap`` describes."""

    kind: ClassVar[str] = "expimap"
    config: ExpiMapConfig
    encoder: TermEncoder

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self.blocks = manifest.term_blocks
        named, condition = self.named_axes(), self.condition()
        axes = [named[f"terms.{position}"] for position in range(len(self.blocks))]
        self.encoder = TermEncoder(self.config, [named["genes"], *self.hidden_axes()], axes, condition)
        programs = [self._program(*pair, genes=named["genes"]) for pair in zip(axes, self.blocks, strict=True)]
        self.decoder = LinearDecoder(programs, named["genes"], condition)
        self.library_encoder = None
        if self.config.library_encoder:
            self.library_encoder = Encoder(self.config, [named["genes"], LIBRARY_HIDDEN], LIBRARY, condition)
        self.theta = self.dispersion_table()
        self.freeze_reference()
        for module in self._free_layers() if self.grown_by_surgery else ():
            module.requires_grad_(True)

    def _program(self, axis: Axis, block: tuple[Term, ...], *, genes: Axis) -> MaskedLinear:
        annotated = block[0].kind == "annotated"
        soft = self.config.soft_mask if annotated else self.config.soft_extension_mask
        return MaskedLinear(axis, genes, mask=mask_of(block, self.manifest.genes), soft=soft)

    def _free_layers(self) -> list[nn.Module]:
        """Return the layers of the blocks that this surgery trains: those it added, or all extensions if asked to."""
        lineage = self.manifest.lineage
        again = lineage is not None and lineage.retrained_extensions
        free = [
            position
            for position, block in enumerate(self.blocks)
            if block[0].kind != "annotated" and (again or block[0].added_in == self.manifest.version)
        ]
        return [layers[position] for position in free for layers in (self.encoder.heads, self.decoder.programs)]

    def freeze_extensions(self) -> None:
        """Let no extension term train, not even those that surgery added; for this object, not for what is saved."""
        for position, block in enumerate(self.blocks):
            if block[0].kind != "annotated":
                self.encoder.heads[position].requires_grad_(False)
                self.decoder.programs[position].requires_grad_(False)

    def first_layers(self) -> list[nn.Module]:
        """Return the encoders' first weights and normalisations, the decoder, and the blocks that surgery added."""
        stacks = [encoder.hidden for encoder in (self.encoder, self.library_encoder) if encoder is not None]
        firsts = [module for hidden in stacks for module in (hidden.first.expression, hidden.activations[0])]
        return [*firsts, *self.decoder.programs, *self._free_layers()]

    def facts(self) -> dict[str, object]:
        """Return the manifest's terms: which have weights, and which way they point."""
        active = (self.term_weights() != 0).any(axis=0)
        found = zip(self.manifest.terms, active.tolist(), self.directions().tolist(), strict=True)
        return {"terms": tuple(t.model_copy(update={"active": used, "direction": sign}) for t, used, sign in found)}

    def directions(self) -> NDArray[np.int64]:
        """Return whether each term's program is expressed more as its score rises, ``(terms,)``: 1, or less: -1; or 0.

        A softmax gives gene ``g`` the share ``p_g`` of a cell's counts. The noise of a count grows as its square root,
        so genes are compared on the scale of ``sqrt(p_g)``, on which all have the same noise. With the score of a term
        of weights ``w`` it changes by ``sqrt(p_g) (w_g - sum_h p_h w_h) / 2``. The direction is the sign of the sum of
        these over the program's genes ``G``, at the shares of :meth:`expected_shares`::

            sum_(g in G) sqrt(p_g) w_g - (sum_(g in G) sqrt(p_g)) (sum_h p_h w_h)

        Lotfollahi 2023 (Methods) and scArches take the sign of the plain sum of the weights, by which genes that are
        hardly expressed, of which a program has many and whose weights are mostly noise, count as much as its highest.
        That sum is the direction here where there are no shares: with other last layers, and of terms that hold every
        gene. 0 is for terms without weights.
        """
        shares = self.expected_shares() if self.config.mean_layer == "softmax" else None
        weights, program = self.term_weights(), self._membership()
        parts = [slice(first, first + TERMS_AT_ONCE) for first in range(0, weights.shape[1], TERMS_AT_ONCE)]
        moved = [_moved(weights[:, part].astype(np.float64), program[:, part], shares) for part in parts]
        signs: NDArray[np.int64] = np.sign(np.concatenate(moved)).astype(np.int64)
        return signs

    def expected_shares(self) -> NDArray[np.float64]:
        """Return each gene's share of the counts where every score is 0, its prior's mean, ``(genes,)``; of a softmax.

        The mean over the conditions of the first reference, so that no surgery changes it.
        """
        table = self.decoder.condition
        if not isinstance(table, GrowingTable):
            genes = len(self.manifest.genes.panel)
            return np.full(genes, 1 / genes)
        (condition,) = self.manifest.conditions
        first = sum(name not in condition.added_in for name in condition.categories) or len(condition.categories)
        parts = torch.split(table.rows.detach()[:first], CONDITIONS_AT_ONCE)
        summed = torch.stack([torch.softmax(rows.double(), dim=1).sum(0) for rows in parts]).sum(0)
        shares: NDArray[np.float64] = (summed / first).cpu().numpy()
        return shares

    # --- the function ------------------------------------------------------------------------------------------------

    def decoded(self, batch: Batch, z: Tensor, conditions: Tensor | None) -> Decoded:
        """Return the expected expression of each cell at ``z``, ``(cells, latent)``; library sizes by their mean."""
        return self._decoded(self.y(z, conditions), self.size_factor(batch, conditions, noise=None, sample=False))

    def _decoded(self, outputs: Tensor, size_factor: Tensor) -> Decoded:
        mean = LAST_LAYERS[self.config.mean_layer](outputs)
        return Decoded(mean * size_factor[:, None] if self.config.mean_layer == "softmax" else mean)

    def y(self, z: Tensor, conditions: Tensor | None) -> Tensor:
        """Return the decoder's outputs before the last layer, ``(cells, genes)``."""
        outputs: Tensor = self.decoder(z, conditions)
        return outputs

    def size_factor(self, batch: Batch, conditions: Tensor | None, *, noise: Tensor | None, sample: bool) -> Tensor:
        """Return what a softmax is multiplied by, ``(cells,)``: total counts, or what the library encoder infers.

        ``noise`` ``(cells, 1)`` and ``sample`` are as for the latent; no KL term holds the inferred size.
        """
        if self.library_encoder is None:
            return batch.size_factor
        product = self.library_encoder.hidden.first.expression(self.expression(batch))
        mean, variance = self.library_encoder(product, conditions)
        return sampled(mean, variance, noise=noise, sample=sample)[:, 0].exp()

    def forward(
        self,
        batch: Batch,
        *,
        kl_weight: float = 1.0,
        hsic_weight: float = 1.0,
        gene_dropout: float = 0.0,
        noise: Tensor | None = None,
        library_noise: Tensor | None = None,
        sample: bool = True,
    ) -> dict[str, Tensor]:
        """Return the loss, ``reconstruction + kl_weight kl + hsic_weight hsic``, and its terms, over cells.

        ``noise`` ``(cells, latent)`` and ``library_noise`` ``(cells, 1)`` are the standard normal draws behind the
        sampled latent and library size; None draws them, and ``sample=False`` takes the posterior means and hides no
        genes.
        """
        conditions = self.condition_inputs(batch)
        product = self.expression_product(batch, gene_dropout=gene_dropout if sample else 0.0)
        mean, variance = self.encoder(product, conditions)
        z = sampled(mean, variance, noise=noise, sample=sample)
        size_factor = self.size_factor(batch, conditions, noise=library_noise, sample=sample)
        terms = {
            "reconstruction": self.compared(batch, self._decoded(self.y(z, conditions), size_factor)).mean(),
            "kl": losses.kl_standard_normal(mean, variance).mean(),
            "hsic": self.dependence(z),
        }
        loss = terms["reconstruction"] + kl_weight * terms["kl"] + hsic_weight * terms["hsic"]
        return with_sum(loss, terms)

    def dependence(self, z: Tensor) -> Tensor:
        """Return how much unconstrained extensions depend on the other terms at ``z``, ``(cells, latent)``: a scalar.

        All at once, or each against all other columns (``hsic_one_vs_all``), summed.
        """
        free = [position for position, term in enumerate(self.manifest.terms) if term.kind == "unconstrained"]
        if not self.config.hsic or not free:
            return z.new_zeros(())
        z = of_all_cells(z)
        groups = [[position] for position in free] if self.config.hsic_one_vs_all else [free]
        others = [[column for column in range(z.shape[1]) if column not in group] for group in groups]
        pairs = zip(groups, others, strict=True)
        return torch.stack([losses.hsic(z[:, group], z[:, rest]) for group, rest in pairs]).sum()

    # --- training ----------------------------------------------------------------------------------------------------

    def objective(self, plan: Plan, epoch: int) -> dict[str, float]:
        """Return the loss weights of an epoch: the KL term rises linearly from 0, the dependence has the plan's."""
        return super().objective(plan, epoch) | {"hsic_weight": plan.expimap.hsic_weight}

    @torch.no_grad()
    def after_step(self, plan: Plan, learning_rate: float, *, epoch: int) -> None:
        """Take the proximal steps of the penalties on weights that may move (the paper's supplementary note 1)."""
        for program, block in zip(self.decoder.programs, self.blocks, strict=True):
            if isinstance(program, MaskedLinear) and program.weight.requires_grad:
                self._shrink(program, block, plan, learning_rate=learning_rate, epoch=epoch)

    def _shrink(
        self, program: MaskedLinear, block: tuple[Term, ...], plan: Plan, *, learning_rate: float, epoch: int
    ) -> None:
        options = plan.expimap
        risen = share(epoch, epochs=options.soft_mask_l1_anneal_epochs, every=options.soft_mask_l1_anneal_every)
        outside = options.soft_mask_l1 * learning_rate * risen
        risen = share(epoch, epochs=options.extension_l1_anneal_epochs, every=options.extension_l1_anneal_every)
        anywhere = options.extension_l1 * learning_rate * risen
        free = sum(term.kind == "unconstrained" for term in block)
        masked, unmasked = torch.split(program.weight, [len(block) - free, free], dim=1)
        if program.soft and outside:
            soft_threshold_(masked, outside, allowed=program.mask[:, : len(block) - free])
        if block[0].kind == "annotated" and options.group_lasso:
            group_lasso_(masked, options.group_lasso * learning_rate, scale=self._lasso_scale(plan, len(block)))
        if anywhere:
            soft_threshold_(unmasked, anywhere)

    def _lasso_scale(self, plan: Plan, terms: int) -> Tensor | None:
        scale = plan.expimap.group_lasso_scale
        if not scale:
            return None
        if len(scale) != terms:
            raise errors.InvalidInput(
                f"group_lasso_scale (omega) has {len(scale):,} numbers for {terms:,} annotated terms; "
                "give one for each, in the manifest's order.",
                facts={"group_lasso_scale": len(scale), "terms": terms},
            )
        return torch.tensor(scale, device=next(self.parameters()).device)

    # --- inference ---------------------------------------------------------------------------------------------------

    def term_weights(self) -> Array:
        """Return each gene's weight in each term, ``(genes, terms)``, in the manifest's order."""
        programs = [program.weight.detach() for program in self.decoder.programs if isinstance(program, MaskedLinear)]
        weights: Array = torch.cat(programs, dim=1).cpu().numpy()
        return weights

    def _membership(self) -> NDArray[np.bool_]:
        """Return whether a gene is in a term's program, ``(genes, terms)``."""
        masks = [program.mask for program in self.decoder.programs if isinstance(program, MaskedLinear)]
        found: NDArray[np.bool_] = torch.cat([mask > 0 for mask in masks], dim=1).cpu().numpy()
        return found


def _moved(
    weights: NDArray[np.float64], program: NDArray[np.bool_], shares: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the sums whose signs are the directions of terms, ``(terms,)``; see :meth:`ExpiMap.directions`."""
    plain: NDArray[np.float64] = weights.sum(axis=0)
    if shares is None:
        return plain
    roots = np.sqrt(shares)
    changed = roots @ (program * weights) - (roots @ program) * (shares @ weights)
    return np.where(program.all(axis=0), plain, changed)


def mask_of(block: tuple[Term, ...], genes: Genes) -> Tensor:
    """Return 1 where a gene is in a term's program, ``(genes, terms)``; all are in an unconstrained one."""
    rows = genes.positions()
    mask = torch.zeros(len(rows), len(block))
    for column, term in enumerate(block):
        mask[slice(None) if term.kind == "unconstrained" else [rows[name] for name in term.genes], column] = 1
    return mask


def share(epoch: int, *, epochs: int, every: int) -> float:
    """Return what share of an annealed penalty acts in an epoch, counted from 0.

    ``1 / epochs`` at first; after each ``every`` epochs the share of epochs that have passed, until it is 1. With 0
    ``epochs`` it is 1 at once. These are the steps of scArches 0.6.1.
    """
    if not epochs:
        return 1.0
    passed = (epoch - 1) // every * every
    return min(max(passed, 1) / epochs, 1.0)
