"""scvi-tools' surgery with the reference left where it was.

scvi-tools appends the weights of new categories behind those of all keys. With a batch key and further categorical
covariates, the weights of a covariate then stand where those of another batch are read: the reference moves (by up to
0.13 in the latent on scvi-tools 1.4.2), and so it does where a query's training reaches old categories. Here the
weights of each key stay together, and only those of new categories are trained.

What is frozen is kept in a record, :data:`Record`, that is saved with the model: scvi-tools keeps none, and trains such
a model whole after it was loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hub_client import errors
from hub_client.compat._split import injected, stacks
from hub_client.models.architectures.scvi.modules import scvi_tools
from hub_client.models.architectures.scvi.network import LEAST_VARIANCE

LABELLED = ("encoder_z2_z1", "decoder_z1_z2")
"""Modules of scANVI whose only categorical key is the label."""
BACKGROUND = ("background_pro_alpha", "background_pro_log_beta")
"""totalVI's tensors with a column for each batch (or panel), which surgery trains."""
LIBRARY, CLASSIFIER = "l_encoder", "classifier"
"""Modules that scvi-tools' surgery trains or normalises anew whatever else is frozen."""
DEFAULTS = {
    "freeze_dropout": False,
    "freeze_expression": True,
    "freeze_decoder_first_layer": True,
    "freeze_batchnorm_encoder": True,
    "freeze_batchnorm_decoder": True,
    "freeze_classifier": True,
}
"""What is frozen unless it is asked for otherwise: as scvi-tools does, and the decoder's normalisation too."""
MOVED = {
    "freeze_expression": "where reference cells lie in the latent, and so their labels and expression",
    "freeze_decoder_first_layer": "the expression of reference cells",
    "freeze_batchnorm_encoder": "where reference cells lie in the latent, and so their labels and expression",
    "freeze_batchnorm_decoder": "the expression of reference cells",
    "freeze_classifier": "the labels predicted for reference cells",
}
"""What of the reference training moves where something is not frozen."""
Record = Mapping[str, Any]
"""``known``, how many categories each key of the reference has (see :func:`sizes`), and ``options`` as ``DEFAULTS``."""


