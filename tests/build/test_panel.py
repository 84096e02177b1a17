"""Gene panels: which genes the rules choose, and the names they are paired with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.build.panel import METHODS, paired, select_panel
from hub_client.manifest.recipe import Panel

GENES = [f"G{i:03d}" for i in range(300)]
VARIABLE = {"G110", "G200", "G260"}
BATCHES = np.repeat(["a", "b"], 150)


@pytest.fixture(scope="module")
def counts() -> AnnData:
    """Poisson counts around one profile; in both batches, every other cell has three genes' whole share."""
    generator = np.random.default_rng(0)
    rates = np.tile(np.linspace(1.0, 6.0, len(GENES)), (300, 1))
    rates[:, [GENES.index(gene) for gene in sorted(VARIABLE)]] *= np.tile([[1.9], [0.1]], (150, 1))
    return AnnData(csr_matrix(generator.poisson(rates), dtype=np.float32), var=pd.DataFrame(index=GENES))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_most_variable_genes_are_chosen(counts: AnnData, method: Any) -> None:
    assert set(select_panel(counts, Panel(size=3, method=method), batches=BATCHES)) == VARIABLE


def test_the_order_of_cells_and_genes_does_not_matter(counts: AnnData) -> None:
    generator = np.random.default_rng(1)
    rows, columns = generator.permutation(counts.n_obs), generator.permutation(counts.n_vars)
    panel = select_panel(counts, Panel(size=12), batches=BATCHES)
    assert select_panel(counts[rows, columns].copy(), Panel(size=12), batches=BATCHES[rows]) == panel
    assert list(panel) == sorted(panel)


def test_what_differs_only_between_batches_does_not_count(counts: AnnData) -> None:
    values = counts.X.toarray()
    values[BATCHES == "a", GENES.index("G170")] *= 9
    shifted = AnnData(csr_matrix(values), var=counts.var)
    everything = np.repeat("one", 300)
    assert "G170" in select_panel(shifted, Panel(size=4), batches=everything)
    assert "G170" not in select_panel(shifted, Panel(size=4, method="cell_ranger"), batches=BATCHES)


def test_included_genes_come_first_and_excluded_ones_only_if_included(counts: AnnData) -> None:
    rules = Panel(size=3, include=("G005",), exclude=("^G110$", "^G005$"))
    assert select_panel(counts, rules, batches=BATCHES) == ("G005", "G200", "G260")


def test_the_callers_counts_stay_as_they_were(counts: AnnData) -> None:
    before = counts.X.toarray()
    select_panel(counts, Panel(size=3, method="seurat"), batches=BATCHES)
    assert np.array_equal(counts.X.toarray(), before) and "log1p" not in counts.uns


def test_without_a_size_every_gene_is_taken_but_the_excluded(counts: AnnData) -> None:
    assert len(select_panel(counts, Panel(size=None), batches=BATCHES)) == 300
    assert "G030" not in select_panel(counts, Panel(size=None, exclude=("G030",)), batches=BATCHES)


def test_genes_of_a_bundled_query_that_are_shared_are_included() -> None:
    import scanpy as sc

    names = [*GENES[:30], *sc.datasets.pbmc68k_reduced().raw.var_names[:20]]
    counts = AnnData(csr_matrix(np.random.default_rng(0).poisson(2.0, (40, 50)), dtype=np.float32))
    counts.var_names = names
    panel = select_panel(counts, Panel(size=25, include_measured=("pbmc68k_reduced",)), batches=np.repeat("a", 40))
    assert set(names[30:]) < set(panel) and len(panel) == 25


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Panel(size=301), "the data sets share 300"),
        (Panel(size=1, include=("G001", "G002")), "the rules include 2"),
        (Panel(size=3, include=("CD19",)), "not every data set measures: CD19"),
        (Panel(size=120, exclude=("^G[01]",)), "leaves 100"),
    ],
)
def test_rules_that_cannot_be_met(counts: AnnData, rules: Panel, said: str) -> None:
    with pytest.raises(errors.AlignmentError, match=said):
        select_panel(counts, rules, batches=BATCHES)


def test_symbols_and_ids_are_paired_both_ways() -> None:
    by_symbol = paired(["CD3D", "NOSUCHGENE", "MLL5"], id_type="symbol")
    assert [(gene.symbol, gene.id) for gene in by_symbol] == [
        ("CD3D", "ENSG00000167286"),
        ("NOSUCHGENE", None),
        ("MLL5", "ENSG00000005483"),
    ]
    (by_id,) = paired(["ENSG00000167286"], id_type="ensembl")
    assert (by_id.id, by_id.symbol) == ("ENSG00000167286", "CD3D")


def test_a_previous_symbol_yields_to_the_approved_one() -> None:
    """MLL5 is what KMT2E was called: only one of them can have its id."""
    old, new = paired(["MLL5", "KMT2E"], id_type="symbol")
    assert (old.id, new.id) == (None, "ENSG00000005483")
