"""scArches' ``plotting.plot_abs_bfs``: programs by the absolute log Bayes factor that ``latent_enrich`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from hub_client import errors
from hub_client.plot.gene_programs import STRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (6.4, 4.8)
"""Width and height of a panel in inches."""


def plot_abs_bfs(
    adata: AnnData,
    scores_key: str = "bf_scores",
    terms: str | Sequence[str] = "terms",
    keys: str | Sequence[Any] | None = None,
    n_cols: int = 3,
    **kwargs: Any,
) -> Figure:
    """Return a figure of the programs that differ in each group, ranked, with their names at their values.

    :func:`hub_client.plot.bayes_factors` shows the same as bars whose colours tell up from down.

    Parameters
    ----------
    adata
        Whose ``uns`` has what :meth:`hub_client.compat.EXPIMAP.latent_enrich` wrote.
    scores_key
        Under which key.
    terms
        The names of the programs that were compared, or their key in ``uns``.
    keys
        Which groups; None: all.
    n_cols
        Panels in a row.
    **kwargs
        ``n_points`` (30: how many programs), ``lim_val`` (2.3: where the line is), ``fontsize`` (8), ``scale_y`` (2:
        how far the axis goes, in largest values), ``yt_step`` (0.3: between its ticks), ``title``; ``ax``, for one
        group.

    Raises
    ------
    VocabularyError
        If ``uns`` has no such key, or there is no such group.
    InvalidInput
        If there are not as many names as values.
    """
    scores = _of_uns(adata, scores_key)
    names = np.asarray(_of_uns(adata, terms) if isinstance(terms, str) else terms, dtype=object)
    chosen = list(scores) if keys is None else [keys] if isinstance(keys, str) else list(keys)
    if strangers := [key for key in chosen if key not in scores]:
        raise errors.VocabularyError(
            f"there are no scores of {errors.names(strangers)}; there are those of {errors.names(scores)}.",
            field="keys",
            unknown=strangers,
            known=list(scores),
        )
    for key in chosen:
        if len(names) != len(scores[key]["bf"]):
            raise errors.InvalidInput(
                f"there are {len(names):,} names for the {len(scores[key]['bf']):,} programs that were compared; pass "
                "terms=, or name extensions with update_terms().",
                facts={"terms": len(names), "scores": len(scores[key]["bf"])},
            )
    return _drawn({key: np.abs(scores[key]["bf"]) for key in chosen}, names, n_cols=n_cols, **kwargs)


def _of_uns(adata: AnnData, key: str) -> Any:
    if key not in adata.uns:
        raise errors.VocabularyError(
            f"adata.uns has no {key!r}; it has {errors.names(adata.uns) or 'nothing'}. latent_enrich() writes scores, "
            "add_annotations() names.",
            field="uns",
            unknown=[key],
            known=list(adata.uns),
        )
    return adata.uns[key]


def _drawn(factors: dict[Any, Any], names: Any, *, n_cols: int, ax: Axes | None = None, **options: Any) -> Figure:
    from matplotlib.figure import Figure

    if ax is not None and len(factors) == 1:
        ((key, values),) = factors.items()
        _panel(ax, values, names, key=key, **options)
        return ax.get_figure(root=True) or Figure()
    columns = max(1, min(n_cols, len(factors)))
    rows = max(1, -(-len(factors) // columns))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (key, values) in zip(panels, factors.items(), strict=False):
        _panel(panel, values, names, key=key, **options)
    for panel in panels[len(factors) :]:
        panel.axis("off")
    return figure


def _panel(
    ax: Axes,
    values: Any,
    names: Any,
    *,
    key: Any,
    n_points: int = 30,
    lim_val: float = STRONG,
    fontsize: float = 8,
    scale_y: float = 2,
    yt_step: float = 0.3,
    title: str | None = None,
) -> None:
    top = float(values.max(initial=0.0)) or 1.0
    for rank, place in enumerate(np.argsort(values)[::-1][:n_points], start=1):
        ax.text(rank, values[place], names[place], rotation="vertical", va="bottom", ha="center", fontsize=fontsize)
    ax.axhline(lim_val, color="red", linestyle="--")
    ax.grid(False)
    ax.set_ylim(0, top * scale_y)
    ax.set_yticks(np.arange(0, top * 1.1, yt_step))
    ax.set_xlim(0.1, n_points + 0.9)
    ax.set_xticks([1, *range(5, n_points + 1, 5)])
    ax.set(xlabel="Rank", ylabel="Absolute log Bayes factor", title=str(key) if title is None else title)
