from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from hub_client import align
from hub_client.data.features import features
from hub_client.data.sources import Source
from tests import queries

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")
GENES, ANTIBODY = "Gene Expression", "Antibody Capture"
TAGS = ("CD4", "CD127", "Hashtag1")


def var(names: list[str], **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


@pytest.mark.parametrize(
    ("column", "kinds", "genes"),
    [
        ("feature_types", [GENES, ANTIBODY, "Multiplexing Capture"], [True, False, False]),
        ("feature_types", [GENES, "CRISPR Guide Capture", "Anything Else"], [True, False, False]),
        ("feature_types", pd.Categorical([GENES, "Peaks", GENES]), [True, False, True]),
        ("feature_types", [b"Gene Expression", b"Antibody Capture", None], [True, False, True]),
        ("feature_types", [GENES, ANTIBODY, "nan"], [True, False, True]),
        ("Feature Type", ["rna", "ADT", "HTO"], [True, False, False]),
        ("Type", [ANTIBODY, ANTIBODY, "Custom"], [False, False, False]),
        ("modality", ["RNA", "protein", "ATAC"], [True, False, False]),
        ("feature_type", ["protein_coding", "lncRNA", "processed_pseudogene"], [True, True, True]),  # CELLxGENE's
        ("other", [GENES, ANTIBODY, ANTIBODY], [True, True, True]),
        ("feature_types", [1, 2, 3], [True, True, True]),
    ],
)
def test_rows_are_what_var_states(column: str, kinds: Any, genes: list[bool]) -> None:
    assert features(var(["A", "B", "C"], **{column: kinds})).genes.tolist() == genes


def test_tags_in_names_are_of_antibodies() -> None:
    found = features(var(["CD3E", "CD3_TotalSeqB", "ADT-CD4", "CD8-TotalSeqC0046", "HLA-DRA", "PROTEIN1"]))
    assert found.genes.tolist() == [True, False, False, False, True, True]
    assert found.antibodies == (ANTIBODY,)
    assert "3 rows of the query's var are no genes by their names" in found.notes[0]


def test_numbers_that_kept_kinds_apart_are_taken_off() -> None:
    names = ["CD4", "CD8A", "CD4-1", "CD8A-1", "NKX2-1", "CD8A-2"]
    found = features(var(names, feature_types=[ANTIBODY, ANTIBODY, GENES, ANTIBODY, GENES, GENES]))
    assert found.plain_names.tolist() == ["CD4", "CD8A", "CD4", "CD8A-1", "NKX2-1", "CD8A"]


def mixed(*, first: bool, unique: bool = False, value: float = 500.0) -> AnnData:
    """Return a query with antibodies before or after its genes."""
    query = queries.query()
    tags = sparse.csr_matrix(np.full((6, len(TAGS)), value, dtype=np.float32))
    parts = [(tags, TAGS, ANTIBODY), (query.X, queries.PANEL, GENES)][:: 1 if first else -1]
    made = AnnData(
        sparse.hstack([x for x, _, _ in parts], format="csr"),
        obs=query.obs,
        var=var(
            [name for _, names, _ in parts for name in names],
            feature_types=[kind for _, names, kind in parts for _ in names],
        ),
    )
    if unique:
        made.var_names_make_unique()
    return made


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("unique", [True, False])
def test_antibodies_are_never_genes(first: bool, unique: bool) -> None:
    cells = align(mixed(first=first, unique=unique), queries.manifest())
    assert np.array_equal(cells.x.toarray(), queries.query().X.toarray())
    assert cells.report.unused == 0
    (warning,) = cells.report.warnings
    assert "3 rows of the query's var are no genes by var['feature_types'], and not read as such: 3 Antib" in warning


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("value", [0.5, -1.0])
def test_what_antibodies_hold_does_not_matter_to_genes(form: Any, value: float) -> None:
    query = mixed(first=True, value=value)
    query.X = query.X.toarray() if form is np.asarray else form(query.X)
    assert np.array_equal(align(query, queries.manifest()).x.toarray(), queries.query().X.toarray())


def test_antibodies_do_not_count_to_what_logs_are_scaled_by(tmp_path: Path) -> None:
    logs = queries.manifest(
        architecture={"kind": "scpoli", "likelihood": "mse"}, input={"kind": "log1p", "target_sum": 1000}
    )
    expected = align(queries.query(), logs).x.toarray()
    query = mixed(first=False)
    assert np.array_equal(align(query, logs).x.toarray(), expected)
    query.X = sparse.csc_matrix(query.X)
    query.write_h5ad(tmp_path / "query.h5ad")
    assert np.array_equal(align(tmp_path / "query.h5ad", logs).x.toarray(), expected)


def test_an_antibody_is_no_gene_by_an_alias() -> None:
    query = mixed(first=True)
    query = query[:, query.var_names != "IL7R"].copy()
    assert align(query, queries.manifest()).report.missing == ("IL7R",)


def test_raw_rows_are_what_the_querys_var_states_of_them() -> None:
    adata = AnnData(np.ones((2, 3), dtype=np.float32), var=var(list(TAGS), feature_types=[GENES, ANTIBODY, ANTIBODY]))
    adata.raw = AnnData(np.ones((2, 4), dtype=np.float32), var=var([*TAGS, "CD8A"]))
    source = Source("raw", adata)
    assert source.features.genes.tolist() == [True, False, False, True]
    assert Source("X", adata).features.genes.tolist() == [True, False, False]
