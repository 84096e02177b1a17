"""Votes of the nearest reference cells by expression, from the tensors that a release keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from hub_client import errors
from hub_client.data.align import align
from hub_client.data.cells import Cells
from hub_client.labels.atlas import with_atlas
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.expression_neighbors import expression_votes, kept_space
from hub_client.labels.novelty import with_novelty
from hub_client.labels.predict import predict
from hub_client.labels.rules import probabilities
from hub_client.labels.transfer import evidence
from hub_client.manifest.calibration import Calibration
from hub_client.manifest.v1 import Manifest
from hub_client.models.embed import embed
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from tests.simulated import manifest

GENES, TYPES, BATCHES = 120, ("B", "NK", "T"), ("b0", "b1")


def counts(batch: str, cells: int, *, types: tuple[str, ...] = TYPES) -> anndata.AnnData:
    """Return cells of types that are told apart with ease."""
    generator = np.random.default_rng([*batch.encode()])
    kinds = generator.choice(types, cells)
    means = {kind: np.random.default_rng([*kind.encode()]).lognormal(0.5, 1.2, GENES) for kind in set(kinds)}
    x = generator.poisson(np.stack([means[kind] for kind in kinds])).astype(np.float32)
    obs = pd.DataFrame({"batch": batch, "cell_type": kinds}, index=[f"{batch}-{row}" for row in range(cells)])
    return anndata.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"g{gene}" for gene in range(GENES)]))


def described() -> Manifest:
    fields = manifest().model_dump(mode="json")
    fields["genes"]["panel"] = [{"symbol": f"g{gene}"} for gene in range(GENES)]
    fields["conditions"][0]["categories"] = BATCHES
    fields["labels"][0] |= {"categories": TYPES, "ontology": dict.fromkeys(TYPES)}
    return Manifest.model_validate(fields)


@pytest.fixture(scope="module")
def reference() -> tuple[Model, Cells]:
    """A model that keeps its reference's expression, and the reference; a tenth of its cells has no label."""
    model = Model.build(described())
    adata = anndata.concat([counts(batch, 200) for batch in BATCHES])
    adata.obs["cell_type"] = np.where(np.arange(400) % 10 == 0, "", adata.obs["cell_type"].astype(str))
    cells = align(adata, model, labels={"cell_type": "cell_type"})
    return with_novelty(model, cells), cells


def query(model: Model, adata: anndata.AnnData | None = None) -> tuple[Cells, np.ndarray]:
    adata = counts("b1x", 90) if adata is None else adata
    adata.obs["batch"] = "b1"
    return align(adata, model, min_coverage=0.0), adata.obs["cell_type"].to_numpy(dtype=str)


def test_neighbours_vote_for_what_cells_are(reference: tuple[Model, Cells]) -> None:
    model, _ = reference
    cells, truth = query(model)
    votes = expression_votes(model, "cell_type", cells, neighbors=15)
    assert votes is not None and votes.shape == (90, 3)
    assert_allclose(votes.sum(axis=1), 1)
    assert (np.array(TYPES)[votes.argmax(axis=1)] == truth).mean() > 0.95


def test_labels_of_the_reference_are_kept_by_place_and_none_is_minus_one(reference: tuple[Model, Cells]) -> None:
    model, cells = reference
    record = model.manifest.trust.novelty
    assert record is not None and record.labels == {"cell_type": "novelty.labels.0"}
    codes = model.extras["novelty.labels.0"].numpy()
    assert len(codes) == len(model.extras[record.tensors["scores"]]) == len(cells)
    assert (codes == -1).sum() == (cells.labels["cell_type"] == "").sum() == 40
    counted = {name: int((codes == place).sum()) for place, name in enumerate(TYPES)}
    assert counted == {name: int((cells.labels["cell_type"] == name).sum()) for name in TYPES}


