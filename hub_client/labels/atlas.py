"""with_atlas(): a model that carries where its reference's cells lie in the latent, and what they are."""

from __future__ import annotations

from dataclasses import replace

from anndata import AnnData

from hub_client.data.cells import Cells
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.release import atlas_file


def with_atlas(model: Model, cells: Cells) -> Model:
    """Return the model with an atlas of its reference: latent, labels and conditions of each cell.

    :func:`hub_client.predict` transfers labels from the nearest cells of the atlas where a model has no classifier of
    its own, as trVAE and expiMap have none. A release holds it as ``reference.zarr.zip``: no counts, no cell names, no
    donors.

    Parameters
    ----------
    model
        A trained model.
    cells
        The reference, with labels, from :func:`hub_client.align`.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know.

    Examples
    --------
    >>> model = with_atlas(model, cells)  # doctest: +SKIP
    """
    return replace(model, atlas=reference_atlas(model, cells))


def reference_atlas(model: Model, cells: Cells) -> AnnData:
    """Return latent, labels and conditions of cells, without names, counts or donors, in random order."""
    shared = {c.key: cells.conditions[c.key] for c in model.manifest.conditions if c.role != "donor"}
    seed = model.manifest.training.seed or 0
    return atlas_file.atlas(embed(model, cells), conditions=shared, labels=cells.labels, seed=seed)
