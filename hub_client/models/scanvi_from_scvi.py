"""scanvi_from_scvi(): a scANVI that starts from a trained scVI."""

from __future__ import annotations

from hub_client import errors
from hub_client.manifest.configs import Scanvi, Scvi
from hub_client.manifest.v1 import Training
from hub_client.models.architectures.scvi.network import ScviTools
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
    config = model.manifest.architecture
    if not isinstance(config, Scvi):
        raise errors.Unsupported(
            f"a scANVI starts from a scVI, not from {config.kind}.", kind=config.kind, verb="scanvi"
        )
    fields = config.model_dump() | {"kind": "scanvi", "linear_classifier": linear}
    manifest = model.manifest.changed(
        architecture=Scanvi.model_validate(fields), training=Training(), tensors=(), test_vectors=None, files=()
    )
    network = ScviTools.build(manifest, seed=seed)
    network.load(network.tensors() | model.network.tensors())
    found = Model(manifest, network)
    found.describe()
    return found
