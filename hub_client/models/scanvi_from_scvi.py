"""scanvi_from_scvi(): a scANVI that starts from a trained scVI."""

from __future__ import annotations

from hub_client.manifest.provenance import Training
from hub_client.models.model import Model


def scanvi_from_scvi(model: Model, *, linear: bool = False, seed: int = 0) -> Model:
    """Return an untrained scANVI with the weights of a scVI: scvi-tools' ``SCANVI.from_scvi_model``.

    Encoder and decoder are copies; the classifier of the first label level, and what ties it to the latent, are new.
    Train it with :func:`hub_client.train` on cells with labels, of which some may have none.

    Parameters
    ----------
    model
        A trained scVI with a label level.
    linear
        Whether the classifier is one linear map.
    seed
        Of the new weights.

    Raises
    ------
    Unsupported
        If the model is no scVI.
    ManifestError
        If it has no label level.

    Examples
    --------
    >>> model = scanvi_from_scvi(scvi)  # doctest: +SKIP
    """
    config = model.manifest.architecture.with_classifier(linear=linear)
    training = Training(datasets=model.manifest.training.datasets)
    manifest = model.manifest.changed(architecture=config, training=training, tensors=(), test_vectors=None, files=())
    found = Model.build(manifest, seed=seed)
    found.network.load(found.network.tensors() | model.network.tensors())
    found.describe()
    return found
