"""build(): from synthetic cells to a release in seconds, and what stops it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy.sparse import csr_matrix

from hub_client import errors
from hub_client.build.build import build, choose_programs, prepare
from hub_client.build.datasets import load
from hub_client.build.judge import METRICS
from hub_client.checks.verify import verify
from hub_client.data.fingerprint import fingerprint
from hub_client.manifest.measures import criticises
from hub_client.manifest.plan import Plan
from hub_client.manifest.publishing import publishing_problems
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.recipe import Recipe
from hub_client.manifest.recommended import recommended
from hub_client.models.model import Model
from hub_client.release import atlas_file
from hub_client.release import folder as release_folder

ROOT = Path(__file__).parents[2]
GENES = [f"GENE{i}" for i in range(40)] + ["CD3D", "MS4A1", "MT-CO1", "MLL5"]
LABELS = ("B", "T", "NK")


def cells(batch: str, *, count: int, seed: int, dropped: int = 0) -> AnnData:
    """Return cells of three labels with different profiles, under names that look like barcodes."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(LABELS, count)
    profiles = np.random.default_rng(0).gamma(0.6, 4.0, (len(LABELS), len(GENES)))
    counts = generator.poisson(profiles[[LABELS.index(label) for label in labels]])
    names = [f"{batch}-ACGT{i:04d}-SECRETBARCODE" for i in range(count)]
    obs = pd.DataFrame({"donor": f"SECRETDONOR-{batch}", "batch": batch, "type": labels}, index=names)
    adata = AnnData(csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    return adata[:, dropped:].copy()


PLAN = {"epochs": 6, "learning_rate": 0.01, "kl_anneal_epochs": 6}


def recipe(data: Path, **changes: Any) -> Recipe:
    """Write two data sets into a folder and return a recipe of them."""
    parts = {"one": cells("b1", count=260, seed=1), "two": cells("b2", count=140, seed=2, dropped=2)}
    for name, part in parts.items():
        part.write_h5ad(data / f"{name}.h5ad")
    return Recipe.model_validate(described(parts) | changes)


def described(parts: dict[str, AnnData]) -> dict[str, Any]:
    return {
        "recipe_version": 1,
        "name": "tiny",
        "version": "0.1.0",
        "title": "Tiny",
        "summary": "Three kinds of cells that never lived.",
        "authors": [{"name": "Somebody"}],
        "license": "CC0-1.0",
        "data_license": "CC0-1.0",
        "intended_use": "Tests.",
        "limitations": "All of them.",
        "ontologies": {"CL": "2026-03-26", "NCBITaxon": "2026-05-13"},
        "organism": {"id": "NCBITaxon:9606", "label": "Homo sapiens"},
        "datasets": [
            {
                "name": name,
                "file": f"{name}.h5ad",
                "source": "made here",
                "fingerprint": fingerprint(part),
                "conditions": {"batch": "batch"},
                "labels": {"cell_type": "type"},
            }
            for name, part in parts.items()
        ],
        "panel": {"size": 30, "include": ["CD3D"], "exclude": ["^MT-"]},
        "conditions": [{"key": "batch", "encoding": {"kind": "embedding", "dim": 2}}],
        "labels": [{"key": "cell_type", "ontology": {"B": "CL:0000236", "T": "CL:0000084"}, "without_id": ["NK"]}],
        "architecture": {"kind": "scpoli", "hidden": [16], "latent": 4},
        "plan": PLAN | {"pretraining_epochs": 3},
        "holdout": {"fraction": 0.25},
        "gates": [{"level": "cell_type", "metric": "accuracy", "at_least": 0.8}],
        "test_cells": 5,
        "atlas": True,
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of two synthetic data sets."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("zoo")
    return build(recipe(data), data=data, out=out, progress=False)


def test_a_release_is_written_where_the_zoo_keeps_it(released: Path) -> None:
    assert released.parts[-2:] == ("tiny", "0.1.0")
    manifest = release_folder.verify(released)
    assert {file.path for file in manifest.files} == {"README.md", "model.safetensors", "reference.zarr.zip"}


def test_the_manifest_says_what_the_recipe_and_the_data_say(released: Path) -> None:
    manifest = release_folder.verify(released)
    assert [c.categories for c in manifest.conditions] == [("b1", "b2")]
    assert manifest.labels[0].ontology == {"B": "CL:0000236", "NK": None, "T": "CL:0000084"}
    assert manifest.labels[0].ontology_release == "CL 2026-03-26"
    assert [(d.name, d.cells) for d in manifest.training.datasets] == [("one", 260), ("two", 140)]
    assert manifest.training.plan is not None and manifest.training.plan.epochs == manifest.training.epochs == 6
    assert manifest.training.versions["torch"]


def test_the_manifest_says_how_deep_the_reference_is(released: Path) -> None:
    depth = release_folder.verify(released).trust.depth
    assert depth is not None and 0 < depth.p5 < depth.median < depth.p95


def test_version_2_leaves_to_the_data_what_it_does_not_state(tmp_path: Path) -> None:
    stated = {"architecture": {"kind": "scpoli", "hidden": [8], "latent": 3}, "plan": {"epochs": 4}}
    written = build(
        recipe(tmp_path, recipe_version=2, gates=[], **stated), data=tmp_path, out=tmp_path / "zoo", progress=False
    )
    manifest, best = release_folder.verify(written), recommended("scpoli", cells=400)
    assert manifest.architecture == best.architecture.model_copy(update={"hidden": (8,), "latent": 3})
    assert manifest.training.plan == best.plan.lasting(4)
    assert manifest.query_plan == best.query_plan
    assert "expression.centre" in {spec.name for spec in manifest.tensors}
    record = manifest.trust.novelty
    assert record is not None and set(record.tensors.values()) <= {spec.name for spec in manifest.tensors}
    assert (record.left_out, record.count) == ("batches", 2) and record.false_positives is not None


def test_version_1_states_what_it_does_not_leave_to_the_data(released: Path) -> None:
    manifest = release_folder.verify(released)
    assert (manifest.architecture.encoder_input, manifest.query_plan) == ("log1p", None)
    assert manifest.trust.novelty is None
    assert manifest.training.plan == Plan.model_validate(PLAN | {"pretraining_epochs": 3})


def test_the_panel_has_the_genes_the_rules_ask_for(released: Path) -> None:
    names = release_folder.verify(released).genes.names
    assert len(names) == 30
    assert list(names) == sorted(names)
    assert "CD3D" in names and "MT-CO1" not in names
    assert not {"GENE0", "GENE1"} & set(names), "the second data set does not measure them"


def test_symbols_are_paired_with_their_ensembl_ids(released: Path) -> None:
    pairs = {gene.symbol: gene.id for gene in release_folder.verify(released).genes.panel}
    assert pairs["CD3D"] == "ENSG00000167286"
    assert pairs.get("GENE5") is None


def test_metrics_are_of_cells_that_were_held_out(released: Path) -> None:
    manifest = release_folder.verify(released)
    metrics = {metric.name: metric for metric in manifest.metrics}
    of_labels = {name for name in metrics if not criticises(name)}
    assert of_labels == {f"cell_type.{name}" for name in METRICS if not name.startswith("set_")}  # not of version 1
    assert metrics["cell_type.latent_accuracy"].value > 0.8 and metrics["cell_type.latent_macro_f1"].value > 0.8
    assert metrics["cell_type.accuracy"].value > 0.8
    assert {metrics[name].n for name in of_labels} == {len_held_out(released)}
    assert 80 <= metrics["cell_type.accuracy"].n <= 120
    (calibration,) = manifest.trust.calibrations
    assert calibration.level == "cell_type" and calibration.distance_scale is not None


def test_the_model_is_criticised_in_metrics_and_on_the_card(released: Path) -> None:
    manifest = release_folder.verify(released)
    figures = {metric.name: metric for metric in manifest.metrics}
    assert figures["reproduction.mean_correlation"].n == 400 - len_held_out(released)
    assert figures["integration.latent.neighbour_labels"].n == 400
    card = (released / release_folder.CARD).read_text(encoding="utf-8")
    assert "### How well it reproduces its own data" in card and "### The latent beside PCA" in card


def len_held_out(released: Path) -> int:
    atlas = atlas_file.load((released / atlas_file.FILE).read_bytes())
    return 400 - atlas.n_obs


def test_the_test_vectors_reproduce_after_loading(released: Path) -> None:
    model = Model.load(released)
    assert model.manifest.test_vectors is not None and model.manifest.test_vectors.cells == 5
    verify(model)


def test_other_weights_do_not_reproduce_the_test_vectors(released: Path) -> None:
    model = Model.load(released)
    tensors = model.network.tensors()
    tensors["encoder.mean.bias"] += 0.01
    model.network.load(tensors)
    with pytest.raises(errors.IntegrityError, match=r"latent differs by up to 0\.01"):
        verify(model)


def test_test_vectors_survive_saving(released: Path, tmp_path: Path) -> None:
    verify(Model.load(Model.load(released).save(tmp_path / "again")))


def test_nothing_of_barcodes_or_donors_is_released(released: Path) -> None:
    content = b"".join(path.read_bytes() for path in released.iterdir())
    atlas = atlas_file.load((released / atlas_file.FILE).read_bytes())
    assert b"SECRET" not in content
    assert not any("SECRET" in name for name in atlas.obs_names)
    assert set(atlas.obs.columns) == {"batch", "cell_type"}


def test_no_test_vector_is_a_real_cell(released: Path) -> None:
    counts = Model.load(released).extras["test_vectors.counts"].numpy()
    names = list(release_folder.verify(released).genes.names)
    real = {
        row.tobytes() for seed, batch, n in ((1, "b1", 260), (2, "b2", 140)) for row in _rows(batch, n, seed, names)
    }
    assert not any(row.astype(np.float32).tobytes() in real for row in counts)


def _rows(batch: str, count: int, seed: int, names: list[str]) -> np.ndarray:
    return cells(batch, count=count, seed=seed)[:, names].X.toarray()


def weights(folder: Path) -> str:
    files = read_manifest((folder / "manifest.json").read_bytes(), source=str(folder)).files
    return next(file.sha256 for file in files if file.role == "weights")


@pytest.mark.slow
def test_the_same_recipe_and_data_give_the_same_weights(released: Path, tmp_path: Path) -> None:
    same = recipe(tmp_path)
    assert weights(build(same, data=tmp_path, out=tmp_path / "again", progress=False)) == weights(released)
    other = same.model_copy(update={"seed": 1})
    assert weights(build(other, data=tmp_path, out=tmp_path / "other", progress=False)) != weights(released)


@pytest.mark.slow
def test_a_failed_gate_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    gates = [
        {"level": "cell_type", "metric": "accuracy", "at_least": 0.1},
        {"level": "cell_type", "metric": "macro_f1", "at_least": 1.01},
        {"level": "cell_type", "metric": "calibration_error", "at_most": -0.5},
        {"level": "cell_type", "metric": "latent_macro_f1", "at_least": 1.02},
    ]
    strict = recipe(tmp_path, gates=gates)
    with pytest.raises(errors.InvalidInput, match=r"wanted at least 1\.01") as caught:
        build(strict, data=tmp_path, out=tmp_path / "zoo", progress=False)
    assert "wanted at most -0.5" in str(caught.value) and "accuracy is" not in str(caught.value)
    assert "cell_type.latent_macro_f1 is" in str(caught.value) and "wanted at least 1.02" in str(caught.value)
    assert caught.value.facts["cell_type.macro_f1"] <= 1
    assert not (tmp_path / "zoo").exists()


def test_other_data_than_the_recipes_are_refused(tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    cells("b1", count=260, seed=3).write_h5ad(tmp_path / "one.h5ad")
    with pytest.raises(errors.IntegrityError, match="not the data set 'one'") as caught:
        build(wanted, data=tmp_path, out=tmp_path / "zoo", progress=False)
    assert caught.value.expected == wanted.datasets[0].fingerprint != caught.value.actual


def test_a_release_that_is_there_is_not_replaced(released: Path, tmp_path: Path) -> None:
    same = recipe(tmp_path)
    before = (released / "manifest.json").read_bytes()
    with pytest.raises(errors.InvalidInput, match="exists already"):
        build(same, data=tmp_path, out=released.parents[1], progress=False)
    assert (released / "manifest.json").read_bytes() == before


def _without(column: str) -> Callable[[AnnData], AnnData]:
    return lambda adata: AnnData(adata.X, obs=adata.obs.drop(columns=column), var=adata.var)


def _set(column: str, values: Any) -> Callable[[AnnData], AnnData]:
    def change(adata: AnnData) -> AnnData:
        adata.obs[column] = values(adata.obs[column])
        return adata

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (_without("batch"), errors.VocabularyError, "no obs column 'batch'"),
        (_without("type"), errors.VocabularyError, "no obs column 'type'"),
        (
            _set("batch", lambda old: old.where(old.index != old.index[3])),
            errors.VocabularyError,
            r"1 cells have no value \(NaN\)",
        ),
        (
            _set("batch", lambda old: old.where(old.index != old.index[3], "nan")),
            errors.VocabularyError,
            r"1 cells have no value \('nan'\)",
        ),
        (_set("type", lambda old: old.astype(str).replace("NK", "natural killer")), errors.VocabularyError, "natural"),
    ],
)
def test_columns_that_the_recipe_needs(tmp_path: Path, change: Any, error: type, said: str) -> None:
    wanted = recipe(tmp_path)
    change(cells("b1", count=260, seed=1)).write_h5ad(tmp_path / "one.h5ad")
    with pytest.raises(error, match=said):
        build(wanted, data=tmp_path, out=tmp_path / "zoo", progress=False)


def test_texts_that_mean_no_label_are_none_unless_the_recipe_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = cells("b1", count=60, seed=1)
    adata.obs["type"] = np.where(np.arange(60) < 5, "nan", np.where(np.arange(60) < 8, "Unknown", adata.obs["type"]))
    adata.write_h5ad(tmp_path / "one.h5ad")
    wanted = described({"one": adata})
    labels = load(Recipe.model_validate(wanted), tmp_path).counts.obs["cell_type"]
    assert (labels == "").sum() == 8
    assert "8 cells have no label of 'cell_type', but 'nan' 5, 'Unknown' 3 in obs['type']" in caplog.text
    wanted["labels"][0]["without_id"] = ["NK", "Unknown"]
    assert (load(Recipe.model_validate(wanted), tmp_path).counts.obs["cell_type"] == "Unknown").sum() == 3


def test_antibodies_in_a_data_set_are_no_genes_and_can_be_its_proteins(tmp_path: Path) -> None:
    adata = cells("b1", count=60, seed=1)
    kinds = np.where(np.isin(adata.var_names, ["CD3D", "MS4A1"]), "Antibody Capture", "Gene Expression")
    adata.var["feature_types"] = kinds
    adata.write_h5ad(tmp_path / "one.h5ad")
    wanted = described({"one": adata})
    proteins = np.asarray(adata[:, ["CD3D", "MS4A1"]].X.toarray())
    wanted["datasets"][0]["proteins"] = {
        "key": "Antibody Capture",
        "fingerprint": fingerprint(proteins, ["CD3D", "MS4A1"]),
    }
    wanted |= {"architecture": {"kind": "totalvi", "hidden": 16, "latent": 4}, "plan": PLAN}
    wanted |= {"conditions": [{"key": "batch", "encoding": {"kind": "one-hot"}}], "panel": {"size": 30}}
    counts = load(Recipe.model_validate(wanted), tmp_path).counts
    assert not {"CD3D", "MS4A1"} & set(counts.var_names)
    np.testing.assert_array_equal(counts.obsm["proteins"].to_numpy(), proteins)


def test_a_missing_file_says_where_it_can_be_had(tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    (tmp_path / "two.h5ad").unlink()
    with pytest.raises(errors.NotFound, match="can be had from: made here"):
        build(wanted, data=tmp_path, out=tmp_path / "zoo", progress=False)


def test_labels_no_cell_has_are_named(tmp_path: Path) -> None:
    level = {"key": "cell_type", "ontology": {"B": "CL:0000236"}, "without_id": ["NK", "T", "pDC"]}
    with pytest.raises(errors.VocabularyError, match="no cell has: pDC"):
        build(recipe(tmp_path, labels=[level]), data=tmp_path, out=tmp_path / "zoo", progress=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trust": {"transfer": "average"}, "atlas": False}, "transfer = 'average' needs the atlas: set atlas = true"),
        ({"trust": {"transfer": "network"}}, "needs a classifier, which scanvi has and scpoli has not"),
        (
            {"architecture": {"kind": "trvae", "hidden": [16], "latent": 4}, "plan": PLAN},
            "needs prototypes, which trvae has not: set atlas = true",
        ),
        (
            {
                "architecture": {"kind": "trvae", "hidden": [16], "latent": 4},
                "plan": PLAN,
                "trust": {"transfer": "gaussians"},
                "atlas": True,
            },
            "'gaussians' needs prototypes, which trvae has not",
        ),
        (
            {"trust": {"transfer": "consensus"}, "input": {"kind": "log1p"}},
            "'consensus' needs counts; input.kind is 'log1p'",
        ),
        (
            {
                "architecture": {"kind": "trvae", "hidden": [16], "latent": 4},
                "conditions": [{"key": "batch", "encoding": {"kind": "one-hot"}}],
                "plan": PLAN,
                "trust": {"transfer": "expression"},
                "gates": [{"level": "cell_type", "metric": "latent_macro_f1", "at_least": 0.1}],
                "atlas": False,
            },
            "a gate on latent_macro_f1 needs labels from the latent alone: set atlas = true",
        ),
    ],
)
def test_a_rule_of_transfer_that_lacks_what_it_needs_is_refused(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(errors.ManifestError, match="tiny is not a valid recipe") as caught:
        build(recipe(tmp_path, **changes), data=tmp_path, out=tmp_path / "zoo", progress=False)
    assert expected in caught.value.problems[0]


@pytest.mark.slow
def test_labels_can_be_renamed_and_cells_left_out(tmp_path: Path) -> None:
    wanted = described({"one": cells("b1", count=260, seed=1)})
    wanted["datasets"][0] |= {"rename": {"cell_type": {"T": "T cell"}}, "keep": {"type": ["B", "T"]}}
    wanted["datasets"][0]["conditions"] = {"batch": {"constant": "only"}}
    wanted["labels"] = [{"key": "cell_type", "without_id": ["B", "T cell"]}]
    cells("b1", count=260, seed=1).write_h5ad(tmp_path / "one.h5ad")
    folder = build(Recipe.model_validate(wanted), data=tmp_path, out=tmp_path / "zoo", progress=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["labels"][0]["categories"] == ["B", "T cell"]
    assert manifest["conditions"][0]["categories"] == ["only"]
    assert 100 < manifest["training"]["datasets"][0]["cells"] < 260


@pytest.mark.slow
def test_labels_transferred_from_neighbours_come_out_the_same_after_loading(tmp_path: Path) -> None:
    wanted = recipe(tmp_path, trust={"transfer": "average", "neighbors": 7})
    model = Model.load(build(wanted, data=tmp_path, out=tmp_path / "zoo", progress=False))
    (calibration,) = model.manifest.trust.calibrations
    assert (calibration.transfer, calibration.neighbors) == ("average", 7)
    assert model.atlas is not None and model.atlas.n_obs == 400 - model.manifest.metrics[0].n
    verify(model)


@pytest.mark.slow
@pytest.mark.parametrize("transfer", ["neighbors", "mixtures", "consensus"])
def test_a_model_without_a_classifier_takes_its_labels_from_the_atlas(tmp_path: Path, transfer: str) -> None:
    one_hot = [{"key": "batch", "encoding": {"kind": "one-hot"}}]
    trvae = {"kind": "trvae", "hidden": [16], "latent": 4}
    wanted = recipe(tmp_path, architecture=trvae, plan=PLAN, conditions=one_hot, trust={"transfer": transfer})
    model = Model.load(build(wanted, data=tmp_path, out=tmp_path / "zoo", progress=False))
    verify(model)
    (calibration,) = model.manifest.trust.calibrations
    assert (calibration.transfer, calibration.distance_scale) == (transfer, None)
    values = {metric.name: metric.value for metric in model.manifest.metrics}
    assert values["cell_type.accuracy"] >= 0.8
    assert values["cell_type.calibration_error"] < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc-scpoli", "pbmc-trvae", "pbmc-scvi", "pbmc-scanvi"])
def test_the_zoos_recipe_fits_its_data(shared_data: Callable[[str], Path], name: str) -> None:
    import scanpy as sc

    wanted = Recipe.read(ROOT / "zoo" / "recipes" / f"{name}.toml")
    model, training, held_out = prepare(wanted, data=shared_data("pbmc3k_10x.h5ad").parent)
    names = set(model.manifest.genes.names)
    assert len(names) == 2000
    measured = set(sc.datasets.pbmc68k_reduced().raw.var_names)
    assert len(names & measured) == 755
    assert len(training) + len(held_out) == 5438
    assert set(training.labels["cell_type_broad"]) == set(model.manifest.labels[0].categories)


RELEASES = sorted(path.parent for path in (ROOT / "zoo" / "released").glob("*/*/manifest.json"))


@pytest.mark.parametrize("folder", RELEASES, ids=lambda folder: "@".join(folder.parts[-2:]))
def test_releases_of_the_zoo_are_whole_small_and_their_recipes(folder: Path) -> None:
    model = Model.load(folder)
    verify(model)
    assert (model.manifest.name, model.manifest.version) == folder.parts[-2:]
    assert publishing_problems(model.manifest) == []
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3.75e6
    wanted = Recipe.read(ROOT / "zoo" / "recipes" / f"{model.manifest.name}.toml")
    if wanted.version == model.manifest.version:
        assert model.manifest.training.plan == wanted.plan
        assert model.manifest.architecture == wanted.architecture
        assert model.manifest.limitations == wanted.limitations
        assert {d.fingerprint for d in model.manifest.training.datasets} == {d.fingerprint for d in wanted.datasets}


@pytest.mark.slow
def test_several_conditions_and_label_levels_and_cells_without_labels(tmp_path: Path) -> None:
    one = cells("b1", count=300, seed=1)
    one.obs["stimulus"] = np.resize(["no", "yes", "yes"], 300)
    one.obs["lineage"] = one.obs["type"].map({"B": "lymphoid", "T": "lymphoid", "NK": "innate"})
    one.obs["type"] = one.obs["type"].astype(object).where(np.arange(300) >= 20).mask(np.arange(300) >= 290, "?")
    one.write_h5ad(tmp_path / "one.h5ad")
    wanted = described({"one": one}) | {"gates": [], "atlas": False}
    wanted["datasets"][0] |= {"conditions": {"batch": "batch", "stimulus": "stimulus"}}
    wanted["datasets"][0] |= {"labels": {"fine": "type", "coarse": "lineage"}}
    wanted["conditions"] += [{"key": "stimulus", "role": "covariate", "encoding": {"kind": "embedding", "dim": 2}}]
    wanted["labels"] = [
        {"key": "coarse", "without_id": ["innate", "lymphoid"]},
        {"key": "fine", "without_id": ["B", "NK", "T"], "parents": {"B": "lymphoid"}, "unlabelled": "?"},
    ]
    folder = build(Recipe.model_validate(wanted), data=tmp_path, out=tmp_path / "zoo", progress=False)
    model = Model.load(folder)
    verify(model)
    assert [c.values for c in model.manifest.combinations] == [("b1", "no"), ("b1", "yes")]
    assert [level.categories for level in model.manifest.labels] == [("innate", "lymphoid"), ("B", "NK", "T")]
    judged = {metric.name: metric.n for metric in model.manifest.metrics}
    assert judged["fine.accuracy"] < judged["coarse.accuracy"]
    assert not (folder / atlas_file.FILE).exists()


def test_genes_that_few_cells_express_are_chosen_only_by_name(tmp_path: Path) -> None:
    described = recipe(tmp_path, panel={"size": None, "min_cells": 300, "include": ["CD3D"]})
    both = [read_h5ad(tmp_path / f"{name}.h5ad") for name in ("one", "two")]
    expressed = sum(pd.Series((part.X > 0).sum(axis=0).A1, index=part.var_names) for part in both).dropna()
    assert expressed["CD3D"] < 300 < expressed.max()
    names = prepare(described, data=tmp_path)[0].manifest.genes.names
    assert set(names) == {"CD3D", *expressed.index[expressed >= 300]}


# --- scvi-tools' three ------------------------------------------------------------------------------------------------

ONE_HOT = [{"key": "batch", "encoding": {"kind": "one-hot"}}]
SCVI = {"hidden": 16, "latent": 4, "likelihood": "nb"}
SHORT = {"epochs": 3, "kl_anneal_epochs": 3, "early_stopping": False, "keep_best": False}


def of_scvi_tools(data: Path, kind: str, **changes: Any) -> Recipe:
    return recipe(
        data,
        architecture={"kind": kind, **SCVI},
        conditions=ONE_HOT,
        trust={"transfer": "mixtures"},
        gates=[],
        **{"plan": SHORT} | changes,
    )


@pytest.mark.slow
def test_a_scanvi_starts_from_a_scvi_where_the_recipe_says_so(tmp_path: Path) -> None:
    """Without training of its own it is the scVI of the same cells, plan and seed."""
    first = build(of_scvi_tools(tmp_path, "scvi"), data=tmp_path, out=tmp_path / "scvi", progress=False)
    untrained = SHORT | {"epochs": 0}
    wanted = of_scvi_tools(tmp_path, "scanvi", pretraining=SHORT, plan=untrained)
    second = build(wanted, data=tmp_path, out=tmp_path / "scanvi", progress=False)
    scvi, scanvi = Model.load(first), Model.load(second)
    verify(scanvi)
    shared = scvi.network.tensors()
    assert all((scanvi.network.tensors()[name] == tensor).all() for name, tensor in shared.items())
    assert scanvi.manifest.training.plan == wanted.plan


@pytest.mark.slow
def test_a_scanvis_labels_can_come_from_its_own_classifier(tmp_path: Path) -> None:
    wanted = of_scvi_tools(tmp_path, "scanvi", plan=SHORT | {"epochs": 12, "learning_rate": 0.01})
    wanted = wanted.model_copy(update={"trust": wanted.trust.model_copy(update={"transfer": "network"})})
    model = Model.load(build(wanted, data=tmp_path, out=tmp_path / "zoo", progress=False))
    verify(model)
    assert model.manifest.trust.calibrations[0].transfer == "network"
    assert next(m.value for m in model.manifest.metrics if m.name == "cell_type.accuracy") > 0.8


def with_proteins(data: Path, **changes: Any) -> Recipe:
    """Write two data sets of which each measured a protein that the other did not, and return a recipe of them."""
    parts = {"one": cells("b1", count=260, seed=1), "two": cells("b2", count=140, seed=2, dropped=2)}
    named = {"one": ["CD3_TotalSeqB", "CD19", "CD14"], "two": ["cd-3", "CD19_TotalSeqB", "CD56"]}
    said = described(parts)
    for (name, part), dataset in zip(parts.items(), said["datasets"], strict=True):
        counts = np.random.default_rng(len(part)).poisson(9.0, (part.n_obs, 3)).astype(np.float32)
        part.obsm["adt"] = pd.DataFrame(counts, index=part.obs_names, columns=named[name])
        dataset["proteins"] = {"key": "adt", "fingerprint": fingerprint(counts, named[name])}
        part.write_h5ad(data / f"{name}.h5ad")
    totalvi = {"kind": "totalvi", "hidden": 16, "latent": 4, "encoder_layers": 1}
    ours = {"architecture": totalvi, "conditions": ONE_HOT, "trust": {"transfer": "mixtures"}, "gates": []}
    return Recipe.model_validate(said | ours | {"plan": SHORT} | changes)


def test_the_proteins_of_all_data_sets_are_one_panel(tmp_path: Path) -> None:
    model, training, held_out = prepare(with_proteins(tmp_path), data=tmp_path)
    assert model.manifest.proteins is not None
    assert model.manifest.proteins.panel == ("CD3_TotalSeqB", "CD19", "CD14", "CD56")
    for cells_of in (training, held_out):
        assert cells_of.proteins is not None
        first = cells_of.conditions["batch"] == "b1"
        assert (cells_of.proteins[first, 3] == 0).all() and (cells_of.proteins[~first, 2] == 0).all()
        assert 7 < cells_of.proteins[:, :2].mean() < 11


@pytest.mark.slow
def test_a_totalvi_is_built_from_data_sets_with_proteins(tmp_path: Path) -> None:
    model = Model.load(build(with_proteins(tmp_path), data=tmp_path, out=tmp_path / "zoo", progress=False))
    verify(model)
    assert model.manifest.proteins is not None and model.manifest.proteins.source == "adt"
    assert model.manifest.proteins.measured == {
        "b1": ("CD3_TotalSeqB", "CD19", "CD14"),
        "b2": ("CD3_TotalSeqB", "CD19", "CD56"),
    }
    assert model.extras["test_vectors.proteins"].shape == (5, 4)


def test_other_protein_counts_than_the_recipes_are_refused(tmp_path: Path) -> None:
    wanted = with_proteins(tmp_path)
    changed = read_h5ad(tmp_path / "two.h5ad")
    changed.obsm["adt"].iloc[0, 0] += 1
    changed.write_h5ad(tmp_path / "two.h5ad")
    with pytest.raises(errors.IntegrityError, match="its proteins and counts have the fingerprint"):
        prepare(wanted, data=tmp_path)
    del changed.obsm["adt"]
    changed.write_h5ad(tmp_path / "two.h5ad")
    with pytest.raises(errors.VocabularyError, match=r"no proteins under obsm.'adt'"):
        prepare(wanted, data=tmp_path)


# --- gene programs ----------------------------------------------------------------------------------------------------

PROGRAMS = {
    "first half": ("R-1", GENES[:20]),
    "nearly that": ("R-2", GENES[:18]),
    "second half": ("R-3", GENES[20:40]),
    "rare": ("R-4", ["CD3D"]),
    "silent": ("R-5", ["GENE39", "MT-CO1"]),
}


def with_programs(data: Path, *, more: Mapping[str, Any] = {}, panel: Any = None, **rules: Any) -> Recipe:
    lines = ["\t".join([name, id, *genes]) for name, (id, genes) in {**PROGRAMS, **more}.items()]
    (data / "sets.gmt").write_text("\n".join(lines) + "\n")
    programs = {"file": "sets.gmt", "sha256": hashlib.sha256((data / "sets.gmt").read_bytes()).hexdigest()}
    said = {"source": "made here", "release": "1", "license": "CC0-1.0", "min_genes": 5}
    return recipe(
        data,
        programs=programs | said | rules,
        panel=panel or {"size": 30, "exclude": ["^MT-"]},
        architecture={"kind": "expimap", "hidden": [16]},
        plan=PLAN,
        conditions=[{"key": "batch", "encoding": {"kind": "one-hot"}}],
        trust={"transfer": "consensus"},
        gates=[],
    )


def test_gene_programs_become_terms_and_the_others_are_reported(tmp_path: Path) -> None:
    described = with_programs(tmp_path, max_overlap=0.8)
    chosen = choose_programs(described, data=tmp_path)
    assert chosen is not None
    assert [(t.id, t.name, t.source, t.release, t.license) for t in chosen.terms] == [
        ("R-1", "first half", "made here", "1", "CC0-1.0"),
        ("R-3", "second half", "made here", "1", "CC0-1.0"),
    ]
    why = dict(chosen.report.set_index("id")["why"])
    assert why["R-2"] == "nearly the genes of a larger one" and why["R-4"] == "fewer than 5 measured genes"
    model, _, _ = prepare(described, data=tmp_path)
    assert model.manifest.terms == chosen.terms
    assert choose_programs(recipe(tmp_path), data=tmp_path) is None


def test_whole_programs_are_in_the_panel_but_for_excluded_genes(tmp_path: Path) -> None:
    """However little their genes vary."""
    small: Any = {"panel": {"size": 12, "exclude": ["^MT-"]}, "min_genes": 1}
    ranked = prepare(with_programs(tmp_path, **small), data=tmp_path)[0].manifest.genes.names
    quiet = next(name for name in GENES[2:40] if name not in ranked)
    described = with_programs(tmp_path, **small, more={"quiet": ("R-6", [quiet, "MT-CO1"])}, whole=["R-6"])
    names = prepare(described, data=tmp_path)[0].manifest.genes.names
    assert quiet in names and "MT-CO1" not in names and len(names) == 12


def test_a_whole_program_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(errors.VocabularyError, match="names R-99, which the file has not; it takes ids, such as R-1"):
        prepare(with_programs(tmp_path, whole=["R-99"]), data=tmp_path)


@pytest.mark.slow
def test_a_release_with_gene_programs(tmp_path: Path) -> None:
    folder = build(with_programs(tmp_path), data=tmp_path, out=tmp_path / "zoo", progress=False)
    manifest = release_folder.verify(folder)
    assert [term.id for term in manifest.terms] == ["R-1", "R-2", "R-3"]
    verify(Model.load(folder))
