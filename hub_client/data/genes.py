"""Which of a query's genes is which of a model's: names to indices, with the evidence for each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.data.features import Features, features
from hub_client.data.hgnc import Hgnc, How, hgnc, respelt
from hub_client.data.species import Evidence
from hub_client.data.values import text, texts
from hub_client.manifest.inputs import Genes
from hub_client.manifest.v1 import Manifest

Texts = NDArray[np.object_]
Indices = NDArray[np.int64]

HUMAN = "NCBITaxon:9606"
_ORGANISMS = {HUMAN: "human", "NCBITaxon:10090": "mouse"}

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?")
_GENOME = re.compile(r"^(?:GRCh3[78]|hg19|hg38)[-_.]+")
_MOUSE_SYMBOL = re.compile(r"(?:[A-Z][a-z0-9]*[a-z][a-z0-9-]*|mt-[A-Z]\w+|\d{7}[A-Z]\d\dRik)")
_SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSMMUG": "macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSPTRG": "chimpanzee",
    "ENSSSCG": "pig",
    "ENSDARG": "zebrafish",
    "ENSGALG": "chicken",
}


def plain(name: str) -> str:
    """Return a gene's name without an Ensembl version (``ENSG….3``) or a genome's prefix (``GRCh38_``)."""
    bare = _GENOME.sub("", name)
    ensembl = _ENSEMBL.fullmatch(bare)
    return ensembl.group(1) if ensembl else bare


def _unnumbered(name: str) -> str:
    """Return what a name is before R's ``make.unique``, if it may be one of those: POLR2J3 of POLR2J3.1."""
    base, _, number = name.rpartition(".")
    return base if number.isdigit() else ""


def is_ensembl(name: str) -> bool:
    """Return whether a gene's name is an Ensembl id, with or without a version."""
    return _ENSEMBL.fullmatch(plain(name)) is not None


def id_type(names: Sequence[str]) -> Literal["ensembl", "symbol"]:
    """Return what most of these names are."""
    return "ensembl" if 2 * sum(map(is_ensembl, names)) > len(names) else "symbol"


def organism(names: Iterable[str]) -> str | None:
    """Return the organism that gene names look like (``human``, ``mouse``, ...); None where that is not clear.

    Ensembl ids name their species. Symbols in title case (``Cd3e``) are a mouse's; in upper case, those count that only
    human or only mouse genes have.
    """
    bare = [plain(name) for name in names]
    votes = Counter(map(_organism, bare))
    [(most, times)] = votes.most_common(1) or [(None, 0)]
    return most if most and times * 2 > votes.total() else Evidence.of(bare).organism


def organism_of(manifest: Manifest) -> str | None:
    """Return the organism of a model: the manifest's, or the one that its genes' names look like."""
    if manifest.organism is None:
        return organism(manifest.genes.names)
    return _ORGANISMS.get(manifest.organism.id, manifest.organism.label)


def _organism(name: str) -> str | None:
    if ensembl := _ENSEMBL.fullmatch(name):
        return _SPECIES.get(ensembl.group(1)[:-11])
    return "mouse" if _MOUSE_SYMBOL.fullmatch(name) else None


@dataclass(frozen=True)
class Panel:
    """A model's genes and every name that leads to them."""

    names: tuple[str, ...]
    """The panel's own names, in order."""
    id_type: str
    own: Mapping[str, int]
    others: Mapping[str, int]
    """The genes' other names (id or symbol) to index; a name two genes share is left out."""
    respelt: Mapping[str, int]
    """All of these but for punctuation, as :func:`~hub_client.data.hgnc.respelt` has them, without those of two."""
    entries: Mapping[int, tuple[int, How]] = field(default_factory=dict)
    """Row of the HGNC table to index and evidence; empty for organisms other than human."""
    table: Hgnc | None = None
    """The HGNC table, or None for organisms other than human."""

    @classmethod
    def of(cls, manifest: Manifest) -> Panel:
        """Return the panel of a manifest; the HGNC table is used unless the organism is known not to be human."""
        return cls.over(manifest.genes, human=organism_of(manifest) in {"human", None})

    @classmethod
    def over(cls, genes: Genes, *, human: bool) -> Panel:
        """Return the panel of these genes, with the HGNC table if they are human."""
        own = {name: index for index, name in enumerate(genes.names)}
        other = [gene.symbol if genes.id_type == "ensembl" else gene.id for gene in genes.panel]
        times = Counter(other)
        others = {name: i for i, name in enumerate(other) if name and times[name] == 1 and name not in own}
        table = hgnc() if human else None
        entries = _entries(genes, table) if table else {}
        return cls(genes.names, genes.id_type, own, others, _but_for_punctuation(own, others), entries, table)

    def find(self, name: str) -> tuple[int, How] | None:
        """Return the index of the gene this name means, and the evidence; None if it means none of the panel's."""
        if name in self.own:
            return self.own[name], How.EXACT
        bare = plain(name)
        if bare in self.own:
            return self.own[bare], How.VERSION
        if bare in self.others:
            return self.others[bare], How.PAIR
        found = self._in_table(self.table.find(bare)) if self.table else None
        if found is not None or self._has(_unnumbered(bare)):  # of two of one name, R calls one CD4.1
            return found
        if (spelt := respelt(bare)) in self.respelt:
            return self.respelt[spelt], How.SPELLING
        return self._in_table(self.table.find_respelt(bare)) if self.table else None

    def _has(self, name: str) -> bool:
        """Return whether this is the name of a gene of the panel, or an approved symbol."""
        return name in self.own or name in self.others or bool(self.table and name in self.table.names[How.APPROVED])

    def _in_table(self, gene: tuple[int, How] | None) -> tuple[int, How] | None:
        if gene is None or gene[0] not in self.entries:
            return None
        index, how = self.entries[gene[0]]
        return index, max(how, gene[1])