def sizes(registry: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return how many categories the keys of a model have: ``label``; ``panel``; ``batch``, then covariates.

    Labels and panels of proteins are counted in its weights: scvi-tools' registry may name more or fewer labels.
    """
    fields = registry["field_registries"]
    states = {name: field.get("state_registry") or {} for name, field in fields.items()}
    covariates = states.get("extra_categorical_covs", {}).get("n_cats_per_key", ())
    counted = {"label": "y_prior", "panel": BACKGROUND[0]}
    found = {key: [weights[name].shape[-1]] if name in weights else [] for key, name in counted.items()}
    return found | {"batch": [len(states["batch"]["categorical_mapping"]), *map(int, covariates)]}


@torch.no_grad()
def settle(
    module: nn.Module, reference: Mapping[str, Tensor], *, old: Mapping[str, list[int]], new: Mapping[str, list[int]]
) -> None:
    """Put the reference's weights where a query's module reads them, in place.

    A new batch whose cells' library sizes do not vary, such as one of a single cell, has scvi-tools' placeholder for
    their variance: without any, their distribution has no width.

    Parameters
    ----------
    module
        The query's, as scvi-tools' ``load_query_data`` leaves it.
    reference
        The reference's tensors by name.
    old, new
        The :func:`sizes` of the reference and the query.
    """
    for path, name, linear, key, count in _readers(module):
        known, grown = old[key][-count:], new[key][-count:]
        weight = reference[f"{path}.fc_layers.{name}.0.weight"].to(linear.weight.device)
        linear.weight.copy_(_joined(weight, linear.weight, known=known, grown=grown))
    if "library_log_vars" in reference:
        added = module.get_buffer("library_log_vars")[:, reference["library_log_vars"].shape[1] :]
        added[added < LEAST_VARIANCE] = 1.0


def freeze(module: nn.Module, record: Record, *, new: Mapping[str, list[int]]) -> None:
    """Let training move nothing of a module but the weights of categories that are new since the reference, in place.

    Parameters
    ----------
    module
        The query's, its weights where they belong, and frozen as scvi-tools' ``load_query_data`` freezes it.
    record
        The reference's sizes, and what is frozen.
    new
        The query's :func:`sizes`.
    """
    options, known = record["options"], record["known"]
    kept = {LIBRARY: options["freeze_batchnorm_encoder"], CLASSIFIER: options["freeze_classifier"]}
    for path, norm in module.named_modules():  # whose statistics scvi-tools lets move
        if isinstance(norm, nn.BatchNorm1d) and kept.get(path.split(".")[0], False):
            norm.momentum = 0.0
    for path, parameter in module.named_parameters():
        if path.startswith(f"{LIBRARY}.") or (path.startswith(f"{CLASSIFIER}.") and options["freeze_classifier"]):
            parameter.requires_grad_(False)
    for path, name, linear, key, count in _readers(module):
        free = _is_free(path, name, options)
        columns = _columns(linear.weight.shape[1], known=known[key][-count:], grown=new[key][-count:], free=free)
        if path.startswith(f"{LIBRARY}."):
            linear.weight.requires_grad_(True)
        _keep(linear.weight, columns)
    for name in BACKGROUND:
        if isinstance(tensor := getattr(module, name, None), nn.Parameter):
            _keep(tensor, torch.arange(tensor.shape[1]) < known["panel"][0])


def frozen_again(module: nn.Module, record: object, *, new: Mapping[str, list[int]]) -> None:
    """Freeze a module that was loaded, by the record that was saved with it.

    Raises
    ------
    IntegrityError
        If that is none.
    """
    scvi_tools()
    from scvi.model.base._archesmixin import _set_params_online_update

    try:
        options = DEFAULTS | record["options"]  # type: ignore[index]
        _set_params_online_update(module, unfrozen=False, **options)
        freeze(module, {"options": options, "known": record["known"]}, new=new)  # type: ignore[index]
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise errors.IntegrityError(
            f"the folder's record of its surgery, surgery_, is damaged ({type(error).__name__}: {error}). Copy the "
            "folder again from where it was saved.",
            file="model.pt",
        ) from None


def moved(options: Mapping[str, bool]) -> dict[str, list[str]]:
    """Return what of the reference training moves under some options, and by which of them."""
    found: dict[str, list[str]] = {}
    for name, what in MOVED.items():
        if not options[name]:
            found.setdefault(what, []).append(f"{name}=False")
    return found


def _readers(module: nn.Module) -> Iterator[tuple[str, str, Any, str, int]]:
    """Yield the maps that read one-hot vectors: path of the layers, layer, map, which categories, how many keys."""
    for path, layers in stacks(module).items():
        key = "label" if path.split(".")[0] in LABELLED else "batch"
        for name, part in injected(layers).items():
            yield path, name, part[0], key, len(layers.n_cat_list)


def _is_free(path: str, layer: str, options: Mapping[str, bool]) -> bool:
    """Return whether a layer's weights of values are to be trained, which only a stack's first can be."""
    expression = not options["freeze_expression"] and "encoder" in path and not path.startswith(LIBRARY)
    decoder = not options["freeze_decoder_first_layer"] and "px_decoder" in path
    return layer == "Layer 0" and (expression or decoder)


def _joined(weight: Tensor, appended: Tensor, *, known: Sequence[int], grown: Sequence[int]) -> Tensor:
    """Return a weight, ``(outputs, inputs)``, with each key's columns together.

    ``appended`` has all new columns behind those of ``weight``. A key of one category has no columns: where it grows,
    the column of its first category is zero, as the reference knows it.
    """
    widths = [_width(count) for count in known]
    wider = [_width(count) for count in grown]
    values = weight.shape[1] - sum(widths)
    fresh = appended[:, weight.shape[1] :]
    added = torch.split(fresh, [after - before for before, after in zip(widths, wider, strict=True)], dim=1)
    blocks = [weight[:, :values]]
    for old, new, count in zip(torch.split(weight[:, values:], widths, dim=1), added, known, strict=True):
        block = torch.cat([old, new], dim=1)
        block[:, old.shape[1] : count] = 0
        blocks.append(block)
    return torch.cat(blocks, dim=1)


def _columns(width: int, *, known: Sequence[int], grown: Sequence[int], free: bool) -> Tensor:
    """Return which columns of a weight training leaves, ``(inputs,)``: old categories', and values' unless free."""
    wider = [_width(count) for count in grown]
    kept = [torch.full((width - sum(wider),), not free)]
    kept += [torch.arange(new) < count for new, count in zip(wider, known, strict=True)]
    return torch.cat(kept)


def _width(categories: int) -> int:
    """Return the length of scvi-tools' one-hot vectors of a key, which leaves out keys of one category."""
    return categories if categories > 1 else 0


def _keep(parameter: nn.Parameter, columns: Tensor) -> None:
    """Let training leave some columns of a parameter as they are."""
    if parameter.requires_grad:
        parameter.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient.masked_fill(columns.to(gradient.device), 0)
        )
