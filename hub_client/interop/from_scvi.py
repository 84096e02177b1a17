"""from_scvi(): turn a model that scvi-tools trained into one that can be released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from anndata import AnnData
from torch import nn

from hub_client import errors
from hub_client.interop.scvi_registry import FromModule, manifest_of
from hub_client.interop.scvi_weights import fitting
from hub_client.manifest.provenance import Training
from hub_client.manifest.v1 import Embedding, Manifest
from hub_client.models.architectures import architecture
from hub_client.models.architectures.scvi.modules import plain_module
from hub_client.models.architectures.scvi.network import ScviTools
from hub_client.models.architectures.scvi.tables import KINDS
from hub_client.models.model import Model
from hub_client.release import atlas_file


def from_scvi(model: Any, *, name: str) -> Model:
    """Return a trained model of scvi-tools as one that can be released and mapped onto.

    All of scvi-tools' registry is in the manifest: genes, batches, covariates, labels and the unlabelled value,
    size factor and layer. The weights are copies, and :meth:`hub_client.Model.to_scvi` gives the same model back.

    A model whose data were minified (scvi-tools' ``minify_adata``) keeps no counts of them. What it keeps, where its
    cells lie in the latent, becomes the model's atlas, from which labels are transferred; other models get one with
    :func:`hub_client.labels.atlas.with_atlas`.

    Parameters
    ----------
    model
        A trained ``scvi.model.SCVI``, ``SCANVI`` or ``TOTALVI``. It is not written to.
    name
        The manifest's name, such as ``pbmc-scvi``.

    Returns
    -------
    Model
        Its manifest holds what scvi-tools records; add title, licence, organism and the like with
        ``model.manifest.changed(...)``. Keys are the names of obs columns, with ``_`` for blanks and ``. / + *``.

    Raises
    ------
    InvalidInput
        If this is no model of scvi-tools, or it is not trained.
    Unsupported
        If it is of another class, was made with a parameter that format 1 has no field for, or the installed
        scvi-tools is one this archzoo does not know.
    VocabularyError
        If cells without a value (NaN) were taken for a category.

    Examples
    --------
    >>> model = hub_client.interop.from_scvi(vae, name="pbmc-scvi")  # doctest: +SKIP
    """
    kind = _kind(model)
    module = model.module
    manifest = manifest_of(model.registry_, model.init_params_, kind=kind, name=name, module=_from_module(module, kind))
    epochs = max((len(column) for column in (model.history_ or {}).values()), default=0)
    made_by = str(model.registry_.get("scvi_version", ""))
    training = Training(epochs=epochs, versions={"scvi-tools": made_by} if made_by else {})
    manifest = manifest.changed(training=training)
    network = cast(ScviTools, architecture(kind).build(manifest))
    network.take(_copied(module, manifest))
    made = Model(manifest, network, atlas=_minified(model, manifest))
    made.describe()
    return made


READ_FROM_MODULE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "scvi": lambda module: {},
    "scanvi": lambda module: {"classifier_logits": module.classifier.logits},
    "totalvi": lambda module: {  # scvi-tools puts its own exp into modules from before 1.2
        "background_activation": "softplus" if isinstance(module.decoder.activation_function_bg, nn.Softplus) else "exp"
    },
}
"""Fields of the config that are read from the module, as the parameters of an older scvi-tools lack them."""


def _from_module(module: Any, kind: str) -> FromModule:
    """Return what a module knows better than the registry."""
    table = _embeddings(module)
    return FromModule(
        labels=getattr(module, "n_labels", None),
        embedding=None if table is None else Embedding(dim=table.embedding_dim, max_norm=table.max_norm),
        masks=getattr(module, "protein_batch_mask", None),
        fields=READ_FROM_MODULE[kind](module),
    )


def _embeddings(module: Any) -> Any:
    """Return the embeddings of batches; None where they are one-hot."""
    return module.get_embedding("batch") if getattr(module, "batch_representation", "") == "embedding" else None


def _kind(model: object) -> str:
    """Return the kind of a trained model."""
    names = {kind.model: name for name, kind in KINDS.items()}
    given = type(model).__name__
    if not hasattr(model, "init_params_") or not hasattr(model, "module"):
        raise errors.InvalidInput(
            f"from_scvi takes a trained model of scvi-tools ({errors.names(names)}), not a {given}.",
            facts={"model": given},
        )
    if given not in names:
        raise errors.Unsupported(
            f"{given} is not among the models of scvi-tools that archzoo runs: {errors.names(names)}.",
            kind=given,
            verb="from_scvi",
        )
    if not getattr(model, "is_trained_", False):
        raise errors.InvalidInput(f"the {given} is not trained; call its train() first.", facts={"trained": False})
    return names[given]


def _copied(module: Any, manifest: Manifest) -> Any:
    """Return a module of our making with a module's weights."""
    plain, table = plain_module(manifest), _embeddings(module)
    try:
        plain.load_state_dict(fitting(module.state_dict(), manifest, max_norm=table and table.max_norm))
    except RuntimeError as error:
        raise errors.ManifestError(
            f"{manifest.name}: the weights of this {type(module).__name__} do not fit its parameters: {error}"
        ) from None
    return plain


def _minified(model: Any, manifest: Manifest) -> AnnData | None:
    """Return the atlas of a model with minified data: the posterior means that it keeps."""
    if getattr(model, "minified_data_type", None) is None:
        return None
    read = model.adata_manager.get_from_registry
    conditions = {c.key: np.array(c.categories)[read("batch").ravel().astype(int)] for c in manifest.conditions}
    labels = {lv.key: np.array([*lv.categories, ""])[read("labels").ravel().astype(int)] for lv in manifest.labels}
    return atlas_file.atlas(model.adata.obsm[model._LATENT_QZM_KEY], conditions=conditions, labels=labels)