def _but_for_punctuation(*names: Mapping[str, int]) -> dict[str, int]:
    """Return names without their punctuation to index; those that two genes share are left out."""
    found: dict[str, int] = {}
    several = set()
    for name, index in (pair for group in names for pair in group.items()):
        if found.setdefault(respelt(name), index) != index:
            several.add(respelt(name))
    return {name: index for name, index in found.items() if name not in several}


def _entries(genes: Genes, table: Hgnc) -> dict[int, tuple[int, How]]:
    """Return, for each row of the table, the panel gene it is; two genes with equal evidence for one row get none."""
    best: dict[int, tuple[int, How]] = {}
    tied: set[int] = set()
    for index, gene in enumerate(genes.panel):
        rows = [
            row for name in (gene.id, gene.symbol) if name and (row := table.find(name) or table.find_respelt(name))
        ]
        row = min(rows, key=lambda row: row[1], default=None)
        if row is None:
            continue
        if row[0] not in best or row[1] < best[row[0]][1]:
            best[row[0]] = (index, row[1])
            tied.discard(row[0])
        elif row[1] == best[row[0]][1]:
            tied.add(row[0])
    return {row: found for row, found in best.items() if row not in tied}


@dataclass(frozen=True)
class Match:
    """One set of query names against a panel."""

    names: Texts
    """The query's names that were looked up, ``(query genes,)``."""
    panel: Texts
    """The panel's names."""
    column: str
    """Where the query's names came from: ``var_names`` or a column of var."""
    target: Indices
    """Index into the panel for each of the query's genes, ``(query genes,)``; -1 for genes the model does not read."""
    how: Indices
    """The evidence for each, ``(query genes,)``: values of :class:`~hub_client.data.hgnc.How`."""
    superseded: tuple[str, ...] = ()
    """Query names not used because another of the query's genes is the same gene by better evidence."""
    ambiguous: tuple[str, ...] = ()
    """Panel names not used because several of the query's genes have previous symbols or aliases of that gene."""

    @property
    def found(self) -> Indices:
        """Indices of the panel's genes that the query measured, ascending."""
        return np.unique(self.target[self.target >= 0])

    @property
    def repeated(self) -> Indices:
        """Indices of the panel's genes that several of the query's genes are."""
        genes, times = np.unique(self.target[self.target >= 0], return_counts=True)
        return genes[times > 1]

    @property
    def renamed(self) -> dict[str, str]:
        """Query name to the panel's name, where they differ."""
        used = np.flatnonzero(self.target >= 0)
        pairs = zip(self.names[used], self.panel[self.target[used]], strict=True)
        return {old: new for old, new in pairs if old != new}

    @property
    def id_type(self) -> str:
        """What most matched names are: ``ensembl`` or ``symbol``."""
        return id_type(list(self.names[self.target >= 0]))

    @property
    def respelt(self) -> dict[str, str]:
        """Query name to the panel's, of genes that were found but for punctuation."""
        used = np.flatnonzero((self.target >= 0) & (self.how == How.SPELLING))
        return {str(self.names[gene]): str(self.panel[self.target[gene]]) for gene in used}

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the user should know about genes that were not used, or by another spelling, one sentence each."""
        pairs = errors.names((f"{old} is {new}" for old, new in self.respelt.items()), shown=3)
        better = (
            f"{len(self.superseded):,} of the query's genes were not used, as another of them is the same gene under "
        )
        twice = (
            f"{len(self.ambiguous):,} of the model's genes count as missing, as several of the query's genes have an "
        )
        return (
            *([f"{better}its current name: {errors.names(self.superseded)}."] if self.superseded else ()),
            *([f"{twice}old name or alias of each: {errors.names(self.ambiguous)}."] if self.ambiguous else ()),
            *([f"{len(self.respelt):,} of {_PUNCTUATION}: {pairs}."] if self.respelt else ()),
        )

    def without(self, dropped: NDArray[np.bool_]) -> Match:
        """Return the match with some of the query's genes unused."""
        return replace(self, target=np.where(dropped, -1, self.target))


