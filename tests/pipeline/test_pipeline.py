"""The straight line: pull, map, push, pull again, on every kind of hub, and on the bundled model with real cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest

import hub_client
from hub_client import _resources, errors
from hub_client.checks.verify import verify
from hub_client.data.examples import bundled_query
from hub_client.manifest import Plan
from hub_client.models.impute import impute_proteins
from hub_client.models.model import Model
from tests import simulated
from tests.pipeline import hubs

PLAN = Plan(epochs=3)


@pytest.fixture(params=sorted(hubs.KINDS))
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_client.Hub]:
    """A hub to push to, one of each kind."""
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ARCHZOO_CONFIG", str(tmp_path / "config.toml"))
    with hubs.KINDS[request.param](tmp_path) as running:
        yield running


@pytest.fixture
def published(hub: hub_client.Hub) -> Model:
    model = Model.build(simulated.manifest())
    hub_client.train(model, simulated.cells_for(model.manifest), plan=PLAN, progress=False)
    hub.push(model, "atlas/simulated")
    return hub.pull("atlas/simulated")


@pytest.mark.slow
def test_pull_map_push_pull(hub: hub_client.Hub, published: Model) -> None:
    query, old = simulated.counts(simulated.QUERY, cells=80), simulated.cells_for(published.manifest)
    mapping = hub_client.map_query(query, published, conditions={"batch": "batch"}, plan=PLAN, progress=False)
    ref = hub.push(mapping.model, "my-lab/simulated-query")
    again = hub.pull("my-lab/simulated-query")
    cells = hub_client.align(query, again, conditions={"batch": "batch"})
    np.testing.assert_array_equal(hub_client.embed(again, cells), mapping.adata.obsm["X_latent"])
    np.testing.assert_array_equal(hub_client.embed(again, old), hub_client.embed(published, old))
    (condition,) = again.manifest.conditions
    assert (condition.key, condition.categories) == ("batch", (*simulated.REFERENCE, *simulated.QUERY))
    assert again.manifest.lineage is not None
    assert again.manifest.lineage.parent is not None
    assert published.ref is not None
    parent = again.manifest.lineage.parent
    assert (parent.commit, parent.digest) == (published.ref.commit, published.ref.digest)
    assert (ref.version, again.ref) == ("1.1.0", ref)
    listed = {listing.name: listing.version for listing in hub.search()}
    assert listed == {"atlas/simulated": "1.0.0", "my-lab/simulated-query": "1.1.0"}


@pytest.mark.slow
def test_a_delta_is_pulled_whole_from_every_hub(hub: hub_client.Hub, published: Model, tmp_path: Path) -> None:
    query = simulated.counts(simulated.QUERY, cells=50)
    mapping = hub_client.map_query(query, published, conditions={"batch": "batch"}, plan=PLAN, progress=False)
    ref = hub.push(mapping.model, "my-lab/simulated-delta", delta=True)
    again = hub.pull("my-lab/simulated-delta")
    assert again.manifest.digest == ref.digest
    cells = hub_client.align(query, again, conditions={"batch": "batch"})
    np.testing.assert_array_equal(hub_client.embed(again, cells), mapping.adata.obsm["X_latent"])
    folder = hub.download(f"my-lab/simulated-delta@sha256:{ref.digest}", tmp_path / "whole")
    assert (folder / "model.safetensors").exists() and not (folder / "delta.safetensors").exists()


@pytest.mark.slow
def test_a_yanked_version_is_yanked_on_every_hub(hub: hub_client.Hub, published: Model) -> None:
    described = Model(published.manifest.changed(title="Described"), published.network)
    hub.push(described, "atlas/simulated", version="1.0.1")
    hub.yank("atlas/simulated@1.0.1", reason="the title is wrong")
    hub.yank("atlas/simulated@1.0.1", reason="the title is still wrong")
    assert hub.resolve("atlas/simulated").version == "1.0.0"
    assert hub.resolve("atlas/simulated@1.0.1").version == "1.0.1"
    (store,) = hub.stores
    assert store.yanked("atlas/simulated") == {"1.0.1": "the title is still wrong"}
    assert [entry.version for entry in hub.history("atlas/simulated")] == ["1.0.1", "1.0.0"]


@pytest.mark.slow
def test_a_second_cohort_on_the_pushed_model(hub: hub_client.Hub, published: Model) -> None:
    for name, batches in (("first", simulated.QUERY), ("second", simulated.SECOND_QUERY)):
        before = published if name == "first" else hub.pull("my-lab/first")
        query = simulated.counts(batches, cells=50)
        mapping = hub_client.map_query(query, before, conditions={"batch": "batch"}, plan=PLAN, progress=False)
        hub.push(mapping.model, f"my-lab/{name}")
    last = hub.pull("my-lab/second")
    assert last.manifest.version == "1.2.0"
    assert last.manifest.conditions[0].added_in == {"q0": "1.1.0", "q1": "1.1.0", "r0": "1.2.0"}
    first = hub_client.align(simulated.counts(simulated.QUERY, cells=50), last, conditions={"batch": "batch"})
    np.testing.assert_array_equal(hub_client.embed(last, first), hub_client.embed(hub.pull("my-lab/first"), first))


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_is_refused(hub: hub_client.Hub, published: Model, tmp_path: Path) -> None:
    names = [path.name for path in hub.download("atlas/simulated", tmp_path / "listing").iterdir()]
    assert len(names) >= 3
    for name in names:
        folder = hub.download("atlas/simulated", tmp_path / f"flipped-{name}")
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises((errors.IntegrityError, errors.ManifestError)):
            Model.load(folder)


BLOOD = ("pbmc-scpoli", "pbmc-trvae", "pbmc-scvi", "pbmc-scanvi")
"""Models of the zoo that tell the types of blood cells."""
MEANS = {
    "CD14+ Monocyte": ["CD14 Mono"],
    "CD19+ B": ["B"],
    "CD4+/CD25 T Reg": ["CD4 T"],
    "CD4+/CD45RA+/CD25- Naive T": ["CD4 T"],
    "CD4+/CD45RO+ Memory": ["CD4 T"],
    "CD56+ NK": ["NK"],
    "CD8+ Cytotoxic T": ["CD8 T"],
    "CD8+/CD45RA+ Naive Cytotoxic": ["CD8 T"],
    "Dendritic": ["DC", "pDC"],
}
"""What the published labels of pbmc68k are called by those models; CD34+ cells they do not know."""


@pytest.fixture(scope="module", params=BLOOD)
def bundled(request: pytest.FixtureRequest) -> Model:
    if not (_resources.released() / request.param).exists():
        pytest.skip(f"{request.param} is not in this checkout's zoo")
    return hub_client.Hub("bundled").pull(request.param)


@pytest.fixture(scope="module")
def mapped(bundled: Model) -> hub_client.Mapping:
    return hub_client.map_query(bundled_query("pbmc68k"), bundled, conditions={"batch": "batch"}, progress=False)


@pytest.mark.slow
def test_the_bundled_model_labels_the_bundled_cells(bundled: Model, mapped: hub_client.Mapping) -> None:
    assert mapped.alignment.coverage == pytest.approx(755 / 2000)
    named = mapped.adata.obs["cell_type_broad_pred"].astype(str)
    unsure = mapped.adata.obs["cell_type_broad_uncertainty"]
    published = mapped.adata.obs["bulk_labels"].astype(str)
    assert set(named) <= {*bundled.manifest.labels[0].categories, "unknown"}
    assert unsure.between(0, 1).all()
    np.testing.assert_array_equal(named == "unknown", unsure > 0.5)  # as the release states
    assert (named[published == "CD19+ B"] == "B").mean() > 0.75
    assert (named[published == "CD56+ NK"] == "NK").mean() > 0.9
    assert named[published == "CD14+ Monocyte"].isin(["CD14 Mono", "CD16 Mono"]).mean() > 0.8
    right = np.array([name in MEANS[label] for name, label in zip(named, published, strict=True) if label in MEANS])
    assert len(right) == 687
    assert right.mean() > 0.55
    assert unsure[published.isin(list(MEANS))].to_numpy()[~right].mean() > unsure.mean()
    verify(bundled)
    verify(mapped.model)


@pytest.mark.slow
def test_a_bundled_model_grown_and_pushed_gives_the_same_latents(
    hub: hub_client.Hub, bundled: Model, mapped: hub_client.Mapping
) -> None:
    hub.push(mapped.model, "my-lab/blood")
    again = hub.pull("my-lab/blood")
    cells = hub_client.align(bundled_query("pbmc68k"), again, conditions={"batch": "batch"})
    np.testing.assert_array_equal(hub_client.embed(again, cells), mapped.adata.obsm["X_latent"])
    verify(again)
    before, after = bundled.network.tensors(), again.network.tensors()
    moved = [name for name, rows in before.items() if not (after[name][: len(rows)] == rows).all()]
    assert moved == []


@pytest.fixture(scope="module", params=["with proteins", "without"])
def cite(request: pytest.FixtureRequest, shared_data: Callable[[str], Path]) -> anndata.AnnData:
    """10x's 5k PBMC, which the zoo's totalVI has not seen."""
    adata = anndata.read_h5ad(shared_data("citeseq_pbmc_5k_10k.h5ad"))
    adata = adata[adata.obs["batch"] == "10x_pbmc_5k_protein_v3"].copy()
    if request.param == "without":
        del adata.obsm["protein"]
    else:
        adata.obsm["protein"] = adata.obsm["protein"].drop(columns="CD127").add_suffix("_TotalSeqB")
    return adata


@pytest.fixture(scope="module")
def mapped_cite(cite: anndata.AnnData) -> hub_client.Mapping:
    reference = hub_client.Hub("bundled").pull("pbmc-cite-totalvi")
    return hub_client.map_query(cite, reference, conditions={"batch": "batch"}, progress=False)


@pytest.mark.slow
def test_real_cells_are_labelled_and_their_proteins_imputed(
    cite: anndata.AnnData, mapped_cite: hub_client.Mapping, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    assert mapped_cite.proteins is not None and mapped_cite.alignment.proteins is not None
    measured = "protein" in cite.obsm
    assert mapped_cite.alignment.proteins.missing == (("CD127",) if measured else tuple(mapped_cite.proteins))
    truth = anndata.read_h5ad(shared_data("citeseq_pbmc_5k_10k.h5ad"))[cite.obs_names]
    known = truth.obs["cell_type"].astype(str).to_numpy() != "ambiguous"
    named = mapped_cite.adata.obs["cell_type_broad_pred"].astype(str).to_numpy()
    assert (named == truth.obs["cell_type"].astype(str).to_numpy())[known].mean() > 0.75
    for protein in ("CD3", "CD14", "CD19"):
        counted = np.log1p(truth.obsm["protein"][protein])
        assert np.corrcoef(counted, np.log1p(mapped_cite.proteins[protein]))[0, 1] > 0.6
    mapped_cite.adata.write_h5ad(tmp_path / "mapped.h5ad")
    read = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    np.testing.assert_array_equal(read.obsm["X_proteins_imputed"], mapped_cite.proteins)
    assert list(read.uns["X_proteins_imputed"]) == list(truth.obsm["protein"].columns)


@pytest.mark.slow
def test_a_grown_totalvi_comes_back_from_every_hub(
    hub: hub_client.Hub, cite: anndata.AnnData, mapped_cite: hub_client.Mapping
) -> None:
    hub.push(mapped_cite.model, "my-lab/cite")
    again = hub.pull("my-lab/cite")
    cells = hub_client.align(cite, again, conditions={"batch": "batch"})
    np.testing.assert_array_equal(hub_client.embed(again, cells), mapped_cite.adata.obsm["X_latent"])
    np.testing.assert_array_equal(impute_proteins(again, cells), mapped_cite.proteins)
    verify(again)


@pytest.mark.slow
def test_both_kinds_of_gene_names_give_the_same_cells(bundled: Model, shared_data: object) -> None:
    adata = anndata.read_h5ad(shared_data("pbmc_kang_muscat.h5ad"))  # type: ignore[operator]
    symbols, ids = adata.copy(), adata.copy()
    ids.var_names = ids.var["ensembl"].astype(str)
    for query in (symbols, ids):
        query.var = query.var[[]]
    one, two = (hub_client.align(q, bundled, conditions={"batch": "batch"}, min_coverage=0.1) for q in (symbols, ids))
    shared = np.asarray((one.x > 0).sum(0)).ravel() * np.asarray((two.x > 0).sum(0)).ravel() > 0
    assert shared.sum() > 300
    assert (one.x[:, shared] != two.x[:, shared]).nnz == 0
