"""The picture of an audit of labels: what each label's cells are called by classifiers that did not see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hub_client.labels.audit import LabelAudit

CELL, NAMES = 0.42, 3.2
"""Inches: of a square, and of the names beside them."""
SHOWN = 0.005
"""Shares below this are not written into their square."""
MOST_WRITTEN = 25
"""With more labels than these, squares are too small to write into."""


def label_audit(audit: LabelAudit, *, ax: Axes | None = None) -> Axes:
    """Return a heat map of an audit: a row for each given label, a column for what its cells are called.

    A label that is right has its cells on the diagonal. Beside each row stand the label's cells, the share that
    confident learning suspects, and the share with counts of markers that the label should not have.

    Parameters
    ----------
    audit
        From :func:`hub_client.audit_labels`.
    ax
        Where to draw; None makes a figure, ``ax.figure``, which no window shows and ``savefig`` writes.

    Examples
    --------
    >>> hub_client.plot.label_audit(audit).figure.savefig("audit.png")  # doctest: +SKIP
    """
    called = audit.called
    axes = _axes(len(called)) if ax is None else ax
    drawn = axes.imshow(called.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    places = np.arange(len(called))
    axes.set_xticks(places, list(called.columns), rotation=45, ha="right", fontsize=8)
    axes.set_yticks(places, [_row(name, audit.table.loc[name]) for name in called.index], fontsize=8)
    axes.set_xlabel("called by classifiers that did not see the cell")
    axes.set_ylabel(f"given ({audit.level})")
    axes.set_title(_title(audit), loc="left", fontsize=10)
    if len(called) <= MOST_WRITTEN:
        _write(axes, called)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.6, label="share of the given label's cells")
    return axes


def _axes(labels: int) -> Axes:
    from matplotlib.figure import Figure

    side = CELL * max(labels, 4)
    return Figure(figsize=(side + NAMES + 1.6, side + 2.2), layout="constrained").subplots()


def _row(name: str, row: pd.Series) -> str:
    parts = [f"{row['cells']:,} cells", f"{row['suspected'] / row['cells']:.0%} suspected"]
    if not np.isnan(row["forbidden_markers"]):
        parts.append(f"{row['forbidden_markers']:.0%} forbidden genes")
    return f"{name}\n{', '.join(parts)}"


def _title(audit: LabelAudit) -> str:
    record = audit.record
    return f"{record.suspected:,} of {record.cells:,} labels suspected"


def _write(axes: Axes, called: pd.DataFrame) -> None:
    for (row, column), share in np.ndenumerate(called.to_numpy()):
        if share >= SHOWN:
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}".lstrip("0"), ha="center", va="center", color=colour, fontsize=7)
