"""enrichment(): which gene programs differ between groups of cells; term_scores(): how strong each is in every cell.

Lotfollahi et al., "Biologically informed deep learning to query gene programs in single-cell atlases", Nature Cell
Biology 25 (2023), doi 10.1038/s41556-022-01072-x, Methods. Where this differs on purpose from scArches 0.6.1: draws are
seeded, a group may have any name, and a program's direction is the manifest's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc

from hub_client import errors
from hub_client.data.cells import Cells
from hub_client.data.values import text, texts
from hub_client.manifest.v1 import Term
from hub_client.models.architectures import Array
from hub_client.models.embed import embed
from hub_client.models.model import Model

if TYPE_CHECKING:
    from anndata import AnnData

Values = NDArray[np.floating[Any]]
SMALLEST = 1e-12
"""Added to both probabilities, so that their logarithms are finite."""
SCORES_KEY = "X_terms"
"""Where an AnnData holds programs' scores (obsm) and names (uns)."""


class BayesFactors(NamedTuple):
    """How likely a program scores higher in a group than elsewhere."""

    p_h0: NDArray[np.float64]
    """Probability that a cell of the group scores higher than one of the others, ``(terms,)``."""
    p_h1: NDArray[np.float64]
    """That it scores lower, ``(terms,)``."""
    bf: NDArray[np.float64]
    """``log(p_h0 / p_h1)``, ``(terms,)``: positive where the program is up in the group; 2.3 means odds of ten to
    one."""


def bayes_factors(
    group_mean: Values, group_variance: Values, other_mean: Values, other_variance: Values
) -> BayesFactors:
    """Return Bayes factors from pairs of cells, by the normal posteriors of their latents.

    The probability that one cell's score exceeds the other's is that of a normal difference; pairs are averaged
    (Lotfollahi 2023, Methods). A program whose means are all 0 on one side, as those of a program without a direction
    are, is not compared: its probabilities and its factor are 0.

    Parameters
    ----------
    group_mean, group_variance
        Of the cells of the group, ``(pairs, terms)``.
    other_mean, other_variance
        Of the cells each is compared with, ``(pairs, terms)``.
    """
    spread = np.sqrt(2 * (np.asarray(group_variance, np.float64) + other_variance))
    higher = 0.5 * erfc((np.asarray(other_mean, np.float64) - group_mean) / spread)
    return _factors(higher.mean(axis=0), silent=_silent(group_mean) | _silent(other_mean))


def sampled_bayes_factors(group: Values, other: Values) -> BayesFactors:
    """Return Bayes factors from pairs of points drawn from the cells' posteriors, ``(pairs, terms)`` each."""
    higher = (np.asarray(group) > np.asarray(other)).mean(axis=0)
    return _factors(higher, silent=_silent(group) | _silent(other))


def _silent(means: Values) -> NDArray[np.bool_]:
    silent: NDArray[np.bool_] = (np.abs(means) == 0).all(axis=0)
    return silent


def _factors(higher: NDArray[np.float64], *, silent: NDArray[np.bool_]) -> BayesFactors:
    bf = np.log(higher + SMALLEST) - np.log(1 - higher + SMALLEST)
    return BayesFactors(*(np.where(silent, 0.0, values) for values in (higher, 1 - higher, bf)))


def term_scores(
    model: Model, cells: Cells, *, only_active: bool = True, batch_size: int = 512, device: str = "auto"
) -> pd.DataFrame:
    """Return the score of each gene program in each cell, ``(cells, terms)``, by cell and program name.

    A score is the latent's posterior mean times the program's direction, so that it is high where the program is
    expressed.

    Parameters
    ----------
    model
        An expiMap that knows the cells' conditions.
    cells
        From :func:`hub_client.align`.
    only_active
        Leave out programs that training has switched off.
    batch_size, device
        As for :func:`hub_client.embed`.

    Raises
    ------
    Unsupported
        If the model has no gene programs.
    VocabularyError
        If the cells have conditions that the model does not know.

    Examples
    --------
    >>> hub_client.term_scores(model, cells)["Interferon gamma signaling"]  # doctest: +SKIP
    """
    _check_terms(model, "term_scores")
    latent = embed(model, cells, batch_size=batch_size, device=device)
    return scores_at(model, latent, obs_names=cells.obs_names, only_active=only_active)