def test_genes_that_a_query_did_not_measure_take_no_part(reference: tuple[Model, Cells]) -> None:
    """Whatever stands in their columns changes no vote, and labels are told from the others."""
    model, _ = reference
    fewer, truth = query(model, counts("b1x", 90)[:, : GENES // 2].copy())
    assert len(fewer.report.missing) == GENES // 2
    noise = np.zeros((90, GENES), np.float32)
    noise[:, GENES // 2 :] = np.random.default_rng(0).poisson(50, (90, GENES // 2))
    noisy = replace(fewer, x=sparse.csr_matrix(fewer.x + sparse.csr_matrix(noise)))
    votes = expression_votes(model, "cell_type", fewer, neighbors=15)
    assert votes is not None and (np.array(TYPES)[votes.argmax(axis=1)] == truth).mean() > 0.9
    assert_array_equal(expression_votes(model, "cell_type", noisy, neighbors=15), votes)
    measured = replace(noisy, report=replace(noisy.report, missing=()))
    other = expression_votes(model, "cell_type", measured, neighbors=15)
    assert other is not None and np.abs(other - votes).max() > 0.5


@pytest.mark.slow
def test_a_release_keeps_them_through_a_file(reference: tuple[Model, Cells], tmp_path: Path) -> None:
    model, _ = reference
    loaded = Model.load(model.save(tmp_path / "release"))
    cells, _ = query(model)
    kept, votes = (expression_votes(one, "cell_type", cells, neighbors=15) for one in (loaded, model))
    assert_array_equal(kept, votes)


def test_a_label_that_came_with_a_query_has_no_votes(reference: tuple[Model, Cells]) -> None:
    model, _ = reference
    adata = counts("q0", 90, types=(*TYPES, "Mono"))
    labels = {"cell_type": "cell_type"}
    grown = surgery(model, align(adata, model, labels=labels), device="cpu")
    cells = align(adata, grown, labels=labels)
    votes = expression_votes(grown, "cell_type", cells, neighbors=15)
    assert votes is not None and votes.shape == (90, 4)
    assert_array_equal(votes[:, 3], 0)


def test_a_model_without_its_references_expression_has_none(reference: tuple[Model, Cells]) -> None:
    model, _ = reference
    cells, _ = query(model)
    assert expression_votes(Model.build(described()), "cell_type", cells, neighbors=15) is None
    record = model.manifest.trust.novelty
    assert record is not None
    trust = model.manifest.trust.model_copy(update={"novelty": record.model_copy(update={"labels": {}})})
    before = replace(model, manifest=model.manifest.model_copy(update={"trust": trust}))
    assert expression_votes(before, "cell_type", cells, neighbors=15) is None


@pytest.mark.parametrize("broken", ["lost", "short", "large"])
def test_tensors_that_are_no_labels_are_refused(reference: tuple[Model, Cells], broken: str) -> None:
    model, _ = reference
    cells, _ = query(model)
    codes = model.extras["novelty.labels.0"]
    others = {"short": codes[:-1], "large": torch.full_like(codes, 3)}
    extras = {name: value for name, value in model.extras.items() if name != "novelty.labels.0"}
    extras |= {"novelty.labels.0": others[broken]} if broken in others else {}
    with pytest.raises(errors.IntegrityError, match="has labels of 'cell_type' that are none of its reference's"):
        expression_votes(replace(model, extras=extras), "cell_type", cells, neighbors=15)


def test_a_space_whose_tensors_do_not_fit_is_refused(reference: tuple[Model, Cells]) -> None:
    model, _ = reference
    record = model.manifest.trust.novelty
    assert record is not None
    turned = model.extras[record.tensors["loadings"]].T
    with pytest.raises(errors.IntegrityError, match="loadings of no such space of expression"):
        kept_space(replace(model, extras=model.extras | {record.tensors["loadings"]: turned}), record)
    lacking = {name: value for name, value in model.extras.items() if name != record.tensors["mean"]}
    with pytest.raises(errors.IntegrityError, match="lacks mean of what novelty is told by"):
        kept_space(replace(model, extras=lacking), record)


def test_an_ensemble_reads_them(reference: tuple[Model, Cells]) -> None:
    model, cells = reference
    calibration = Calibration(level="cell_type", transfer="ensemble", neighbors=15, temperature=2.0)
    model = with_atlas(with_expression_classifiers(model, cells), cells)
    trust = model.manifest.trust.model_copy(update={"calibrations": (calibration,)})
    model = replace(model, manifest=model.manifest.changed(trust=trust))
    asked, truth = query(model)
    found = evidence(model, embed(model, asked, device="cpu"), cells=asked)["cell_type"]
    assert_array_equal(found.expression_votes, expression_votes(model, "cell_type", asked, neighbors=15))
    level = predict(model, asked, device="cpu").levels["cell_type"]
    assert_allclose(level.probabilities, probabilities(found, calibration))
    assert (level.labels == truth).mean() > 0.9
