"""impute_proteins(): what a totalVI expects of proteins, also in cells that did not have them measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from hub_client.data.cells import Cells, aligned
from hub_client.manifest.inputs import Proteins
from hub_client.models.model import Model

PROTEINS_KEY = "X_proteins_imputed"
"""Where :func:`hub_client.map_query` writes imputed proteins in ``obsm``, and their names in ``uns``."""
CELLS_AT_ONCE = 10_000
"""Draws are held for so many cells at a time."""


def impute_proteins(
    model: Model, cells: Cells, *, under: Sequence[str] = (), samples: int = 25, seed: int = 0
) -> pd.DataFrame:
    """Return the expected foreground counts of each protein, ``(cells, proteins)``.

    scvi-tools' ``get_normalized_expression`` of proteins: the foreground's mean times its probability, without
    background, averaged over draws of the latent and over the batches ``under`` (Gayoso 2021, doi
    10.1038/s41592-020-01050-x).

    Parameters
    ----------
    model
        A totalVI that knows the cells' conditions; after surgery also a query's without proteins.
    cells
        From :func:`hub_client.align`.
    under
        Batches under which the cells are imagined: some that measured the proteins. Empty takes
        :func:`measuring_batches`.
    samples
        How many draws.
    seed
        Of the draws.

    Raises
    ------
    Unsupported
        If the model has no proteins.
    VocabularyError
        If a batch is none of the model's.

    Examples
    --------
    >>> proteins = impute_proteins(model, cells)  # doctest: +SKIP
    """
    config = model.manifest.architecture
    if "proteins" not in config.parts:
        raise config.without("proteins", "proteins", verb="impute_proteins")
    for axis in list(model.vocabulary.conditions.values())[:1]:
        axis.codes(list(under))
    batches = tuple(under) or measuring_batches(model)
    cells = aligned(cells)
    starts = range(0, len(cells), CELLS_AT_ONCE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = (cells.rows(np.arange(start, min(start + CELLS_AT_ONCE, len(cells)))) for start in starts)
        return pd.concat([model.network.imputed_proteins(part, under=batches, samples=samples) for part in parts])


def measuring_batches(model: Model) -> tuple[str, ...]:
    """Return the reference's batches that measured the whole panel, or, where none did, those that measured any of it.

    Batches that surgery added in any version are left out, so that a minor version imputes what the one before did;
    unless nothing else measured proteins. Empty for a model without a batch key.
    """
    panel, axes = model.manifest.proteins, list(model.vocabulary.conditions.values())[:1]
    if panel is None or not axes:
        return ()
    known, added = axes[0].names[: axes[0].reference], model.manifest.conditions[0].added_in
    return _measuring(tuple(name for name in known if name not in added), panel) or _measuring(known, panel)


def _measuring(known: Sequence[str], panel: Proteins) -> tuple[str, ...]:
    whole = tuple(name for name in known if name not in panel.measured)
    return whole or tuple(name for name in known if panel.measured[name])


def write_proteins(adata: AnnData, proteins: pd.DataFrame) -> None:
    """Put imputed proteins, ``(cells, proteins)``, into ``obsm``, and their names into ``uns``."""
    adata.obsm[PROTEINS_KEY] = proteins.to_numpy()
    adata.uns[PROTEINS_KEY] = np.array(proteins.columns, dtype=object)
