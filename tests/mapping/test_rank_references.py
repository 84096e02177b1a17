"""Which reference fits: what manifests exclude, what is pulled within the limits, and how those tried are ordered."""

from __future__ import annotations

import logging
import subprocess
from functools import cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.hub.client import Hub
from hub_client.labels.novelty import with_novelty
from hub_client.labels.verdict import Check
from hub_client.manifest.plan import Plan
from hub_client.manifest.v1 import Manifest
from hub_client.mapping.first_look import first_look, of_tissue
from hub_client.mapping.rank_references import References, megabytes, rank_references
from hub_client.mapping.zero_shot import ZeroShot, reconstruction
from hub_client.models.model import Model
from hub_client.models.surgery import surgery
from hub_client.models.train import train
from tests import simulated
from tests.simulated import GENES, QUERY, cells_for

RIGHT, STRANGE = "lab/right", "lab/strange"


@cache
def fitted() -> Model:
    """Return a small model, trained for a second, without labels to be unsure of; callers must not change it."""
    model = Model.build(simulated.manifest("trvae", levels=()))
    plan = Plan(epochs=10, batch_size=32, learning_rate=5e-3, kl_anneal_epochs=0)
    train(model, cells_for(model.manifest), plan=plan, progress=False, accelerator="cpu")
    return model


def with_genes(prefix: str) -> Model:
    """Return an untrained model of genes of other names."""
    described = simulated.manifest()
    panel = tuple(gene.model_copy(update={"symbol": f"{prefix}{gene.symbol}"}) for gene in described.genes.panel)
    return Model.build(described.changed(genes=described.genes.model_copy(update={"panel": panel})))


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    found = Hub(tmp_path / "hub")
    found.push(fitted(), RIGHT)
    found.push(with_genes("other-"), STRANGE)
    return found


def query(cells: int = 120) -> anndata.AnnData:
    return simulated.counts(QUERY, cells=cells, seed=1)


def ranked(hub: Hub, **options: object) -> References:
    return rank_references(query(), hub=hub, device="cpu", **options)  # type: ignore[arg-type]


def without_weights(hub: Hub, repo: str) -> None:
    """Damage the weights that a hub holds, so that whoever reads them fails."""
    found = [path for path in (git(hub, repo) / "lfs" / "objects").rglob("*") if path.is_file()]
    assert found
    for path in found:
        path.chmod(0o644)
        path.write_bytes(b"damaged")


def without_manifest(hub: Hub, repo: str) -> None:
    """Damage the manifest that a hub holds."""
    asked = ["git", "-C", str(git(hub, repo)), "rev-parse", "HEAD:manifest.json"]
    blob = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    path = git(hub, repo) / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(b"damaged")


def git(hub: Hub, repo: str) -> Path:
    return Path(hub.stores[0].address) / "models" / f"{repo}.git"


def test_the_model_of_the_querys_genes_is_first_and_the_others_say_why_not(hub: Hub) -> None:
    found = ranked(hub)
    assert [row.name for row in found.rows] == [RIGHT, STRANGE] and [row.rank for row in found.rows] == [1, 2]
    right, strange = found.rows
    assert right.tried and right.coverage == right.weighted_coverage == 1.0 and right.verdict is not None
    assert not strange.tried and strange.coverage == 0.0 and strange.weighted_coverage is None
    assert strange.reason.startswith("does not fit: the query measures 0% of its genes")
    assert found.best == right and found.stated.startswith(f"Take {RIGHT}: of 1 tried")
    assert found.downloaded == right.size and list(found.to_frame()["name"]) == [RIGHT, STRANGE]


def test_the_same_seed_gives_the_same_ranking_and_the_query_stays(hub: Hub) -> None:
    cells = query()
    before = cells.copy()
    first, second = (rank_references(cells, hub=hub, device="cpu", seed=3).as_json() for _ in range(2))
    assert first == second and first["sampled"] == 120
    assert (cells.X != before.X).nnz == 0 and cells.obs.equals(before.obs) and not cells.obsm


