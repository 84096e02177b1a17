"""All that comes out of a model for some cells, by name: what test vectors hold, receipts hash and a diff compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client.data.cells import Cells
from hub_client.labels.novelty import Novelty, novelty
from hub_client.labels.predict import Predictions, Threshold, predict
from hub_client.models.impute import impute_proteins
from hub_client.models.latent_uncertainty import LatentUncertainty, latent_uncertainty
from hub_client.models.model import Model
from hub_client.programs.enrichment import scores_at

FOLLOWS = frozenset({"latent_labels", "sets", "backoff"})
"""Fields of a level's prediction that are not among the results by name: latent and release, which are recorded, decide
them. Receipts and test vectors from before they were computed are compared in all that comes out."""


@dataclass(frozen=True)
class Outputs:
    """What a model computes of cells.

    Attributes
    ----------
    predictions
        Latent, labels, their uncertainty and probabilities.
    scores
        Of each active gene program, ``(cells, terms)``; None for a model without.
    proteins
        Expected foreground counts, ``(cells, proteins)``; None for a model without.
    latent_uncertainty
        How unsure the place of each cell in the latent is; None where it was not asked for.
    novelty
        How new the cells are to the reference; None where it was not asked for, and for a model that cannot tell.
    """

    predictions: Predictions
    scores: pd.DataFrame | None
    proteins: pd.DataFrame | None
    latent_uncertainty: LatentUncertainty | None = None
    novelty: Novelty | None = None

    def by_name(self) -> dict[str, NDArray[Any]]:
        """Return every result, its first axis the cells: ``latent``, ``labels.<level>``, ``uncertainty.<level>``, ...

        All fields of a level's prediction are in it, whatever they are called, but for :data:`FOLLOWS`.
        """
        found: dict[str, Any] = {"latent": self.predictions.latent}
        for level, prediction in self.predictions.levels.items():
            parts = {part: value for part, value in vars(prediction).items() if part not in FOLLOWS}
            found |= {f"{part}.{level}": value for part, value in parts.items()}
        found |= {"scores": self.scores, "imputed_proteins": self.proteins}
        if self.latent_uncertainty is not None:
            found |= {f"latent_{part}": value for part, value in vars(self.latent_uncertainty).items()}
        if self.novelty is not None:
            found |= {"novelty": self.novelty.novelty, "novel": self.novelty.novel, "novelty_score": self.novelty.score}
        return {name: np.asarray(value) for name, value in found.items() if value is not None}


def outputs(
    model: Model,
    cells: Cells,
    *,
    unknown_above: Threshold = None,
    device: str = "auto",
    seed: int = 0,
    with_latent_uncertainty: bool = False,
    with_novelty: bool = False,
) -> Outputs:
    """Return everything that a model computes of cells whose conditions it knows.

    Parameters
    ----------
    model, cells, unknown_above, device
        As for :func:`hub_client.predict`.
    seed
        Of the draws that imputed proteins are a mean of, of the genes that are lost for the latent's uncertainty, and
        of the cells that novelty looks at.
    with_latent_uncertainty, with_novelty
        Whether to compute these, too. Novelty is of a query as a whole: a few cells of it have another one.

    Raises
    ------
    VocabularyError, InvalidInput
        As :func:`hub_client.predict`.
    """
    found = predict(model, cells, unknown_above=unknown_above, device=device)
    scores = scores_at(model, found.latent, obs_names=cells.obs_names) if model.manifest.terms else None
    proteins = None if model.manifest.proteins is None else impute_proteins(model, cells, seed=seed)
    unsure = latent_uncertainty(model, cells, seed=seed, device=device) if with_latent_uncertainty else None
    new = novelty(model, cells, predictions=found, seed=seed) if with_novelty else None
    return Outputs(found, scores, proteins, unsure, new)
