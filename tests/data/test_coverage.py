from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from hub_client import align, errors
from hub_client.data.coverage import Coverage
from hub_client.data.genes import Panel, match
from tests import queries

TITLE = [name.capitalize() for name in queries.PANEL]
IDS = [f"ENSMUSG{i:011d}" for i in range(8)]
WITH_RAW = queries.query(queries.PANEL[:2])
WITH_RAW.raw = queries.query()

CASES: dict[str, tuple[AnnData, dict[str, Any], str]] = {
    "mouse symbols": (
        queries.query(TITLE),
        {"organism": queries.HUMAN},
        "look like mouse genes, the model's are human",
    ),
    "mouse ids": (queries.query(IDS), {"organism": queries.HUMAN}, "look like mouse genes, the model's are human"),
    "mouse symbols, organism unknown": (queries.query(TITLE), {}, "look like mouse genes, the model's do not"),
    "human ids on mouse": (
        queries.query(["ENSG00000111640", "ENSG00000156738"]),
        {"organism": queries.MOUSE},
        "look like human genes, the model's are mouse",
    ),
    "transposed": (
        AnnData(queries.counts(8, 3), obs=queries.query(x=queries.counts(8)).obs.set_index(np.array(queries.PANEL))),
        {},
        r"pass adata\.T",
    ),
    "numbered": (queries.query([str(i) for i in range(8)]), {}, "var_names are numbers"),
    "subset of raw": (WITH_RAW, {}, r"adata\.raw measures 8 of them: pass layer='raw'"),
    "lower case": (queries.query([name.lower() for name in queries.PANEL]), {}, "upper and lower case"),
    "ids without a table": (
        queries.query(IDS),
        {"organism": queries.MOUSE},
        "names genes by Ensembl ids, the model by symbols",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_likely_reason_is_given(case: str) -> None:
    query, overrides, message = CASES[case]
    with pytest.raises(errors.AlignmentError, match=message):
        align(query, queries.manifest(**overrides))


def test_no_shared_genes_has_its_own_message() -> None:
    with pytest.raises(errors.AlignmentError, match=r"shares no gene with the model tiny.*GAPDH.*has X1, X2") as caught:
        align(queries.query(["X1", "X2"]), queries.manifest())
    assert caught.value.coverage == 0
    assert caught.value.missing == queries.PANEL


def test_a_query_of_antibodies_alone_has_no_genes() -> None:
    query = queries.query(["CD4", "CD3E"])
    query.var["feature_types"] = "Antibody Capture"
    with pytest.raises(errors.AlignmentError, match="has no genes: 2 rows of the query's var are no genes by var") as e:
        align(query, queries.manifest())
    assert "numbers" not in str(e.value)


def test_upper_cased_human_symbols_are_not_taken_for_another_organism() -> None:
    names = [*queries.PANEL[:3], *(f"OTHER{i}" for i in range(20))]
    with pytest.raises(errors.AlignmentError, match=r"to map it all the same.$"):
        align(queries.query(names), queries.manifest(organism=queries.HUMAN))


def test_without_weights_missing_genes_come_in_the_panels_order() -> None:
    found = match(queries.query(queries.PANEL[2:]).var, Panel.of(queries.manifest()))
    coverage = Coverage.of(found, None)
    assert coverage == Coverage(0.75, None, 6, queries.PANEL[:2])
    assert str(coverage) == "6 of the model's 8 genes (75.0%)"


def test_an_encoder_that_uses_no_gene_has_no_weighted_coverage() -> None:
    found = match(queries.query().var, Panel.of(queries.manifest()))
    assert Coverage.of(found, np.zeros(8, dtype=np.float32)).weighted is None
