"""Which of a query's matrices to read, and whether it holds what the model reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from hub_client import errors
from hub_client.data import counts, elements
from hub_client.data import matrix as matrices
from hub_client.data.counts import Tally
from hub_client.data.features import Features, features
from hub_client.manifest.inputs import InputSpec


@dataclass(frozen=True)
class Source:
    """One matrix of a query, with the genes of its columns."""

    name: str
    """``X``, ``raw`` or ``layers/<name>``."""
    adata: AnnData
    """The query."""

    @cached_property
    def matrix(self) -> Any:
        """``(cells, query genes)``, in memory or on disk; fetched once: of a view, anndata makes a copy each time."""
        with elements.guarded(self.name, place="the query"):
            found = self._found()
        if isinstance(found, pd.DataFrame):
            found = self._in_order(found)
        return matrices.readable(found, name=self.name)

    def _in_order(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a layer that is a frame with the query's cells and genes in the query's order."""
        for axis, names in enumerate((self.adata.obs_names, self.var.index)):
            own = frame.axes[axis]
            if own.equals(names) or isinstance(own, pd.RangeIndex):
                continue
            if own.has_duplicates or set(own) != set(names):
                raise errors.AlignmentError(
                    f"{self.name} is a data frame whose {('rows', 'columns')[axis]} are not named as the query's "
                    f"{('obs_names', 'var_names')[axis]}: it has {errors.names(own)}, the query {errors.names(names)}. "
                    "Put its values there, as in adata.layers[name] = frame.to_numpy()."
                )
            frame = frame.reindex(names, axis=axis)
        return frame

    def _found(self) -> Any:
        if self.name.startswith("layers/"):
            return self.adata.layers[self.argument]
        return self.adata.raw.X if self.name == "raw" else self.adata.X

    @property
    def holds_counts(self) -> bool:
        """Whether its first rows are counts; of a matrix that is not set or cannot be read it is not known."""
        try:
            return self.matrix is not None and counts.are_counts(self.matrix)
        except errors.HubClientError:
            return False

    @property
    def var(self) -> pd.DataFrame:
        """The gene table, ``(query genes, columns)``."""
        return self.adata.raw.var if self.name == "raw" else self.adata.var

    @cached_property
    def features(self) -> Features:
        """What the rows of the gene table are: genes, or antibodies, hashtags and guides beside them.

        A raw whose var does not state it has rows of what the query's own var states of the same names.
        """
        found, own = features(self.var), self.adata.var
        if self.name != "raw" or found.column is not None:
            return found
        return features(own[~own.index.duplicated()].reindex(self.var.index))

    def head(self) -> sparse.csr_matrix:
        """Return the first rows over its genes, to see what it holds."""
        rows, genes = matrices.head(self.matrix, rows=counts.SAMPLE), self.features.genes
        return rows if genes.all() else rows[:, genes]

    @property
    def argument(self) -> str:
        """What ``layer=`` has to be to read this matrix."""
        return self.name.removeprefix("layers/")


def every(adata: AnnData) -> list[Source]:
    """Return every matrix a query can have: layers, then raw, then X, which may not be set."""
    names = [*(f"layers/{name}" for name in adata.layers), *(["raw"] if adata.raw is not None else []), "X"]
    return [Source(name, adata) for name in names]


def choose_source(adata: AnnData, *, layer: str | None, hint: str | None) -> Source:
    """Return the matrix to read: the one asked for, else the hinted layer if it holds counts, else X.

    Parameters
    ----------
    layer
        A layer's name, ``raw``, ``X`` or None.
    hint
        The layer the reference's counts were in, from the manifest.

    Raises
    ------
    VocabularyError
        If the query has no such layer.
    AlignmentError
        If the matrix to read was not set, or holds no numbers.
    InvalidInput
        If it cannot be read.
    """
    found = {source.argument: source for source in reversed(every(adata))}  # a layer named raw or X wins
    if layer is not None and not (isinstance(layer, str) and layer in found):
        raise errors.VocabularyError(
            f"the query has no layer {layer!r}; layer= can be {errors.names(sorted(found))}.",
            field="layer",
            unknown=[layer],
            known=sorted(found),
        )
    if layer is None and hint in found and found[hint].holds_counts:
        return found[hint]
    source = Source("X", adata) if layer is None else found[layer]
    if source.matrix is None:
        raise errors.AlignmentError(f"the query's {source.name} is not set.{_elsewhere(source)}")
    return source


