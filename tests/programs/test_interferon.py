"""What pbmc-expimap finds in stimulated blood cells: the result of expiMap's paper, on part of its data.

Kang et al. 2018 gave blood cells interferon beta (doi 10.1038/nbt.4042); Lotfollahi et al. 2023 found interferon's gene
programs on top when these were mapped onto a reference of resting cells (doi 10.1038/s41556-022-01072-x).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData, read_h5ad

import hub_client

ALPHA_BETA = "Interferon alpha/beta signaling"
GAMMA, ANTIVIRAL = "Interferon gamma signaling", "Antiviral mechanism by IFN-stimulated genes"
PROGRAMS = (ALPHA_BETA, GAMMA, ANTIVIRAL)
MONOCYTES = ("CD14 Mono", "CD16 Mono")


@pytest.fixture(scope="module")
def kang(shared_data: Callable[[str], Path]) -> AnnData:
    return read_h5ad(shared_data("pbmc_kang_ifnb.h5ad"))


def test_the_panel_has_interferons_genes_so_far_as_they_are_expressed(
    kang: AnnData, shared_data: Callable[[str], Path]
) -> None:
    """In 1% of the resting cells; ribosomal genes are left out on purpose."""
    resting = kang[kang.obs["condition"] == "control"]
    cells = dict(zip(kang.var_names, np.asarray((resting.X > 0).sum(axis=0)).ravel(), strict=True))
    manifest = hub_client.pull("pbmc-expimap").manifest
    panel = set(manifest.genes.names)
    programs = {p.name: p for p in hub_client.programs.read_gmt(shared_data("genesets/reactome_1448.gmt"))}
    for name in PROGRAMS:
        expressed = {gene for gene in programs[name].genes if cells.get(gene, 0) >= 12}
        assert expressed - panel <= {"RPS27A", "UBA52"}
        (term,) = [term for term in manifest.terms if term.name == name]
        assert len(term.genes) >= len(expressed) - 2 >= 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_interferons_programs_are_on_top_in_stimulated_monocytes(kang: AnnData, seed: int) -> None:
    """All three point up, at odds of more than ten to one; the first five were measured, in three trainings."""
    stimulated, resting = (kang[kang.obs["condition"] == name] for name in ("IFN-beta", "control"))
    reference = hub_client.pull("pbmc-expimap")
    query = hub_client.align(stimulated, reference, conditions={"batch": "batch"})
    model = hub_client.surgery(reference, query, seed=seed)
    hub_client.train(model, query, seed=seed, progress=False)
    columns = {"batch": "batch"}
    before, after = (
        hub_client.embed(one, hub_client.align(resting, one, conditions=columns)) for one in (reference, model)
    )
    np.testing.assert_array_equal(before, after)

    monocytes = kang[kang.obs["cell_type_broad"].isin(MONOCYTES)]
    cells = hub_client.align(monocytes, model, conditions=columns)
    table = hub_client.enrichment(
        model, cells, groups=monocytes.obs["condition"], comparison="control", seed=seed
    ).set_index("term")
    factors = table["bayes_factor"]
    ranks = {name: place for place, name in enumerate(factors.index)}
    assert ranks[ALPHA_BETA] < 2 and factors[ALPHA_BETA] > 5.5
    assert ranks[ANTIVIRAL] < 4 and factors[ANTIVIRAL] > 3.5
    assert ranks[GAMMA] < 8 and factors[GAMMA] > 2.3