def scores_at(model: Model, latent: Array, *, obs_names: ArrayLike, only_active: bool = True) -> pd.DataFrame:
    """Return programs' scores at points in the latent, ``(cells, latent)``, by cell and program name."""
    chosen = _chosen(model, only_active=only_active)
    names = [model.manifest.terms[index].name for index in chosen]
    scores = latent[:, chosen] * _directions(model)[chosen]
    return pd.DataFrame(scores, index=pd.Index(np.asarray(obs_names)), columns=names)


def write_scores(adata: AnnData, scores: pd.DataFrame) -> None:
    """Put scores, ``(cells, terms)``, into ``obsm["X_terms"]`` and the programs' names into ``uns["X_terms"]``.

    Names are no column names there: a file cannot hold columns called ``Interferon alpha/beta signaling``.
    """
    adata.obsm[SCORES_KEY] = scores.to_numpy()
    adata.uns[SCORES_KEY] = np.array(scores.columns, dtype=object)


def written_scores(adata: AnnData) -> pd.DataFrame:
    """Return the scores that :func:`hub_client.map_query` wrote, ``(cells, terms)``, by cell and program name.

    Raises
    ------
    InvalidInput
        If there are none.
    """
    if SCORES_KEY not in adata.obsm or SCORES_KEY not in adata.uns:
        raise errors.InvalidInput(
            f"adata has no scores of gene programs in obsm[{SCORES_KEY!r}], with their names in uns[{SCORES_KEY!r}]: "
            "map it onto an expiMap with hub_client.map_query(), or pass scores=hub_client.term_scores(model, cells).",
            facts={"obsm": list(adata.obsm)},
        )
    return pd.DataFrame(adata.obsm[SCORES_KEY], index=adata.obs_names, columns=list(adata.uns[SCORES_KEY]))


