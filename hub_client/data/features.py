"""Which rows of var are genes: antibodies, hashtags, guides and peaks that a file holds beside them are not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.values import is_blank, texts

Texts = NDArray[np.object_]

COLUMNS = ("featuretypes", "featuretype", "type", "modality", "librarytype", "assay")
"""What the var column is called that states what each row is, in lower case and without punctuation."""
ANTIBODIES = "Antibody Capture"
"""What 10x calls rows that count antibodies, and what they are called here where only their names show it."""
_GENES = "gene expression"
"""What 10x calls genes; a column that has it names every other kind of rows, too."""
_ANTIBODY = re.compile(
    r"(surface )?(antibod(y|ies)|proteins?|prot|adt|abseq|cite ?seq)( (capture|expression|counts|derived tags?))?"
)
_OTHER = re.compile(
    r"(multiplexing|crispr|guide|sgrna|grna|custom|antigen|cell hash|hash|hto|cmo|peak|chromatin|atac|vdj|spike in).*"
)
_TAGGED = re.compile(r"[-_. ]total[-_ ]?seq[-_ ]?[abcd]?\d*$|[-_. ](adt|prot)$|^(adt|prot)[-_. ]", re.IGNORECASE)
"""Names that vendors and pipelines give to antibodies, and that no gene has."""


@dataclass(frozen=True)
class Features:
    """What the rows of a var are."""

    names: Texts
    """Their var_names, ``(features,)``."""
    kinds: Texts
    """What each row is as var has it, ``(features,)``; ``""`` for genes."""
    column: str | None
    """The var column that states it; None where the rows' names do, or all are genes."""

    @cached_property
    def genes(self) -> NDArray[np.bool_]:
        """Which rows are genes, ``(features,)``."""
        found: NDArray[np.bool_] = self.kinds == ""
        return found

    @cached_property
    def plain_names(self) -> Texts:
        """The names, ``(features,)``, without the numbers by which ``var_names_make_unique()`` keeps kinds apart.

        Where an antibody and a gene are both CD14, it calls the second of them CD14-1.
        """
        if self.genes.all():
            return self.names
        ours, theirs = set(self.names[self.genes]), set(self.names[~self.genes])
        pairs = zip(self.names, self.genes, strict=True)
        found = [_plain(name, theirs - ours if gene else ours - theirs) for name, gene in pairs]
        return np.array(found, dtype=object)

    def rows_of(self, kind: str) -> NDArray[np.int64]:
        """Return the rows of one kind, ascending."""
        return np.flatnonzero(self.kinds == kind)

    @property
    def antibodies(self) -> tuple[str, ...]:
        """The kinds that are proteins' counts."""
        return tuple(kind for kind in pd.unique(self.kinds) if kind and _ANTIBODY.fullmatch(_words(kind)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one sentence each."""
        others = pd.Series(self.kinds[~self.genes]).value_counts()
        if others.empty:
            return ()
        shown = errors.names(f"{count:,} {kind}" for kind, count in others.items())
        how = "their names" if self.column is None else f"var[{self.column!r}]"
        return (f"{int(others.sum()):,} rows of the query's var are no genes by {how}, and not read as such: {shown}.",)


def features(var: pd.DataFrame) -> Features:
    """Return what the rows of a var are, by the column that states it or by the tags in their names.

    Rows for which nothing is stated are genes. A column in which some rows are ``Gene Expression`` states it of all
    others; in another, as CELLxGENE's ``feature_type`` with biotypes, only rows of known other kinds are no genes.
    """
    names = texts(var.index.to_series()).astype(object)
    for position, column in enumerate(var.columns):  # two can have one name
        if re.sub(r"[^a-z]+", "", str(column).lower()) in COLUMNS:
            kinds = _kinds(texts(var.iloc[:, position]).astype(object))
            if (kinds != "").any():
                return Features(names, kinds, str(column))
    tagged = np.array([_TAGGED.search(name) is not None for name in names], dtype=bool)
    return Features(names, np.where(tagged, ANTIBODIES, "").astype(object), None)


def _kinds(stated: Texts) -> Texts:
    """Return the kind of each row, ``""`` for genes, from what a column states."""
    distinct = list(pd.unique(stated))
    closed = any(_words(kind) == _GENES for kind in distinct)
    genes = {kind for kind in distinct if is_blank(kind) or _is_gene(_words(kind), closed=closed)}
    return np.array(["" if kind in genes else kind for kind in stated], dtype=object)


def _is_gene(words: str, *, closed: bool) -> bool:
    return words == _GENES if closed else not (_ANTIBODY.fullmatch(words) or _OTHER.fullmatch(words))


def _words(kind: str) -> str:
    return re.sub(r"[^a-z]+", " ", kind.lower()).strip()


def _plain(name: str, others: set[str]) -> str:
    base, _, number = name.rpartition("-")
    return base if number.isdigit() and base in others else name
