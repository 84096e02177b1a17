"""audit_labels(): which labels of a reference are doubtful, which of its cells, and why, before a model learns them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.data import counts as values_of
from hub_client.data import matrix as matrices
from hub_client.data.obs import column
from hub_client.data.sources import Source, choose_source
from hub_client.data.values import Names, texts, without_blanks
from hub_client.labels import out_of_sample
from hub_client.labels.marker_checks import MarkerCheck, check_markers
from hub_client.labels.out_of_sample import Codes, LabelledCells
from hub_client.labels.rules import Probabilities
from hub_client.manifest.axes import Markers
from hub_client.manifest.label_audits import AuditedLabel, LabelAuditRecord

if TYPE_CHECKING:
    from anndata import AnnData

GENES = 2000
"""How many genes a classifier reads: those whose log counts vary most, and all markers."""
FEWEST = 10
"""Cells of a label below which it is not judged."""
SUSPECTED, FEWEST_SUSPECTED = 0.05, 5
"""Share and number of a label's cells that look like others, from which the label is doubtful."""
WITHOUT = 0.15
"""Share of a label's cells without its markers, where some would be expected, from which the label is doubtful."""
FORBIDDEN = 0.05
"""By how much the share of a label's cells with forbidden counts exceeds twice that of others where it is doubtful."""
DISAGREEMENT = 0.25
"""Share of a label's cells that another batch calls alike otherwise, from which the two batches disagree."""


@dataclass(frozen=True)
class LabelAudit:
    """What an audit of one column of labels found.

    Attributes
    ----------
    level
        The column.
    table
        One row a label: ``cells``, ``suspected`` (cells that confident learning takes for something else),
        ``called_instead`` (what those are called, with counts), ``agreement`` (share that classifiers of other batches
        call the same), ``without_markers`` and ``forbidden_markers`` (shares; NaN for a label without such markers),
        ``elsewhere`` (share of other labels' cells with the forbidden counts). Labels with fewer than ten cells are not
        judged: NaN.
    suspects
        One row a doubtful cell, the most doubtful first: ``row``, ``batch``, ``given``, ``suggested`` (``""`` if
        only markers speak against the label), ``probability`` (of the suggested label, else of the given one) and
        ``reasons``; by cell name.
    called
        Share of each label's cells, a row each, that classifiers which did not see them call each label.
    sources
        How batches disagree: ``trained_on``, ``judged``, ``label``, ``called``, ``cells`` and ``share`` of the judged
        batch's cells of a label that a classifier of the other batch alone calls otherwise; the largest share first.
    warnings
        What to look at, in words; empty if nothing is doubtful.
    record
        The audit as a release states it.
    """

    level: str
    table: pd.DataFrame
    suspects: pd.DataFrame
    called: pd.DataFrame
    sources: pd.DataFrame
    warnings: tuple[str, ...]
    record: LabelAuditRecord


