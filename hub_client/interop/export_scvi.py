"""export_scvi(): write a model as a folder that scvi-tools loads."""

from __future__ import annotations

from pathlib import Path

from hub_client import errors
from hub_client.files import atomic
from hub_client.models.architectures.scvi.export import quiet
from hub_client.models.model import Model


def export_scvi(model: Model, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a folder that ``scvi.model.SCVI.load``, ``SCANVI.load`` or ``TOTALVI.load`` reads, and return it.

    Such a folder is a pickle: whoever loads one runs what is in it, and it can be loaded by scvi-tools of versions near
    the one that wrote it. A release is neither, and holds more; give this to a program that reads nothing else.

    The folder holds no cells: ``load(folder, adata)`` takes an AnnData with the model's genes in their order, the obs
    columns that the manifest's keys name and, if it names one, the layer.

    Parameters
    ----------
    model
        A model of kind ``scvi``, ``scanvi`` or ``totalvi``.
    folder
        A new folder. It appears whole or not at all.
    overwrite
        Replace what is there.

    Raises
    ------
    Unsupported
        If the model is of another kind.
    InvalidInput
        If the folder exists and ``overwrite`` is False.
    TransportError
        If it cannot be written.

    Examples
    --------
    >>> export_scvi(hub_client.pull("pbmc-scvi"), "pbmc-scvi-tools")  # doctest: +SKIP
    """
    place = Path(folder).expanduser()
    if place.exists() and not overwrite:
        raise errors.InvalidInput(f"{place} exists already; pass overwrite=True to replace it.", facts={"path": place})
    theirs = model.to_scvi()
    if (layer := model.manifest.input.layer) is not None:  # the model's own cells have their counts in X
        theirs.registry_["setup_args"]["layer"] = layer
        data = theirs.registry_["field_registries"]["X"]["data_registry"]
        data |= {"attr_name": "layers", "attr_key": layer}
    with atomic.staged(place) as stage, quiet():
        theirs.save(str(stage), overwrite=True)
    return place
