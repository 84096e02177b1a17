"""embed(): where cells lie in the latent."""

from __future__ import annotations

from hub_client import errors
from hub_client.data.cells import Cells, aligned
from hub_client.models.architectures import Array
from hub_client.models.model import Model


def embed(model: Model, cells: Cells, *, batch_size: int = 512, device: str = "auto") -> Array:
    """Return the posterior mean of every cell, ``(cells, latent)``.

    Parameters
    ----------
    model
        A trained model that knows the cells' conditions.
    cells
        From :func:`hub_client.align`.
    batch_size
        Cells at a time; memory grows with it, results do not depend on it.
    device
        ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises
    ------
    VocabularyError
        If the cells have conditions that the model does not know: run :func:`hub_client.surgery` first.
    InvalidInput
        If the cells are not aligned, ``batch_size`` is no number of cells, or there is no such device.
    """
    if batch_size < 1:
        raise errors.InvalidInput(f"batch_size is {batch_size}; it is 1 or more.", facts={"batch_size": batch_size})
    with model.on(device):
        return model.network.embed(aligned(cells), batch_size=batch_size)