def test_a_sample_of_a_large_query_is_mapped(hub: Hub) -> None:
    assert rank_references(query(1100), hub=hub, most=0).sampled == 1000


@pytest.mark.slow
def test_a_release_that_recognises_strangers_tells_how_many_there_are(hub: Hub) -> None:
    assert ranked(hub).rows[0].novel is None
    hub.push(with_novelty(fitted(), cells_for(fitted().manifest)), RIGHT, version="1.1.0", message="with novelty")
    row = ranked(hub).rows[0]
    assert (row.name, row.version, row.declared) == (RIGHT, "1.1.0", 0.05)
    assert row.novel is not None and row.foreign_score is not None
    assert "of cells are novel where 5% of known ones would be" in row.reason


def test_nothing_beyond_the_limit_is_pulled(hub: Hub) -> None:
    size = ranked(hub).rows[0].size
    without_weights(hub, RIGHT)  # whoever reads the weights fails
    found = ranked(hub, max_bytes=size - 1)
    assert found.downloaded == 0 and not found.rows[0].tried and found.best is None
    limit = megabytes(size - 1)
    assert found.rows[0].reason == f"not downloaded: its release of {megabytes(size)} is above the limit of {limit}."


def test_the_limit_is_for_all_models_together(hub: Hub) -> None:
    hub.push(fitted(), "lab/again")
    sizes = {row.name: row.size for row in ranked(hub, most=0).rows}
    found = ranked(hub, max_bytes=sizes["lab/again"] + sizes[RIGHT] - 1)
    assert sum(row.tried for row in found.rows) == 1
    assert "is above what is left of the limit" in found.rows[1].reason


def test_so_many_are_tried_and_no_more(hub: Hub) -> None:
    hub.push(fitted(), "lab/again")
    found = ranked(hub, most=1)
    assert [row.tried for row in found.rows] == [True, False, False]
    assert found.rows[1].reason == "not downloaded: another fits better by their manifests."
    assert not any(row.tried for row in ranked(hub, most=0).rows)


def test_a_model_that_cannot_be_pulled_makes_room_for_the_next(hub: Hub) -> None:
    hub.push(fitted(), "lab/again")  # by name it is tried before the other
    without_weights(hub, "lab/again")
    found = ranked(hub, most=1)
    assert found.rows[0].name == RIGHT and found.rows[0].tried
    again = next(row for row in found.rows if row.name == "lab/again")
    assert not again.tried and again.reason.startswith("it could not be tried: ")


