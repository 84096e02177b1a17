"""Write gene sets into an AnnData as scArches' ``utils.add_annotations`` does: what its expiMap reads as the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData

from hub_client import errors

LONGEST_NAME = 30
"""Letters of a name that ``clean`` keeps."""


def add_annotations(
    adata: AnnData,
    files: str | Path | Sequence[str | Path],
    min_genes: int = 0,
    max_genes: int | None = None,
    varm_key: str = "I",
    uns_key: str = "terms",
    clean: bool = True,
    genes_use_upper: bool = True,
) -> None:
    """Write the gene sets of text files into ``adata``: who is in which, ``(genes, terms)``, and the sets' names.

    :func:`hub_client.programs.as_terms` matches gene sets to a model by all names of a gene, and reports what it
    dropped; this compares names as they are, as scArches does.

    Parameters
    ----------
    adata
        Cells, whose ``varm`` and ``uns`` are written to.
    files
        One gene set a line: its name, then its genes, between tabs, or between blanks in a line without tabs.
    min_genes, max_genes
        A set is kept if more than ``min_genes`` of its genes are in ``adata``, and fewer than ``max_genes``.
    varm_key, uns_key
        Where the mask and the names go.
    clean
        Leave out of names what stands before their first underscore (``REACTOME_``), and cut them to 30 letters. What
        is then the same twice gets numbers in :class:`hub_client.compat.EXPIMAP`.
    genes_use_upper
        Compare names of genes, and write names of sets, in upper case.

    Raises
    ------
    NotFound
        If there is no such file.
    InvalidInput
        If no set is kept: expiMap has nothing to read then.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    upper = str.upper if genes_use_upper else str
    places: dict[str, list[int]] = {}
    for place, gene in enumerate(adata.var_names):
        places.setdefault(upper(str(gene)), []).append(place)
    names, columns = [], []
    for name, genes in (found for path in paths for found in _gene_sets(Path(path))):
        rows = sorted({row for gene in genes for row in places.get(upper(gene), ())})
        if len(rows) > min_genes and (max_genes is None or len(rows) < max_genes):
            names.append(_cleaned(upper(name)) if clean else upper(name))
            columns.append(rows)
    if not names:
        raise errors.InvalidInput(
            f"no gene set of {errors.names(list(map(str, paths)))} has more than {min_genes} genes of adata, whose "
            f"genes are {errors.names(adata.var_names)}. Compare these names with the file's, or lower min_genes.",
            facts={"files": paths, "min_genes": min_genes, "max_genes": max_genes},
        )
    mask = np.zeros((adata.n_vars, len(names)), dtype=np.int32)
    for column, rows in enumerate(columns):
        mask[rows, column] = 1
    adata.varm[varm_key], adata.uns[uns_key] = mask, names


def _gene_sets(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each line's set and its words; one that is no gene, such as a web address, matches none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise errors.NotFound(f"there is no file of gene sets at {path}.", name=str(path)) from None
    except UnicodeDecodeError:
        raise errors.InvalidInput(
            f"{path} is no text file in UTF-8; gene sets are read from GMT files.", facts={"files": path}
        ) from None
    for line in text.splitlines():
        words = [word.strip() for word in (line.split("\t") if "\t" in line else line.split())]
        if words and words[0]:
            yield words[0], words[1:]


def _cleaned(name: str) -> str:
    return name.split("_", 1)[-1][:LONGEST_NAME]