def audit_labels(
    adata: AnnData,
    labels: str,
    *,
    batch: str | None = None,
    markers: Mapping[str, Markers] | None = None,
    layer: str | None = None,
    folds: int = 5,
    seed: int = 0,
) -> LabelAudit:
    """Return which labels and cells of a data set are doubtful, by classifiers that did not see them and by markers.

    A logistic regression of log-normalised counts says what each cell is without having been trained on it, and, where
    there are several batches, without its batch. Confident learning (Northcutt 2021, doi 10.1613/jair.1.12125;
    cleanlab) takes those cells for mislabelled that are called another label more surely than its cells are on average;
    other batches must not contradict it. Markers are checked beside that: they are the only evidence against an error
    that runs through a whole data set, which every classifier learns.

    Parameters
    ----------
    adata
        Cells with counts. It is not changed; on disk, it is read in blocks.
    labels
        The column of ``obs`` with the labels; cells without one are left out.
    batch
        The column of ``obs`` with batches or studies; None takes all cells for one batch.
    markers
        Label to genes that its cells have and that they do not have, as they are named in ``var``.
    layer
        The layer that holds counts; None is ``X``.
    folds
        Into how many parts cells are split.
    seed
        Of the folds. The same seed gives the same audit.

    Raises
    ------
    VocabularyError
        If there is no such column or layer, or markers are of labels that no cell has.
    AlignmentError
        If the matrix does not hold counts, or none of a label's markers was measured.
    InvalidInput
        If there are fewer than two labels with ten cells, or fewer than two folds.

    Examples
    --------
    >>> audit = audit_labels(adata, "cell_type", batch="donor")  # doctest: +SKIP
    >>> audit.table  # doctest: +SKIP
    """
    names = without_blanks(texts(column(adata.obs, labels, purpose="labels")))
    batches = np.full(adata.n_obs, "") if batch is None else texts(column(adata.obs, batch, purpose="batches"))
    checked = dict(markers or {})
    _check(names, checked, folds=folds, level=labels)
    source = choose_source(adata, layer=layer, hint="counts")
    genes = _genes(source, checked)
    return _audited(_Read.of(source, genes), names, batches, markers=checked, level=labels, folds=folds, seed=seed)


def _check(names: Names, markers: Mapping[str, Markers], *, folds: int, level: str) -> None:
    distinct, cells = np.unique(names[names != ""], return_counts=True)
    if strangers := sorted(markers.keys() - set(distinct.tolist())):
        raise errors.VocabularyError(
            f"markers are of {errors.names(strangers)}, which no cell is labelled in obs[{level!r}]; it has "
            f"{errors.names(distinct.tolist()) or 'no labels'}.",
            field="markers",
            unknown=strangers,
            known=distinct.tolist(),
        )
    if (cells >= FEWEST).sum() < 2 or folds < 2:
        raise errors.InvalidInput(
            f"obs[{level!r}] has {int((cells >= FEWEST).sum())} labels of at least {FEWEST} cells, and folds is "
            f"{folds}: an audit compares two labels or more, over two folds or more.",
            facts={"labels": distinct.tolist(), "folds": folds},
        )


# --- reading ---------------------------------------------------------------------------------------------------------


def _genes(source: Source, markers: Mapping[str, Markers]) -> Codes:
    """Return the columns that are read: the markers, and the genes whose log counts vary most."""
    genes = source.features.genes
    names = pd.Index(source.var.index.astype(str))
    wanted = {gene for rule in markers.values() for gene in (*rule.present, *rule.absent)}
    for label, rule in markers.items():
        if lost := [part for part in (rule.present, rule.absent) if part and not set(part) & set(names)]:
            raise errors.AlignmentError(
                f"none of the markers {errors.names(lost[0])} of {label!r} was measured. Name genes as var does, "
                f"such as {errors.names(names[:2].tolist())}.",
                missing=list(lost[0]),
            )
    spread = np.where(genes, matrices.log_variances(source.matrix), -1.0)
    ranked = np.argsort(-spread, kind="stable")[: min(GENES, int(genes.sum()))]
    found: Codes = np.union1d(ranked, np.flatnonzero(names.isin(wanted))).astype(np.int64)
    return found


@dataclass(frozen=True)
class _Read:
    """The counts that an audit reads."""

    counts: csr_matrix
    """``(cells, genes)``"""
    genes: list[str]
    depth: NDArray[np.float64]
    """Counts per cell over all genes, ``(cells,)``."""
    cells: NDArray[np.object_]
    """Cell names."""

    @classmethod
    def of(cls, source: Source, genes: Codes) -> _Read:
        """Return some columns of a matrix of counts; refuse a matrix of other values."""
        target = np.full(len(source.var), -1, dtype=np.int64)
        target[genes] = np.arange(len(genes))
        tally = values_of.Tally()
        counts = matrices.pick(source.matrix, target, genes=len(genes), look=tally.add)
        if not (tally.counts and tally.fits and tally.largest > 0):
            raise errors.AlignmentError(
                f"{source.name} holds {values_of.described(tally, source.head())}, and an audit reads counts. Name the "
                "layer that holds them: layer='counts', for one."
            )
        depth = matrices.row_sums(source.matrix, over=source.features.genes)
        names = source.var.index.astype(str)[genes].tolist()
        return cls(counts, names, depth, source.adata.obs_names.to_numpy(dtype=object))