_PUNCTUATION = (
    "the query's genes were found by names that differ in punctuation, as R's make.names() and Seurat change it"
)


def match(var: pd.DataFrame, panel: Panel) -> Match:
    """Return how a query's genes match a panel, by its var_names or by the var column that finds most genes.

    Where several of the query's genes are one gene of the panel, those with the best evidence count, and all of them:
    see :func:`resolve_duplicates`. Rows that are no genes (:func:`~hub_client.data.features.features`) match none.

    Parameters
    ----------
    var
        The query's gene table, ``(query genes, columns)``; its index holds the var_names.
    panel
        The model's genes.
    """
    rows = features(var)
    found = [_match(names, panel, column=column, rows=rows) for column, names in _columns(var).items()]
    return max(found, key=lambda m: (m.found.size, -m.repeated.size))  # the first of equals: var_names


def _columns(var: pd.DataFrame) -> dict[str, Texts]:
    columns = {"var_names": texts(var.index.to_series()).astype(object)}
    for position, name in enumerate(var.columns):  # two can have one name
        values = var.iloc[:, position].to_numpy(dtype=object)
        if any(isinstance(value, str | bytes) for value in values):
            columns[str(name)] = np.array([text(v) if isinstance(v, str | bytes) else "" for v in values], dtype=object)
    return columns


def _match(names: Texts, panel: Panel, *, column: str, rows: Features) -> Match:
    looked_up = np.where(rows.genes, rows.plain_names if column == "var_names" else names, "")
    found = {name: panel.find(name) or (-1, How.EXACT) for name in set(looked_up)}
    for name in [name for name, (_, how) in found.items() if how == How.SPELLING and _unnumbered(name) in found]:
        found[name] = (-1, How.EXACT)
    hits = [found[name] for name in looked_up]
    index, how = np.array(hits, dtype=np.int64).reshape(-1, 2).T
    best = np.full(len(panel.names), max(How), dtype=np.int64)
    np.minimum.at(best, index[index >= 0], how[index >= 0])
    wins = (index >= 0) & (how == best[index])
    return Match(
        names=names,
        panel=np.array(panel.names, dtype=object),
        column=column,
        target=np.where(wins, index, -1),
        how=how,
        superseded=tuple(names[(index >= 0) & ~wins]),
    )


def resolve_duplicates(match: Match, *, policy: Literal["error", "sum", "first"]) -> Match:
    """Return the match after the manifest's policy on genes the query measured several times.

    Parameters
    ----------
    policy
        ``sum`` keeps all of them, to be summed; ``first`` keeps the first; ``error`` refuses them. Under ``error``,
        genes that are the same only by previous symbols or aliases are no error: none of them is used.

    Raises
    ------
    AlignmentError
        If the policy is ``error`` and several of the query's genes are the same gene.
    """
    return _POLICIES[policy](match)


def _keep_first(match: Match) -> Match:
    _, first = np.unique(match.target, return_index=True)
    return match.without(~np.isin(np.arange(match.target.size), first))


def _refuse(match: Match) -> Match:
    repeated = np.isin(match.target, match.repeated)
    if (certain := repeated & (match.how < How.PREVIOUS)).any():
        genes = np.unique(match.target[certain])
        shown = [f"{match.panel[gene]} ({errors.names(match.names[match.target == gene])})" for gene in genes]
        raise errors.AlignmentError(
            f"{len(genes):,} of the model's genes are measured more than once by the query ({match.column}): "
            f"{errors.names(shown)}. This model takes each gene once. If some of these count antibodies, hashtags or "
            "guides, take them out, or state it in adata.var['feature_types']; make the names of genes unique with "
            "adata.var_names_make_unique(), which keeps the first of each, or sum the columns."
        )
    return replace(match.without(repeated), ambiguous=tuple(match.panel[match.repeated]))


_POLICIES: dict[str, Callable[[Match], Match]] = {"error": _refuse, "sum": lambda match: match, "first": _keep_first}
