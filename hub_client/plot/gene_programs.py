"""Figures of gene programs: Bayes factors by group, scores on a map of the cells, and the genes of a program.

Every function returns a matplotlib figure of its own, which no window shows and which ``figure.savefig(path)`` writes.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.obs import column
from hub_client.data.threads import same_threads
from hub_client.data.values import texts
from hub_client.models.model import Model
from hub_client.programs import terms
from hub_client.programs.enrichment import written_scores

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRONG = 2.3
"""The absolute log Bayes factor from which a program is held to differ: odds of ten to one (Kass and Raftery 1995)."""
UP, DOWN, INSIDE, OUTSIDE, NOTHING = "#D55E00", "#0072B2", "#0072B2", "#E69F00", "#DDDDDD"
"""Colours that people with colour blindness tell apart (Okabe and Ito), and grey."""
PALETTE = (
    *("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2"),
    *("#D55E00", "#F0E442", "#000000", "#882255", "#999999"),
)
"""For up to ten categories: Okabe and Ito's eight, and two that stand apart from them."""
LETTERS = 44
"""Letters in a line of a name; a longer name is wrapped, never cut."""
ROW, LINE, FRAME = 0.24, 0.16, 0.95
"""Heights in inches: of a bar, of each further line of its name, and of a panel without its bars."""
NAMES, BARS, MAP = 3.4, 3.6, 3.5
"""Widths in inches: of names, of bars, and of a map of cells."""
ACROSS = 3
"""Maps in a row."""
SEED = 0
"""Of the map that is computed where there is none."""


def bayes_factors(
    table: pd.DataFrame, *, groups: Sequence[str] | None = None, top: int = 15, threshold: float = STRONG
) -> Figure:
    """Return a figure of the programs that differ in each group: the largest absolute log Bayes factors, ranked.

    One panel a group. A dashed line stands at the threshold; colours show whether a program is up or down in the group.

    Parameters
    ----------
    table
        From :func:`hub_client.enrichment`.
    groups
        Which groups, in this order; None shows all.
    top
        How many programs a panel shows.
    threshold
        Where the dashed line stands (natural logarithm of the odds).

    Raises
    ------
    VocabularyError
        If the table has no such group.

    Examples
    --------
    >>> hub_client.plot.bayes_factors(table).savefig("programs.png")  # doctest: +SKIP
    """
    shown = _known("groups", groups, known=list(dict.fromkeys(table["group"])))
    ranked = table.sort_values("bayes_factor", key=np.abs, ascending=False, kind="stable")
    parts = [ranked[ranked["group"] == group].head(top) for group in shown]
    figure, panels = _stacked([list(part["term"]) for part in parts])
    for axes, part in zip(panels, parts, strict=True):
        up = part["bayes_factor"] > 0
        axes.barh(range(len(part)), part["bayes_factor"].abs(), color=np.where(up, UP, DOWN), height=0.7)
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
        axes.set_xlabel("|log Bayes factor|")
        axes.set_title(f"{part['group'].iloc[0]} against {part['comparison'].iloc[0]}", loc="left")
    _legend(figure, {"up in the group": UP, "down": DOWN})
    return figure