# --- judging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """The cells of labels that are judged, and what classifiers call them."""

    rows: Codes
    labels: list[str]
    batches: list[str]
    cells: LabelledCells
    inside: Probabilities
    """By classifiers that did not see the cell, ``(judged cells, labels)``."""
    outside: Probabilities | None
    """By classifiers that did not see the cell's batch; None for one batch."""
    wrong: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """Which cells confident learning takes for something else, and no other batch contradicts."""

    @property
    def suggested(self) -> Codes:
        """What each cell is most probably, ``(judged cells,)``."""
        found: Codes = self.inside.argmax(axis=1)
        return found

    @property
    def agrees(self) -> NDArray[np.bool_] | None:
        """Whether other batches call a cell as it is labelled, ``(judged cells,)``."""
        return None if self.outside is None else self.outside.argmax(axis=1) == self.cells.codes


def _audited(
    read: _Read,
    names: Names,
    batches: Names,
    *,
    markers: Mapping[str, Markers],
    level: str,
    folds: int,
    seed: int,
) -> LabelAudit:
    judged = _judged(read, names, batches, folds=folds, seed=seed)
    checks = check_markers(read.counts, read.genes, depth=read.depth, names=names, markers=markers)
    table = _table(judged, names, checks)
    sources = pd.DataFrame(list(_sources(judged)), columns=list(SOURCES)).sort_values(
        ["share", "cells"], ascending=False, kind="stable", ignore_index=True
    )
    return LabelAudit(
        level,
        table,
        _suspects(read, judged, names, batches, checks, markers),
        _called(judged),
        sources,
        tuple(_warnings(table, sources, markers)),
        _record(level, table, judged, folds=folds),
    )


def _judged(read: _Read, names: Names, batches: Names, *, folds: int, seed: int) -> _Judged:
    distinct, cells = np.unique(names, return_counts=True)
    labels = [str(n) for n, count in zip(distinct, cells, strict=True) if n and count >= FEWEST]
    rows = np.flatnonzero(np.isin(names, labels))
    codes = np.searchsorted(np.array(labels), names[rows]).astype(np.int64)
    known, numbers = np.unique(batches[rows], return_inverse=True)
    one = LabelledCells(read.counts[rows], codes, numbers.astype(np.int64), len(labels), seed)
    inside, outside = out_of_sample.by_fold(one, folds=folds), out_of_sample.without_batch(one)
    wrong = _mislabelled(codes, inside)
    if outside is not None:
        wrong &= (outside.argmax(axis=1) != codes) | ~_elsewhere(one)
    return _Judged(rows, labels, known.tolist(), one, inside, outside, wrong)


def _mislabelled(codes: Codes, inside: Probabilities) -> NDArray[np.bool_]:
    """Return which cells confident learning takes for something else than their label, ``(cells,)``."""
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of rare labels, which the table shows
        found = find_label_issues(codes, inside, filter_by="confident_learning", n_jobs=1, verbose=False)
    wrong: NDArray[np.bool_] = np.asarray(found, dtype=bool) & (inside.argmax(axis=1) != codes)
    return wrong


def _elsewhere(cells: LabelledCells) -> NDArray[np.bool_]:
    """Return whether another batch has a cell's label too, ``(cells,)``."""
    pairs = np.zeros((cells.labels, int(cells.batches.max()) + 1), dtype=bool)
    pairs[cells.codes, cells.batches] = True
    found: NDArray[np.bool_] = (pairs.sum(axis=1) > 1)[cells.codes]
    return found


SOURCES = ("trained_on", "judged", "label", "called", "cells", "share")


