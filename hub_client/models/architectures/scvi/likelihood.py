"""scvi-tools' generative step with the likelihood evaluated at the counts that are not zero.

scvi-tools makes a distribution of dense matrices for every minibatch, checks each of its parameters, and evaluates
three gamma functions at every entry, although nine in ten are zero, where these cancel. Here its module decodes, its
loss is computed by its own ``loss``, and between the two stands :class:`SparseLikelihood`, which answers ``log_prob``
with :mod:`hub_client.nn.losses`. The numbers agree with scvi-tools' to float32's accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from hub_client.data.batches import Batch
from hub_client.nn import losses


class SparseLikelihood:
    """What ``loss`` asks of a distribution of counts: the log probability of the minibatch it was made for.

    Parameters
    ----------
    negative
        Minus the log-likelihood of each cell, ``(cells,)`` nats.
    """

    def __init__(self, negative: Tensor) -> None:
        self._negative = negative

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log probability of the cells, ``(cells, 1)``: scvi-tools sums over the last axis."""
        return -self._negative[:, None]


def generative(module: Any, batch: Batch, tensors: Mapping[str, Tensor], inferred: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``module.generative`` of a ``scvi.module.VAE`` returns, with a likelihood for this minibatch alone.

    Parameters
    ----------
    module
        An scVI's or a scANVI's, in which the latent has one draw for each cell.
    batch
        The minibatch.
    tensors
        The same as scvi-tools reads it.
    inferred
        What ``module.inference`` returned.
    """
    given = module._get_generative_input(tensors, inferred)
    if module.gene_likelihood not in LIKELIHOODS:
        return whole(module, batch, tensors, inferred)
    rate, dispersion, logits = _decoded(module, given)
    log_theta, codes = _dispersion(module, given, dispersion)
    negative = LIKELIHOODS[module.gene_likelihood](batch, rate, log_theta, codes, logits)
    z, library = given["z"], None
    if not module.use_observed_lib_size:
        mean, variance = module._compute_local_library_params(given["batch_index"])
        library = Normal(mean, variance.sqrt(), validate_args=False)
    return {
        "px": SparseLikelihood(negative),
        "pl": library,
        "pz": Normal(torch.zeros_like(z), torch.ones_like(z), validate_args=False),
    }


def whole(module: Any, batch: Batch, tensors: Mapping[str, Tensor], inferred: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a module's own ``generative`` returns: distributions of dense matrices."""
    found: dict[str, Any] = module.generative(**module._get_generative_input(tensors, inferred))
    return found


def _decoded(module: Any, given: Mapping[str, Any]) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the expected counts ``(cells, genes)``, the decoder's dispersion, if it has one, and dropout logits."""
    values = given["z"] if given["cont_covs"] is None else torch.cat([given["z"], given["cont_covs"]], dim=-1)
    covariates = () if given["cat_covs"] is None else torch.split(given["cat_covs"], 1, dim=1)
    size = given["size_factor"] if module.use_size_factor_key else given["library"]
    if module.batch_representation == "embedding":
        values = torch.cat([values, module.compute_embedding("batch", given["batch_index"])], dim=-1)
        codes = covariates
    else:
        codes = (given["batch_index"], *covariates)
    _, dispersion, rate, logits = module.decoder(module.dispersion, values, size, *codes, given["y"])
    return rate, dispersion, logits


def _dispersion(module: Any, given: Mapping[str, Any], decoded: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a table of log inverse dispersions, ``(rows, genes)``, and each cell's row, ``(cells,)``."""
    cells = torch.arange(len(given["z"]), device=given["z"].device)
    if decoded is not None:
        return decoded, cells
    if module.dispersion == "gene":
        return module.px_r[None, :], torch.zeros_like(cells)
    key = {"gene-batch": "batch_index", "gene-label": "y"}[module.dispersion]
    return module.px_r.T, given[key].squeeze(-1).long()


def _zero_inflated(batch: Batch, rate: Tensor, log_theta: Tensor, codes: Tensor, logits: Tensor) -> Tensor:
    return losses.zero_inflated_negative_binomial(
        batch.nonzero, rate, log_theta=log_theta, codes=codes, dropout_logits=logits
    )


def _negative_binomial(batch: Batch, rate: Tensor, log_theta: Tensor, codes: Tensor, logits: Tensor) -> Tensor:
    return losses.negative_binomial(batch.nonzero, rate, log_theta=log_theta, codes=codes)


LIKELIHOODS: Mapping[str, Callable[[Batch, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "zinb": _zero_inflated,
    "nb": _negative_binomial,
}
"""Those that have gamma functions to save; the others are scvi-tools' own."""