def term_genes(model: Model, term: str | int, *, top: int = 20) -> Figure:
    """Return a figure of the genes that weigh most in a program; those that its annotation lacks have another colour.

    Only a soft mask, or an extension, lets a gene outside of the annotation weigh.

    Parameters
    ----------
    model
        An expiMap.
    term
        The program's name, id or position.
    top
        How many genes are shown.

    Raises
    ------
    VocabularyError
        If the model has no such program.
    Unsupported
        If the model has no gene programs.

    Examples
    --------
    >>> hub_client.plot.term_genes(model, "Interferon gamma signaling")  # doctest: +SKIP
    """
    genes = terms.term_genes(model, term).head(top)
    name = model.manifest.terms[terms.position_of(model, term)].name
    figure, (axes,) = _stacked([list(genes["genes"])], names=0.9)
    axes.barh(range(len(genes)), genes["weights"], color=np.where(genes["in_mask"], INSIDE, OUTSIDE), height=0.7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("weight in the decoder")
    axes.set_title(_wrapped(name), loc="left")
    _legend(figure, {"in the program": INSIDE, "outside of it": OUTSIDE})
    return figure


def term_scores(
    adata: AnnData,
    names: Sequence[str],
    *,
    scores: pd.DataFrame | None = None,
    color: Sequence[str] = (),
    basis: str = "X_umap",
) -> Figure:
    """Return a figure of programs' scores in each cell, on a map of the cells.

    Where ``adata`` has no map, a UMAP of the scores is computed on a copy (scanpy's defaults; the seed is fixed).

    Parameters
    ----------
    adata
        Cells, ``(cells, genes)``, as :func:`hub_client.map_query` returns them. It is not written to.
    names
        The programs to show, by name.
    scores
        From :func:`hub_client.term_scores`, matched by cell name; None takes those that ``map_query`` wrote.
    color
        obs columns to show besides, such as cell types.
    basis
        The map's key in ``adata.obsm``: of its columns, the first two are shown.

    Raises
    ------
    VocabularyError
        If there is no such program or column, or some cells have no scores.
    InvalidInput
        If there are no scores, or there is nothing to show.

    Examples
    --------
    >>> hub_client.plot.term_scores(mapping.adata, ["Interferon gamma signaling"], color=["batch"])  # doctest: +SKIP
    """
    scores = written_scores(adata) if scores is None else _of_cells(scores, adata)
    shown = _known("programs", names, known=list(scores.columns))
    groups = {name: texts(column(adata.obs, name, purpose="colours")) for name in color}
    places = _map(adata, scores, basis)
    if not shown and not groups:
        raise errors.InvalidInput("there is nothing to show: give names of programs, color, or both.", facts={})
    figure, panels = _grid(len(groups) + len(shown))
    for axes, (name, values) in zip(panels, groups.items(), strict=False):
        _categories(axes, places, values, title=name)
    for axes, name in zip(panels[len(groups) :], shown, strict=True):
        _values(figure, axes, places, scores[name].to_numpy(), title=name)
    return figure


def _of_cells(scores: pd.DataFrame, adata: AnnData) -> pd.DataFrame:
    if lost := list(adata.obs_names.difference(scores.index)):
        raise errors.VocabularyError(
            f"{len(lost):,} cells have no scores: {errors.names(lost)}. Give the scores of these very cells, or leave "
            "the cells out.",
            field="scores",
            unknown=lost,
        )
    return scores.loc[adata.obs_names]


def _known(what: str, wanted: Sequence[str] | None, *, known: list[str]) -> list[str]:
    """Return what is wanted, or all that is known; refuse what is not."""
    if strangers := [name for name in wanted or () if name not in known]:
        raise errors.VocabularyError(
            f"there are no {what} {errors.names(strangers)}; there are {errors.names(known) or 'none'}.",
            field=what,
            unknown=strangers,
            known=known,
        )
    return known if wanted is None else list(wanted)


def _map(adata: AnnData, scores: pd.DataFrame, basis: str) -> NDArray[np.floating[Any]]:
    """Return where each cell lies on the map, ``(cells, 2)``."""
    if basis in adata.obsm:
        return np.asarray(adata.obsm[basis])[:, :2]
    if basis != "X_umap":
        raise errors.VocabularyError(
            f"adata has no map {basis!r} in obsm; it has {errors.names(adata.obsm) or 'none'}. Leave basis out to have "
            "a UMAP computed.",
            field="basis",
            unknown=[basis],
            known=list(adata.obsm),
        )
    import anndata
    import scanpy as sc

    points = scores.to_numpy(dtype=np.float32)
    cells = anndata.AnnData(obsm={"scores": points}, shape=(len(points), 0))
    with same_threads(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_jobs value")  # umap warns that a seed means one thread
        sc.pp.neighbors(cells, use_rep="scores", n_neighbors=min(15, len(points) - 1), random_state=SEED)
        sc.tl.umap(cells, random_state=SEED)
    places: NDArray[np.floating[Any]] = cells.obsm["X_umap"]
    return places


# --- panels ----------------------------------------------------------------------------------------------------------


def _stacked(labels: Sequence[Sequence[str]], *, names: float = NAMES) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel of bars for each list of their names, the first on top, as high as names need."""
    from matplotlib.figure import Figure

    wrapped = [[_wrapped(name) for name in part] for part in labels]
    heights = [FRAME + sum(ROW + LINE * name.count("\n") for name in part) for part in wrapped]
    figure = Figure(figsize=(names + BARS, sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(labels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, part in zip(panels, wrapped, strict=True):
        axes.set_yticks(range(len(part)), part, fontsize=8)
        axes.set_ylim(len(part) - 0.4, -0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(panels)


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(panels, ACROSS)
    rows = -(-panels // columns)
    figure = Figure(figsize=(columns * (MAP + 0.9), rows * MAP), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for one in axes:
        one.set_axis_off()
    return figure, axes[:panels]


def _values(figure: Figure, axes: Axes, places: NDArray[Any], values: NDArray[np.floating[Any]], *, title: str) -> None:
    """Draw scores, extreme ones last; the colours end where all but one cell in a hundred on each side do."""
    order = np.argsort(np.abs(values), kind="stable")
    limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
    across, up = places[order].T
    drawn = axes.scatter(across, up, c=values[order], cmap="RdBu_r", vmin=-limit, vmax=limit, **_dots(len(values)))
    figure.colorbar(drawn, ax=axes, shrink=0.6, label="score")
    axes.set_title(_wrapped(title, letters=34), fontsize=10)


def _categories(axes: Axes, places: NDArray[Any], values: NDArray[np.str_], *, title: str) -> None:
    names = sorted(set(values.tolist()))
    palette = _palette(len(names))
    for place, name in enumerate(names):
        colour = palette[place] if name else NOTHING
        across, up = places[values == name].T
        axes.scatter(across, up, color=[colour], **_dots(len(values)))
        axes.scatter([], [], color=[colour], s=20, label=_wrapped(name or "none", letters=24))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, handletextpad=0.2)
    axes.set_title(title, fontsize=10)


def _palette(categories: int) -> Sequence[Any]:
    """Return a colour for each category; only up to ten are told apart by everybody."""
    from matplotlib import colormaps

    if categories <= len(PALETTE):
        return PALETTE
    colours = colormaps["tab20" if categories <= 20 else "gist_rainbow"].resampled(categories)(np.arange(categories))
    return list(colours)


def _dots(cells: int) -> dict[str, Any]:
    """Return how points are drawn: the smaller, the more there are."""
    return {"s": float(np.clip(20_000 / max(cells, 1), 0.5, 25)), "linewidths": 0, "rasterized": True}


def _wrapped(name: str, *, letters: int = LETTERS) -> str:
    return "\n".join(textwrap.wrap(name, letters)) or name


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=8)
