"""scvi-tools' surgery with the reference left where it was.

scvi-tools appends the weights of new categories behind those of all keys. With a batch key and further categorical
covariates, the weights of a covariate then stand where those of another batch are read: the reference moves (by up to
0.13 in the latent on scvi-tools 1.4.2), and so it does where a query's training reaches old categories. Here the
weights of each key stay together, and only those of new categories are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hub_client.compat._split import injected, stacks

LABELLED = ("encoder_z2_z1", "decoder_z1_z2")
"""Modules of scANVI whose only categorical key is the label."""
BACKGROUND = ("background_pro_alpha", "background_pro_log_beta")
"""totalVI's tensors with a column for each batch (or panel), which surgery trains."""


def sizes(registry: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return how many categories the keys of a registry have: ``label``; ``batch``, then covariates."""
    fields = registry["field_registries"]
    states = {name: field.get("state_registry") or {} for name, field in fields.items()}
    labels = states.get("labels", {})
    known = [name for name in labels.get("categorical_mapping", ()) if name != labels.get("unlabeled_category")]
    covariates = states.get("extra_categorical_covs", {}).get("n_cats_per_key", ())
    batches = states["batch"]["categorical_mapping"]
    return {"label": [len(known)], "batch": [len(batches), *map(int, covariates)]}


@torch.no_grad()
def settle(
    module: nn.Module,
    reference: Mapping[str, Tensor],
    *,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    unfrozen: bool = False,
) -> None:
    """Put the reference's weights where a query's module reads them, and keep those of its categories, in place.

    Parameters
    ----------
    module
        The query's, as scvi-tools' ``load_query_data`` leaves it.
    reference
        The reference's tensors by name.
    old, new
        The registries of the reference and the query.
    unfrozen
        Whether the reference's categories may be trained too.
    """
    before, after = sizes(old), sizes(new)
    for path, layers in stacks(module).items():
        count = len(layers.n_cat_list)
        key = "label" if path.split(".")[0] in LABELLED else "batch"
        known, grown = before[key][-count:], after[key][-count:]
        for name, part in injected(layers).items():
            weight = part[0].weight
            old_weight = reference[f"{path}.fc_layers.{name}.0.weight"].to(weight.device)
            whole, kept = _joined(old_weight, weight, known=known, grown=grown)
            weight.copy_(whole)
            _keep(weight, kept, unfrozen=unfrozen)
    for name in BACKGROUND:
        if isinstance(tensor := getattr(module, name, None), nn.Parameter):
            _keep(tensor, torch.arange(tensor.shape[1]) < reference[name].shape[1], unfrozen=unfrozen)


def _joined(weight: Tensor, appended: Tensor, *, known: Sequence[int], grown: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a weight, ``(outputs, inputs)``, with each key's columns together, and which are old ones, ``(inputs,)``.

    ``appended`` has all new columns behind those of ``weight``. A key of one category has no columns: where it grows,
    the column of its first category is zero, as the reference knows it.
    """
    widths = [_width(count) for count in known]
    wider = [_width(count) for count in grown]
    values = weight.shape[1] - sum(widths)
    fresh = appended[:, weight.shape[1] :]
    added = torch.split(fresh, [after - before for before, after in zip(widths, wider, strict=True)], dim=1)
    blocks, kept = [weight[:, :values]], [torch.zeros(values, dtype=torch.bool)]
    for old, new, count in zip(torch.split(weight[:, values:], widths, dim=1), added, known, strict=True):
        block = torch.cat([old, new], dim=1)
        block[:, old.shape[1] : count] = 0
        blocks.append(block)
        kept.append(torch.arange(block.shape[1]) < count)
    return torch.cat(blocks, dim=1), torch.cat(kept)


def _width(categories: int) -> int:
    """Return the length of scvi-tools' one-hot vectors of a key, which leaves out keys of one category."""
    return categories if categories > 1 else 0


def _keep(parameter: nn.Parameter, columns: Tensor, *, unfrozen: bool) -> None:
    """Let training leave some columns of a parameter as they are."""
    if parameter.requires_grad and not unfrozen:
        parameter.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient.masked_fill(columns.to(gradient.device), 0)
        )
