"""from_scvi(): a model of scvi-tools, trained by whatever means, as one of ours."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from anndata import AnnData
from torch import nn

from hub_client import errors
from hub_client.interop.scvi_registry import manifest_of
from hub_client.manifest.v1 import Embedding, Manifest, Training
from hub_client.models.architectures import architecture
from hub_client.models.architectures.scvi.modules import plain_module
from hub_client.models.architectures.scvi.network import ScviTools
from hub_client.models.architectures.scvi.tables import KINDS
from hub_client.models.model import Model
from hub_client.release import atlas_file


def from_scvi(model: Any, *, name: str) -> Model:
    """Return a trained model of scvi-tools as one that can be released and mapped onto.

    All that scvi-tools' registry says is in the manifest: genes, batches, covariates, labels and the unlabelled value,
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
        Its manifest says what can be known from scvi-tools; title, licence, organism and the like are for
        ``model.manifest.changed(...)``. Keys are the names of obs columns, with ``_`` for blanks and ``. / + *``.

    Raises
    ------
    InvalidInput
        If this is no model of scvi-tools, or it is not trained.
    Unsupported
        If it is of another class, was made with a parameter that format 1 cannot say, or the installed scvi-tools is
        one this archzoo does not know.
    VocabularyError
        If cells without a value (NaN) were taken for a category.

    Examples
    --------
    >>> model = hub_client.interop.from_scvi(vae, name="pbmc-scvi")  # doctest: +SKIP
    """
    kind = _kind(model)
    module = model.module
    embedding = _embedding(module)
    manifest = manifest_of(
        model.registry_, model.init_params_, kind=kind, name=name, embedding=embedding, aged=AGED[kind](module)
    )
    manifest = manifest.changed(training=_training(model))
    network = cast(ScviTools, architecture(kind).build(manifest))
    network.take(_copied(module, manifest))
    found = Model(manifest, network, reference=_minified(model, manifest))
    found.describe()
    return found


def _current(module: Any) -> dict[str, Any]:
    return {}


def _classifier(module: Any) -> dict[str, Any]:
    return {"classifier_logits": module.classifier.logits}


def _background(module: Any) -> dict[str, Any]:
    """Return what makes the background's scale positive: scvi-tools puts its own exp into modules from before 1.2."""
    softplus = isinstance(module.decoder.activation_function_bg, nn.Softplus)
    return {"background_activation": "softplus" if softplus else "exp"}


AGED = {"scvi": _current, "scanvi": _classifier, "totalvi": _background}
"""What a module from an older scvi-tools has that its parameters do not say."""


def _kind(model: object) -> str:
    """Return the kind of a trained model."""
    names = {kind.model: name for name, kind in KINDS.items()}
    found = type(model).__name__
    if not hasattr(model, "init_params_") or not hasattr(model, "module"):
        raise errors.InvalidInput(
            f"from_scvi takes a trained model of scvi-tools ({errors.names(names)}), not a {found}.",
            facts={"model": found},
        )
    if found not in names:
        raise errors.Unsupported(
            f"{found} is not among the models of scvi-tools that archzoo runs: {errors.names(names)}.",
            kind=found,
            verb="from_scvi",
        )
    if not getattr(model, "is_trained_", False):
        raise errors.InvalidInput(f"the {found} is not trained; call its train() first.", facts={"trained": False})
    return names[found]


def _embedding(module: Any) -> Embedding | None:
    if getattr(module, "batch_representation", "one-hot") != "embedding":
        return None
    found = module.get_embedding("batch")
    return Embedding(dim=found.embedding_dim, max_norm=found.max_norm)


def _copied(module: Any, manifest: Manifest) -> Any:
    """Return a module of our making with a module's weights."""
    plain = plain_module(manifest)
    try:
        plain.load_state_dict(module.state_dict())
    except RuntimeError as error:
        raise errors.ManifestError(
            f"{manifest.name}: the weights of this {type(module).__name__} are not what its parameters say: {error}"
        ) from None
    return plain


def _training(model: Any) -> Training:
    history = model.history_ or {}
    epochs = max((len(column) for column in history.values()), default=0)
    made_by = str(model.registry_.get("scvi_version", ""))
    return Training(epochs=epochs, versions={"scvi-tools": made_by} if made_by else {})


def _minified(model: Any, manifest: Manifest) -> AnnData | None:
    """Return the atlas of a model with minified data: the posterior means that it keeps."""
    if getattr(model, "minified_data_type", None) is None:
        return None
    read = model.adata_manager.get_from_registry
    conditions = {c.key: np.array(c.categories)[read("batch").ravel().astype(int)] for c in manifest.conditions}
    labels = {lv.key: np.array([*lv.categories, ""])[read("labels").ravel().astype(int)] for lv in manifest.labels}
    return atlas_file.atlas(model.adata.obsm[model._LATENT_QZM_KEY], conditions=conditions, labels=labels)