def check(source: Source, *, tally: Tally, spec: InputSpec) -> tuple[str, ...]:
    """Return warnings about values the model can read; refuse those it cannot.

    Parameters
    ----------
    tally
        Of every stored value of the matrix.
    spec
        What the model reads. For ``log1p``, counts pass too: they are transformed.

    Raises
    ------
    AlignmentError
        If the values are not what the model reads; the message states what they look like and which other matrix of the
        query holds counts.
    """
    if tally.largest == 0 and tally.counts:
        raise errors.AlignmentError(f"{source.name} holds nothing but zeros.{_elsewhere(source)}")
    sample = source.head()
    if tally.counts and tally.fits:
        return _doubts_of_counts(tally, sample, source)
    if spec.kind == "log1p" and counts.may_be_logs(tally, sample):
        return _doubts_of_logs(sample, source, spec)
    raise errors.AlignmentError(
        f"{source.name} holds {counts.described(tally, sample)}, but this model reads {_READS[spec.kind]}."
        f"{_elsewhere(source) or _ADVICE + (_ROUNDING if counts.may_be_rounded(tally, sample) else '')}"
    )


_READS = {
    "counts": "raw counts: whole numbers, none negative",
    "log1p": "log1p of normalised counts, or raw counts to make them from",
}
_ADVICE = (
    " No layer and no raw of this query holds counts either: start from the counts before normalisation or correction."
)
_ROUNDING = (
    " Counts that were estimated (RSEM, kallisto) or corrected (SoupX, DecontX) can be rounded, TPM and other "
    "normalised values cannot: adata.layers['counts'] = adata.X.round(), then pass layer='counts'."
)


def _elsewhere(source: Source) -> str:
    """Return a sentence on which other matrices of the query hold counts, or nothing."""
    others = [other for other in every(source.adata) if other.name != source.name]
    shown = [f"{other.name} does: pass layer={other.argument!r}" for other in others if other.holds_counts]
    return f" But {'; '.join(shown)}." if shown else ""


def _doubts_of_counts(tally: Tally, sample: sparse.csr_matrix, source: Source) -> tuple[str, ...]:
    if tally.largest <= 1:
        return (
            f"{source.name} holds only zeros and ones: if the counts were binarised, pass the layer that has them.",
        )
    total, smallest = counts.common_total(sample), counts.gap(sample)
    if total is None and smallest > 3:
        return (
            f"the smallest value above zero in most cells of {source.name} is {smallest:,.0f} or so, where counts have "
            "1, as normalised values have that were rounded: start from the counts, as results of normalised values "
            f"mean nothing.{_elsewhere(source)}",
        )
    if total is None:
        return ()
    return (
        f"each cell of {source.name} has a total of {total:,.0f}, as normalised values (TPM, CPM) have that were "
        "rounded, and counts hardly do. Unless these are counts that were downsampled to this total, start from the "
        f"counts: results of normalised values mean nothing.{_elsewhere(source)}",
    )


def _doubts_of_logs(sample: sparse.csr_matrix, source: Source, spec: InputSpec) -> tuple[str, ...]:
    total = counts.common_total(sample.astype(np.float64).expm1())
    if spec.target_sum is None or total is None or np.isclose(total, spec.target_sum, rtol=0.02):
        return ()
    return (
        f"each cell of {source.name} was scaled to {total:,.0f} before log1p, the reference's to "
        f"{spec.target_sum:,.0f}: pass the layer that holds raw counts, and they are scaled as the reference was.",
    )
