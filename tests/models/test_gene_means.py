"""A gene that a query lacks at the reference's mean, for every architecture: recorded, saved, kept by surgery, read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from hub_client import errors
from hub_client.data.align import align
from hub_client.labels.classifiers import with_expression_classifiers
from hub_client.labels.predict import predict
from hub_client.labels.transfer import evidence
from hub_client.manifest.calibration import Calibration
from hub_client.models.architectures import ARCHITECTURES
from hub_client.models.embed import embed
from hub_client.models.gene_means import with_gene_means
from hub_client.models.model import GENE_MEANS, Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests import simulated
from tests.contract.examples import SHORT, trained
from tests.simulated import GENES, QUERY, SECOND_QUERY, cells_for

HIDDEN = slice(40, 60)


def with_means(example: str) -> Model:
    reference = trained(example)
    return with_gene_means(reference, cells_for(reference.manifest))


def masked(model: Model, batches: tuple[str, ...] = QUERY, *, cells: int = 60) -> anndata.AnnData:
    """Return a query that measures 40 of the 60 genes."""
    query = simulated.counts(batches, cells=cells, seed=1, proteins=model.manifest.proteins is not None)
    return (simulated.log_counts(query) if model.manifest.input.kind == "log1p" else query)[:, :40].copy()


def mapped(model: Model, query: anndata.AnnData) -> Model:
    cells = align(query, model)
    grown = surgery(model, cells)
    train(grown, cells, plan=SHORT, progress=False, accelerator="cpu")
    assert np.isfinite(embed(grown, cells)).all()
    return grown


@pytest.mark.slow
@pytest.mark.parametrize("example", [*ARCHITECTURES, "scpoli-mse-no-norm", "scvi-embedded-size-factor-logistic"])
def test_every_architecture_maps_a_query_that_lacks_genes(tmp_path: Path, example: str) -> None:
    model = Model.load(with_means(example).save(tmp_path / "reference"))
    assert model.manifest.genes.missing == "mean"
    cells = align(masked(model), model)
    hidden, means = cells.x[:, HIDDEN].toarray(), model.gene_means()
    assert means is not None
    if model.manifest.input.kind == "log1p":
        np.testing.assert_array_equal(hidden, np.tile(means[HIDDEN], (60, 1)))
    else:
        shares = hidden / np.asarray(cells.x.sum(axis=1))
        np.testing.assert_allclose(shares, np.tile(means[HIDDEN], (60, 1)), rtol=1e-4)
    grown = mapped(model, masked(model))
    again = Model.load(grown.save(tmp_path / "grown"))
    np.testing.assert_array_equal(again.gene_means(), means)
    np.testing.assert_array_equal(embed(again, cells), embed(grown, cells))
    reference = cells_for(model.manifest)
    np.testing.assert_array_equal(embed(grown, reference), embed(model, reference))


@pytest.mark.slow
def test_training_records_the_means_that_a_manifest_asks_for(tmp_path: Path) -> None:
    wanted = simulated.manifest()
    wanted = wanted.changed(genes=wanted.genes.model_copy(update={"missing": "mean"}))
    cells, model = cells_for(wanted), Model.build(wanted)
    with pytest.raises(errors.Unsupported, match="has no means: give the model as it was pulled, or train it"):
        align(masked(model), model)
    train(model, cells, plan=SHORT, progress=False, accelerator="cpu")
    shares = cells.x.toarray() / np.asarray(cells.x.sum(axis=1))
    np.testing.assert_allclose(model.gene_means(), shares.mean(axis=0), rtol=1e-5)
    loaded = Model.load(model.save(tmp_path / "reference"))
    grown = mapped(loaded, masked(loaded))
    second = mapped(grown, masked(grown, SECOND_QUERY))
    for later in (grown, second):
        np.testing.assert_array_equal(later.gene_means(), model.gene_means())


def test_cells_with_every_gene_are_read_as_without_means() -> None:
    model = with_means("scpoli")
    query = simulated.counts(cells=40, seed=3)
    np.testing.assert_array_equal(align(query, model).x.toarray(), align(query, trained("scpoli")).x.toarray())
    assert trained("scpoli").gene_means() is None and trained("scpoli").manifest.genes.missing == "zero"


def test_negative_means_are_refused() -> None:
    model = with_means("scpoli")
    broken = replace(model, extras={**model.extras, GENE_MEANS: torch.full((len(GENES),), -1.0)})
    with pytest.raises(errors.IntegrityError, match="negative means of genes"):
        align(masked(broken), broken)


def test_the_expression_classifier_counts_a_filled_gene_once() -> None:
    """It has means of its own for genes that were not measured: what alignment filled in must not come on top."""
    reference = trained("scvi")
    cells = cells_for(reference.manifest)
    rule = Calibration(level="cell_type", temperature=1.0, transfer="expression")
    classified = with_expression_classifiers(with_gene_means(reference, cells), cells)
    trust = classified.manifest.trust.model_copy(update={"calibrations": (rule,)})
    classified = replace(classified, manifest=classified.manifest.changed(trust=trust))
    query = align(masked(classified, simulated.REFERENCE), classified)
    first = evidence(classified, embed(classified, query), cells=query)["cell_type"].expression
    louder = query.x.copy().tolil()
    weight, columns = louder[:, HIDDEN].sum(axis=1), louder[:, HIDDEN].toarray()[:, ::-1]
    louder[:, HIDDEN] = columns  # other values in these genes, the same total
    np.testing.assert_allclose(louder[:, HIDDEN].sum(axis=1), weight, rtol=1e-5)
    other = evidence(classified, embed(classified, query), cells=replace(query, x=louder.tocsr()))["cell_type"]
    np.testing.assert_allclose(other.expression, first, rtol=1e-4, atol=1e-7)
    assert set(predict(classified, query).levels) == {"cell_type"}


@pytest.mark.parametrize(("observed", "means", "whole"), [("n", False, True), (None, True, True), (None, False, False)])
def test_whose_depth_size_factors_are(observed: str | None, means: bool, whole: bool) -> None:
    """That of all genes where they were observed, or count for the means of genes that were not measured."""
    model = with_means("scpoli") if means else trained("scpoli")
    query = masked(model)
    query.obs["n"] = 1000.0
    assert align(query, model, size_factor=observed).whole_depth is whole