def _sources(judged: _Judged) -> Iterator[tuple[str, str, str, str, int, float]]:
    """Yield how often a classifier of one batch calls cells of a label in another batch otherwise, in both's labels."""
    cells = judged.cells
    for batch, others, called in out_of_sample.by_batch(cells):
        known = np.unique(cells.codes[cells.batches == batch])
        frame = pd.DataFrame({"b": cells.batches[others], "g": cells.codes[others], "c": called})
        frame = frame[frame["g"].isin(known)]
        sizes = frame.groupby(["b", "g"]).size()
        for (other, given, name), count in frame[frame["g"] != frame["c"]].groupby(["b", "g", "c"]).size().items():
            trained_on, where = judged.batches[batch], judged.batches[other]
            share = count / sizes[other, given]
            yield trained_on, where, judged.labels[given], judged.labels[name], int(count), float(share)


# --- reporting -------------------------------------------------------------------------------------------------------


def _called(judged: _Judged) -> pd.DataFrame:
    frame = pd.crosstab(judged.cells.codes, judged.suggested, normalize="index")
    numbers = range(len(judged.labels))
    frame = frame.reindex(index=numbers, columns=numbers, fill_value=0.0)
    return frame.set_axis(judged.labels, axis=0).set_axis(judged.labels, axis=1)


def _table(judged: _Judged, names: Names, checks: Mapping[str, MarkerCheck]) -> pd.DataFrame:
    rows = {label: _row(label, judged, checks.get(label)) for label in np.unique(names[names != ""]).tolist()}
    sizes = pd.Series(names[names != ""]).value_counts()
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    table.insert(0, "cells", sizes.reindex(table.index).astype(int))
    return table


COLUMNS = ("suspected", "called_instead", "agreement", "without_markers", "forbidden_markers", "elsewhere")


def _row(label: str, judged: _Judged, check: MarkerCheck | None) -> list[Any]:
    suspected, called, agreement = np.nan, {}, np.nan
    if label in judged.labels:
        own = judged.cells.codes == judged.labels.index(label)
        numbers = pd.Series(judged.suggested[own & judged.wrong]).value_counts()
        suspected, called = int(numbers.sum()), {judged.labels[n]: int(count) for n, count in numbers.items()}
        if judged.agrees is not None and _elsewhere(judged.cells)[own].any():
            agreement = float(judged.agrees[own].mean())
    return [suspected, called, agreement, *_marker_shares(check)]


def _marker_shares(check: MarkerCheck | None) -> tuple[float, float, float]:
    if check is None:
        return np.nan, np.nan, np.nan
    deep = check.deep is not None and check.deep.any()
    without = check.without.sum() / check.deep.sum() if deep else np.nan  # type: ignore[union-attr]
    forbidden = np.nan if check.forbidden is None else float(check.forbidden.mean())
    return float(without), forbidden, np.nan if check.background is None else check.background


def _suspects(
    read: _Read,
    judged: _Judged,
    names: Names,
    batches: Names,
    checks: Mapping[str, MarkerCheck],
    markers: Mapping[str, Markers],
) -> pd.DataFrame:
    reasons: dict[int, list[str]] = {}
    for row in judged.rows[judged.wrong].tolist():
        reasons[row] = [CALLED if judged.outside is None else f"{CALLED}, and not as labelled by other batches"]
    for label, check in checks.items():
        rule = markers[label]
        for found, genes, text in (
            (check.without, rule.present, "no count of"),
            (check.forbidden, rule.absent, "counts of"),
        ):
            if found is not None:
                for row in check.rows[found].tolist():
                    reasons.setdefault(row, []).append(f"{text} {' or '.join(genes)}")
    rows = np.array(sorted(reasons), dtype=np.int64)
    place = pd.Series(np.arange(len(judged.rows)), index=judged.rows).reindex(rows)
    suggested, probability = _said_of(judged, place)
    frame = pd.DataFrame(
        {
            "row": rows,
            "batch": batches[rows],
            "given": names[rows],
            "suggested": suggested,
            "probability": probability,
            "reasons": ["; ".join(reasons[row]) for row in rows.tolist()],
        },
        index=pd.Index(read.cells[rows], name="cell"),
    )
    against = np.array([len(reasons[row]) for row in rows.tolist()], dtype=np.int64)
    unsaid = (suggested == "").astype(np.int64)  # only markers speak against the label: behind the others
    return frame.iloc[np.lexsort((rows, -probability, -against, unsaid))]


