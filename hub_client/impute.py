"""impute_proteins(): what a totalVI expects of proteins that cells did not have measured."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from hub_client import errors
from hub_client.architectures._scvi_models import quiet, scvi_model
from hub_client.architectures.scvi_tools import ScviTools
from hub_client.data.cells import Cells, aligned
from hub_client.model import Model


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
        Batches under which the cells are imagined: some that measured the proteins. Empty is the cells' own.
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
    >>> proteins = impute_proteins(model, cells, under=["10k"])  # doctest: +SKIP
    """
    network = model.network
    if model.manifest.proteins is None or not isinstance(network, ScviTools):
        kind = model.manifest.architecture.kind
        raise errors.Unsupported(f"{kind} has no proteins; totalvi has.", kind=kind, verb="impute_proteins")
    for axis in list(model.vocabulary.conditions.values())[:1]:
        axis.codes(list(under))
    theirs = scvi_model(network, aligned(cells))
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, proteins = theirs.get_normalized_expression(
            n_samples=samples, transform_batch=list(under) or None, silent=True, return_numpy=False
        )
    found: pd.DataFrame = proteins
    return found