def test_a_broken_repository_is_named_and_ends_nothing(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    without_manifest(hub, STRANGE)
    with caplog.at_level(logging.WARNING, logger="hub_client"):
        found = ranked(hub)
    assert [row.name for row in found.rows] == [RIGHT]
    assert len(found.left_out) == 1 and found.left_out[0].startswith(f"{STRANGE} in ")
    assert found.left_out[0] in caplog.text


def test_the_newest_version_that_was_not_yanked_counts(hub: Hub) -> None:
    hub.push(fitted(), RIGHT, version="1.1.0", message="the same")
    hub.yank(f"{RIGHT}@1.1.0", reason="a mistake")
    newest = next(row for row in ranked(hub, most=0).rows if row.name == RIGHT)
    assert newest.version != "1.1.0"


def test_a_hub_without_models_says_so(tmp_path: Path) -> None:
    found = rank_references(query(), hub=tmp_path / "none")
    assert found.rows == () and found.best is None and "no model to choose from" in found.stated


@pytest.mark.parametrize("option", ["most", "max_bytes"])
def test_limits_are_not_below_zero(hub: Hub, option: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"{option} is -1"):
        ranked(hub, **{option: -1})


def test_a_layer_that_is_not_there_is_the_querys_fault(hub: Hub) -> None:
    with pytest.raises(errors.VocabularyError, match="no layer 'spliced'"):
        ranked(hub, layer="spliced")


# --- by the manifest -------------------------------------------------------------------------------------------------


def blood() -> Manifest:
    return Hub("bundled").manifest("pbmc-scpoli")


def cells_of(names: list[str], *, cells: int = 30, factor: float = 1.0) -> anndata.AnnData:
    x = np.random.default_rng(0).poisson(1.0, (cells, len(names))).astype(np.float32) * factor
    return anndata.AnnData(csr_matrix(x), var=pd.DataFrame(index=names))


def human_names() -> list[str]:
    return [str(gene.symbol) for gene in blood().genes.panel]


def test_another_organism_is_excluded() -> None:
    names = [name.capitalize() for name in human_names()]
    found = first_look(cells_of(names), blood(), layer=None, tissue=None)
    assert found.against == "its genes are human, and the query's look like mouse genes"
    assert not first_look(cells_of(human_names()), blood(), layer=None, tissue=None).against


def test_genes_are_matched_as_alignment_does() -> None:
    names = [f"GRCh38_{name}" for name in human_names()]
    half = first_look(cells_of(names[:1000]), blood(), layer=None, tissue=None)
    assert half.coverage == 0.5 and list(half.target) == list(range(1000))
    few = first_look(cells_of(names[:100]), blood(), layer=None, tissue=None)
    assert few.against.startswith("the query measures 5% of its genes, and it asks for 30% at least")


def test_values_that_are_no_counts_are_excluded_and_the_layer_is_named() -> None:
    cells = cells_of(human_names(), factor=0.37)
    found = first_look(cells, blood(), layer=None, tissue=None)
    assert found.against == "it reads counts, and X does not hold counts"
    cells.layers["counts"] = cells_of(human_names()).X
    assert not first_look(cells, blood(), layer="counts", tissue=None).against


@pytest.mark.parametrize(
    ("wanted", "fits"), [("blood", True), ("BLOO", True), ("UBERON:0000178", True), ("lung", False)]
)
def test_a_tissue_is_named_by_its_label_or_its_id(wanted: str, fits: bool) -> None:
    found = first_look(cells_of(human_names()), blood(), layer=None, tissue=wanted)
    assert of_tissue(blood(), wanted) == fits and bool(found.against) != fits
    assert fits or found.against == "its reference is blood, not lung"


def test_a_model_that_states_no_tissue_is_not_excluded_by_one() -> None:
    manifest = blood().changed(tissue=())
    assert not first_look(cells_of(human_names()), manifest, layer=None, tissue="lung").against


# --- what is tried ---------------------------------------------------------------------------------------------------


def test_reconstruction_knows_own_cells_from_shuffled_genes() -> None:
    model = fitted()
    cells = cells_for(model.manifest, QUERY, cells=90, seed=1, labelled=False)
    grown, columns = surgery(model, cells, device="cpu"), np.arange(len(GENES))
    own = reconstruction(grown, cells, columns, seed=0)
    x = csr_matrix(cells.x[:, np.random.default_rng(0).permutation(len(GENES))])
    strange = reconstruction(grown, type(cells)(**{**vars(cells), "x": x}), columns, seed=0)
    assert own is not None and strange is not None and own > strange + 0.05
    assert reconstruction(grown, cells, columns[:49], seed=0) is None


def result(**changes: object) -> ZeroShot:
    given: dict[str, object] = {
        "weighted_coverage": 1.0,
        "novel": 0.05,
        "declared": 0.05,
        "foreign_score": 0.02,
        "beyond_atlas": 0.9,
        "uncertainty": 0.1,
        "verdict": "green",
        "objections": (),
        "reconstruction": 0.1,
    }
    return ZeroShot(**given | changes)  # type: ignore[arg-type]


def test_a_query_is_foreign_by_its_score_and_another_sign() -> None:
    unsure = Check("uncertainty", 0.28, 0.25, 0.3, "amber", "", "")
    assert not result(foreign_score=0.2).foreign
    assert not result(objections=(unsure,)).foreign
    assert result(foreign_score=0.2, objections=(unsure,)).foreign
    assert not result(foreign_score=0.2, objections=(unsure,)).suits and not result(verdict="red").suits


def test_novelty_goes_before_distance_to_the_atlas() -> None:
    assert result().apart == 0.05 and result(novel=None).apart == 0.9
    assert result(novel=None, beyond_atlas=None).apart == 0.0