def enrichment(
    model: Model,
    cells: Cells,
    *,
    groups: pd.Series | ArrayLike | Mapping[str, Sequence[str]],
    comparison: str | Sequence[str] = "rest",
    pairs: int = 5000,
    only_active: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> pd.DataFrame:
    """Return Bayes factors of gene programs between groups of cells.

    A score counts in its program's direction, so that a positive factor means that the program as a whole is up.

    Parameters
    ----------
    model
        An expiMap model that knows the cells' conditions.
    cells
        From :func:`hub_client.align`.
    groups
        The group of each cell, ``(cells,)``, a Series matched by cell name; or group name to names of its cells. Cells
        without a group are left out.
    comparison
        ``rest`` compares each group with all other cells that have a group; a group's name, or several, compares with
        the cells of those.
    pairs
        How many pairs of cells are drawn, with replacement.
    only_active
        Leave out programs that training has switched off.
    seed
        Of the draws.
    device
        As for :func:`hub_client.embed`.

    Returns
    -------
    pandas.DataFrame
        One row for each group and program, groups in the order of their names, the largest absolute factor first:
        ``group``, ``comparison`` (what with), ``term``, ``id``, ``bayes_factor`` (natural logarithm of the odds),
        ``p_h0`` (probability that a cell of the group scores higher than one it is compared with) and ``p_h1`` (lower).

    Raises
    ------
    Unsupported
        If the model has no gene programs.
    VocabularyError
        If there are not two groups, the comparison is none of them, or the model does not know the cells' conditions.
    InvalidInput
        If no pairs are to be drawn.

    Examples
    --------
    >>> hub_client.enrichment(model, cells, groups=adata.obs["condition"])  # doctest: +SKIP
    """
    _check_terms(model, "enrichment")
    if pairs < 1:
        raise errors.InvalidInput(f"pairs is {pairs}; draw at least one pair of cells.", facts={"pairs": pairs})
    rows = _rows(groups, cells)
    compared = _comparisons(rows, comparison)
    with model.on(device):
        mean, variance = model.network.posterior(cells)
    chosen = _chosen(model, only_active=only_active)
    mean, variance = mean[:, chosen] * _directions(model)[chosen], variance[:, chosen]
    generator = np.random.default_rng(seed)
    tables = []
    for group, against in compared.items():
        others = np.concatenate([rows[name] for name in against])
        one, other = generator.choice(rows[group], pairs), generator.choice(others, pairs)
        found = bayes_factors(mean[one], variance[one], mean[other], variance[other])
        compared_with = comparison if isinstance(comparison, str) else ", ".join(against)
        names = {"group": group, "comparison": compared_with}
        tables.append(_table([model.manifest.terms[index] for index in chosen], found, names))
    return pd.concat(tables, ignore_index=True)


def _table(terms: Sequence[Term], found: BayesFactors, names: dict[str, str]) -> pd.DataFrame:
    columns: dict[str, Any] = names | {
        "term": [term.name for term in terms],
        "id": [term.id for term in terms],
        "bayes_factor": found.bf,
        "p_h0": found.p_h0,
        "p_h1": found.p_h1,
    }
    return pd.DataFrame(columns).sort_values("bayes_factor", key=np.abs, ascending=False, kind="stable")


def _rows(groups: pd.Series | ArrayLike | Mapping[str, Sequence[str]], cells: Cells) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each group's cells, groups sorted by name."""
    index = pd.Index(cells.obs_names)
    if isinstance(groups, Mapping):
        found = {str(name): index.get_indexer(pd.Index(members)) for name, members in groups.items()}
        return {name: rows[rows >= 0] for name, rows in sorted(found.items()) if (rows >= 0).any()}
    column = groups.reindex(index) if isinstance(groups, pd.Series) else pd.Series(np.asarray(groups, dtype=object))
    if len(column) != len(cells):
        raise errors.VocabularyError(
            f"groups has {len(column):,} values for {len(cells):,} cells; give one for each, or a Series by cell name.",
            field="groups",
        )
    names = texts(column)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names) if name != ""}


def _comparisons(rows: dict[str, NDArray[np.int64]], comparison: str | Sequence[str]) -> dict[str, list[str]]:
    """Return what each group is compared with."""
    named = [comparison] if isinstance(comparison, str) else [text(name) for name in comparison]
    against = [] if comparison == "rest" and "rest" not in rows else named
    if strangers := [name for name in against if name not in rows]:
        raise errors.VocabularyError(
            f"the comparison names groups {errors.names(strangers)}; the cells have {errors.names(rows) or 'none'}.",
            field="comparison",
            unknown=strangers,
            known=list(rows),
        )
    compared = [name for name in rows if name not in against]
    if len(rows) < 2 or not compared:
        raise errors.VocabularyError(
            f"there is nothing to compare: the cells have the groups {errors.names(rows) or 'none'}"
            + (f", all of them in the comparison {errors.names(against)}" if against else "")
            + ". Give at least one group and one to compare it with.",
            field="groups",
            known=list(rows),
        )
    return {name: against or [other for other in rows if other != name] for name in compared}


def _chosen(model: Model, *, only_active: bool) -> list[int]:
    return [index for index, term in enumerate(model.manifest.terms) if term.active or not only_active]


def _directions(model: Model) -> NDArray[np.float32]:
    return np.array([term.direction for term in model.manifest.terms], dtype=np.float32)


def _check_terms(model: Model, verb: str) -> None:
    config = model.manifest.architecture
    if "terms" not in config.parts:
        raise config.without("terms", "gene programs", verb=verb)