CALLED = "called so by classifiers that did not see it"


def _said_of(judged: _Judged, place: pd.Series) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """Return what doubtful cells are suggested to be and how surely, or how sure their own label is."""
    suggested, probability = np.full(len(place), "", dtype=object), np.full(len(place), np.nan)
    known = place.notna().to_numpy()
    at = place[known].to_numpy(dtype=np.int64)
    wrong = judged.wrong[at]
    names = np.array(judged.labels, dtype=object)[judged.suggested[at]]
    suggested[known] = np.where(wrong, names, "")
    stated = np.where(wrong, judged.suggested[at], judged.cells.codes[at])
    probability[known] = judged.inside[at, stated]
    return suggested, probability


def _warnings(table: pd.DataFrame, sources: pd.DataFrame, markers: Mapping[str, Markers]) -> Iterator[str]:
    for label, row in table.iterrows():
        cells = f"{row['cells']:,} {label!r} cells"
        if row["suspected"] >= max(FEWEST_SUSPECTED, SUSPECTED * row["cells"]):
            most = next(iter(row["called_instead"]))
            yield f"{row['suspected'] / row['cells']:.0%} of {cells} look like others, most like {most!r}"
        if row["without_markers"] >= WITHOUT:
            genes = " or ".join(markers[str(label)].present)
            yield f"{row['without_markers']:.0%} of those of {cells} that are deep enough have no count of {genes}"
        if row["forbidden_markers"] >= 2 * np.nan_to_num(row["elsewhere"]) + FORBIDDEN:
            genes, background = " or ".join(markers[str(label)].absent), np.nan_to_num(row["elsewhere"])
            yield f"{row['forbidden_markers']:.0%} of {cells} have counts of {genes}; of others, {background:.0%} have"
    yield from map(_disagreement, sources[_doubtful(sources)].to_dict("records"))


def _doubtful(sources: pd.DataFrame) -> pd.Series:
    return (sources["share"] >= DISAGREEMENT) & (sources["cells"] >= FEWEST)


def _disagreement(row: Mapping[Any, Any]) -> str:
    return (
        f"a classifier of {row['trained_on']!r} alone calls {row['share']:.0%} of the {row['label']!r} cells of "
        f"{row['judged']!r} {row['called']!r}"
    )


def _record(level: str, table: pd.DataFrame, judged: _Judged, *, folds: int) -> LabelAuditRecord:
    judgeable = table.loc[[label for label in table.index if label in judged.labels]]
    return LabelAuditRecord(
        level=level,
        cells=int(table["cells"].sum()),
        batches=len(judged.batches),
        suspected=int(judged.wrong.sum()),
        unjudged=tuple(str(label) for label in table.index if label not in judged.labels),
        labels=tuple(_audited_label(str(label), row) for label, row in judgeable.iterrows()),
        seed=judged.cells.seed,
        folds=folds,
    )


def _audited_label(label: str, row: pd.Series) -> AuditedLabel:
    shares = ("agreement", "without_markers", "forbidden_markers")
    stated = {name: None if np.isnan(row[name]) else round(float(row[name]), 4) for name in shares}
    counts = {"cells": int(row["cells"]), "suspected": int(row["suspected"]), "called": row["called_instead"]}
    return AuditedLabel.model_validate({"label": label, **counts, **stated})


__all__: Sequence[str] = ["LabelAudit", "audit_labels"]
