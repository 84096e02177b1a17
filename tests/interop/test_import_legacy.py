"""Folders that scArches saved become models of ours: of every kind and version, with all that is lost named."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import hub_client
from hub_client import errors
from hub_client.interop.import_legacy import KINDS, NAMES, ORGANISMS, TRAINING, UNTRAINED, import_legacy
from hub_client.manifest.provenance import OntologyTerm
from hub_client.models.architectures import ARCHITECTURES
from hub_client.models.architectures.expimap import ExpiMap
from hub_client.models.architectures.scpoli import ScPoli
from hub_client.models.architectures.trvae import TrVAE
from hub_client.models.model import Model
from hub_client.programs.enrichment import bayes_factors
from hub_client.programs.programs import Program
from hub_client.programs.terms import term_directions
from tests.golden.recorded import Recording

LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
OLD = {
    "trvae-0.3.0": "trvae",
    "expimap-0.5.0": "expimap",
    "scpoli-0.5.6/reference": "scpoli",
    "scpoli-0.5.8/reference": "scpoli",
    "scpoli-0.5.8/query": "scpoli",
    "scpoli-0.5.9": "scpoli",
}
PROGRAMS = [
    "expimap_mse",
    "expimap_nb",
    "expimap_nb_query",
    "expimap_nb_query_ext",
    "expimap_nb_query_ext_hard",
    "expimap_nb_strong",
    "expimap_soft_lenc",
    "expimap_softplus",
]
RECORDED = [
    *PROGRAMS,
    "scpoli_default",
    "scpoli_mse_encoder_only",
    "scpoli_multi",
    "scpoli_multi_query_newtype",
    "scpoli_query_unlabeled",
    "scpoli_unknown_zinb",
    "trvae_mse_boundary",
    "trvae_nb",
    "trvae_nb_query",
    "trvae_zinb_mmdy_bn",
]
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}

old = pytest.mark.parametrize("name", OLD)
recorded = pytest.mark.parametrize("name", RECORDED)
Find = Callable[[str], Path]


def cells_of(folder: Path) -> tuple[anndata.AnnData, dict[str, Any]]:
    """The cells of an old recording, and what old scArches said of them."""
    with np.load(folder / "outputs.npz", allow_pickle=False) as found:
        arrays = dict(found)
    obs = pd.DataFrame({name.removeprefix("obs/"): arrays[name] for name in arrays if name.startswith("obs/")})
    genes = (folder / "var_names.csv").read_text().splitlines()
    return anndata.AnnData(
        arrays["X"].astype("float32"), obs=obs.set_index(obs.index.astype(str)), var=pd.DataFrame(index=genes)
    ), arrays


def edited(folder: Path, into: Path, *, without: str = "", **changes: Any) -> Path:
    """A copy of a folder with other attributes."""
    copytree(folder, into)
    attributes = pickle.loads((into / "attr.pkl").read_bytes()) | changes
    attributes.pop(without, None)
    (into / "attr.pkl").write_bytes(pickle.dumps(attributes))
    return into


def with_state(folder: Path, into: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a folder with other tensors."""
    copytree(folder, into)
    state = torch.load(into / "model_params.pt", weights_only=True)
    change(state)
    torch.save(state, into / "model_params.pt")
    return into


# --- old versions ----------------------------------------------------------------------------------------------------


@old
def test_old_folders_give_the_same_latent(name: str) -> None:
    cells, said = cells_of(LEGACY / name)
    model = import_legacy(LEGACY / name)
    assert model.manifest.architecture.kind == OLD[name]
    assert list(model.manifest.genes.names) == list(cells.var_names)
    conditions = {condition.key: condition.key for condition in model.manifest.conditions}
    shuffled = cells[:, ::-1].copy()
    latent = hub_client.embed(model, hub_client.align(shuffled, model, conditions=conditions))
    assert_allclose(latent, said["latent_mean"], **CLOSE)


@old
def test_they_are_saved_pushed_and_pulled(name: str, tmp_path: Path) -> None:
    model = import_legacy(LEGACY / name, organism="human", name="old-model")
    hub_client.push(model, "my-lab/old-model", hub=tmp_path / "hub")
    again = hub_client.pull("my-lab/old-model", hub=tmp_path / "hub")
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in model.tensors().items())
    assert again.manifest.imported_from == model.manifest.imported_from
    assert again.manifest.organism == ORGANISMS["human"]


def test_importing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (import_legacy(LEGACY / "scpoli-0.5.9").save(tmp_path / name) for name in ("first", "second"))
    assert all(path.read_bytes() == (second / path.name).read_bytes() for path in first.iterdir())


def test_the_folder_is_left_alone() -> None:
    before = {path: path.read_bytes() for path in (LEGACY / "scpoli-0.5.9").iterdir()}
    import_legacy(LEGACY / "scpoli-0.5.9")
    assert {path: path.read_bytes() for path in (LEGACY / "scpoli-0.5.9").iterdir()} == before


def test_one_condition_key_of_old_scpoli() -> None:
    found = import_legacy(LEGACY / "scpoli-0.5.8" / "query").manifest
    assert [(c.key, c.categories) for c in found.conditions] == [("batch", ("b0", "b1", "q0"))]
    assert found.labels[0].categories == ("NK", "T", "B")
    assert found.combinations == ()


def test_an_old_query_knows_its_reference() -> None:
    folder = LEGACY / "scpoli-0.5.8"
    model = import_legacy(folder / "query", reference=folder / "reference")
    assert model.manifest.version == "1.1.0"
    assert model.manifest.lineage is not None and model.manifest.lineage.relation == "surgery"
    assert model.manifest.conditions[0].added_in == {"q0": "1.1.0"}
    before = import_legacy(folder / "reference").tensors()["embeddings.0.rows"]
    assert before.shape == (2, 3)
    alone = import_legacy(folder / "query")
    assert alone.manifest.lineage is not None and alone.manifest.lineage.relation == "import"
    assert all(torch.equal(tensor, alone.tensors()[name]) for name, tensor in model.tensors().items())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"conditions_": ["b1", "b0"]}, errors.InvalidInput),
        ({"conditions_": ["b0", "b1", "q0", "q1"]}, errors.InvalidInput),
        ({"condition_key_": "donor"}, errors.InvalidInput),
    ],
)
def test_a_reference_that_it_was_not_made_of(changes: dict[str, Any], error: type[Exception], tmp_path: Path) -> None:
    folder = LEGACY / "scpoli-0.5.8"
    with pytest.raises(error, match="not made by surgery on this reference"):
        import_legacy(folder / "query", reference=edited(folder / "reference", tmp_path / "model", **changes))


def test_a_reference_of_other_genes(tmp_path: Path) -> None:
    folder = LEGACY / "scpoli-0.5.8"
    other = copytree(folder / "reference", tmp_path / "model")
    (other / "var_names.csv").write_text("\n".join(f"g{number}" for number in range(12)))
    with pytest.raises(errors.InvalidInput, match="not made by surgery on this reference"):
        import_legacy(folder / "query", reference=other)


def test_a_reference_of_another_kind() -> None:
    with pytest.raises(errors.Unsupported, match="describes a model of trvae, not of scpoli"):
        import_legacy(LEGACY / "scpoli-0.5.8" / "query", reference=LEGACY / "trvae-0.3.0")


@pytest.mark.slow
def test_an_imported_reference_is_mapped_onto() -> None:
    """Surgery and training on an imported reference leave its own cells where they were."""
    folder = LEGACY / "scpoli-0.5.8"
    reference = import_legacy(folder / "reference")
    known, _ = cells_of(folder / "reference")
    query, _ = cells_of(folder / "query")
    conditions = {"batch": "batch"}
    mapping = hub_client.map_query(query, reference, conditions=conditions, seed=0, accelerator="cpu", progress=False)
    before, after = (
        hub_client.embed(model, hub_client.align(known, model, conditions=conditions))
        for model in (reference, mapping.model)
    )
    assert np.array_equal(before, after)
    assert set(mapping.adata.obs["cell_type_pred"]) <= {"NK", "T", "B"}


# --- version 0.6.1 ---------------------------------------------------------------------------------------------------


@recorded
def test_recorded_folders_are_the_recorded_models(name: str, shared_legacy: Find) -> None:
    """Bit for bit: what the golden tests hold to scArches' numbers holds for imports."""
    recording = Recording(name)
    before = shared_legacy(recording.reference.name) if recording.reference else None
    found, expected = import_legacy(shared_legacy(name), reference=before), recording.model()
    assert found.tensors().keys() == expected.tensors().keys()
    assert all(torch.equal(tensor, found.tensors()[part]) for part, tensor in expected.tensors().items())
    same = {"name": expected.manifest.name, "imported_from": None}
    assert found.manifest.model_copy(update=same) == expected.manifest


@recorded
def test_recorded_latents(name: str, shared_legacy: Find) -> None:
    recording = Recording(name)
    found = import_legacy(shared_legacy(name)).network.embed(recording.cells())
    assert_allclose(found, recording.outputs["latent_mean"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["trvae_mse_boundary", "trvae_nb", "trvae_zinb_mmdy_bn", "expimap_nb", "expimap_mse"])
def test_recorded_decoder_layer(name: str, shared_legacy: Find) -> None:
    """scArches' get_y without noise."""
    recording, model = Recording(name), import_legacy(shared_legacy(name))
    assert isinstance(model.network, TrVAE | ExpiMap)
    cells = recording.cells().rows(np.arange(24))
    found = model.network.decoder_layer(cells, model.network.embed(cells))
    assert_allclose(found, recording.outputs["y_eps0_first24"], **CLOSE)


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("scpoli")])
def test_recorded_labels(name: str, shared_legacy: Find) -> None:
    recording, model = Recording(name), import_legacy(shared_legacy(name))
    assert isinstance(model.network, ScPoli)
    latent = model.network.embed(recording.cells())
    for level, scores in model.network.score(latent).items():
        expected = {
            part: recording.outputs[f"classify_dist__{level}__{part}"] for part in ("preds", "weighted_distances")
        }
        assert np.array_equal(np.array(scores.labels)[scores.values.argmin(axis=1)], expected["preds"])
        assert_allclose(scores.values, expected["weighted_distances"], **CLOSE)
    means, covariances = model.network.labelled_prototypes()
    order = [
        list(recording.attributes["cell_types_"]).index(label)
        for level in model.manifest.labels
        for label in level.categories
    ]
    assert_allclose(means, recording.outputs["prototypes_labeled_mean"][order], **CLOSE)
    assert_allclose(covariances, recording.outputs["prototypes_labeled_cov"][order], **CLOSE)
    points = recording.outputs.get("prototypes_unlabeled_mean", np.zeros((0, means.shape[1])))
    assert_allclose(model.network.unlabelled, points, **CLOSE)


@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_directions(name: str, shared_legacy: Find) -> None:
    """scArches' are of the sum of the weights; the manifest's, of the program's expression."""
    outputs, model = Recording(name).outputs, import_legacy(shared_legacy(name))
    terms = model.manifest.terms
    assert term_directions(model, method="sum").signs.tolist() == outputs["directions_sum"].tolist()
    assert [term.direction for term in terms] == term_directions(model).signs.tolist()
    annotated = [term.kind == "annotated" for term in terms]
    active = np.array([term.active for term in terms])
    assert np.array_equal(active[annotated], outputs["nonzero_terms"][annotated])


@pytest.mark.parametrize("name", ["expimap_nb", "expimap_nb_strong", "expimap_nb_query_ext"])
@pytest.mark.parametrize("tag", ["rest", "rest_dirs", "vs"])
def test_recorded_enrichment(name: str, tag: str, shared_legacy: Find) -> None:
    recording, model = Recording(name), import_legacy(shared_legacy(name))
    assert isinstance(model.network, ExpiMap)
    mean, variance = model.network.posterior(recording.cells())
    summed = term_directions(model, method="sum").signs
    signs = summed if tag == "rest_dirs" else np.ones_like(summed)
    prefix = f"enrich_{tag}__"
    groups = {found.removeprefix(prefix).split("__")[0] for found in recording.outputs if found.startswith(prefix)}
    assert groups
    for group in groups:
        drawn = [recording.outputs[f"{prefix}{group}__idx{side}"] for side in (1, 2)]
        (mean_1, variance_1), (mean_2, variance_2) = ((mean[rows] * signs, variance[rows]) for rows in drawn)
        found = bayes_factors(mean_1, variance_1, mean_2, variance_2)
        said = {part: recording.outputs[f"{prefix}{group}__{part}"] for part in ("p_h0", "p_h1", "bf")}
        assert_allclose(found.bf, said["bf"], **CLOSE)
        assert_allclose(found.p_h0[signs != 0], said["p_h0"][signs != 0], **CLOSE)
        assert_allclose(found.p_h1[signs != 0], said["p_h1"][signs != 0], **CLOSE)


@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_genes_of_terms(name: str, shared_legacy: Find) -> None:
    """By the names that were recorded; scArches does not save them with the model."""
    folder = shared_legacy(name)
    weighted = json.loads((folder.parent / "term_genes.json").read_text())
    masked = json.loads((folder.parent / "mask_genes.json").read_text())
    model = import_legacy(folder, term_names=list(weighted))
    assert isinstance(model.network, ExpiMap)
    weights, genes = model.network.term_weights(), np.array(model.manifest.genes.names)
    for index, term in enumerate(model.manifest.terms):
        used = np.flatnonzero(weights[:, index])
        order = used[np.argsort(-np.abs(weights[used, index]), kind="stable")]
        expected = weighted[term.name]
        assert_allclose(weights[order, index], expected["weights"], **CLOSE)
        assert set(genes[used]) == set(expected["genes"])
        inside = dict(zip(expected["genes"], expected["in_mask"], strict=True))
        assert {gene for gene in inside if inside[gene]} == {*term.genes} & set(genes[used])
        if term.kind == "annotated":
            assert [*term.genes] == masked[term.name]


@pytest.mark.parametrize("name", [name for name in RECORDED if "query" in name])
def test_surgery_copied_the_references_rows(name: str, shared_legacy: Find) -> None:
    """Right after scArches' surgery the reference's rows are those of the reference, and after training still first."""
    recording = Recording(name)
    assert recording.reference is not None
    model, reference = recording.model(state="initial_state"), recording.reference.model()
    for part, tensor in reference.tensors().items():
        grown = model.tensors()[part]
        if part.endswith(".rows"):
            assert torch.equal(grown[: len(tensor)], tensor), part
    imported = import_legacy(shared_legacy(name), reference=shared_legacy(recording.reference.name))
    known = {key: axis.reference for key, axis in imported.vocabulary.conditions.items()}
    assert known == {key: len(axis) for key, axis in reference.vocabulary.conditions.items()}


# --- what is said of it ----------------------------------------------------------------------------------------------


def test_every_kind_is_an_architecture() -> None:
    assert KINDS.keys() <= ARCHITECTURES.keys()


def test_where_it_came_from() -> None:
    folder = LEGACY / "scpoli-0.5.9"
    origin = import_legacy(folder).manifest.imported_from
    assert origin is not None and origin.format == "scarches"
    digests = {file.path: file.sha256 for file in origin.files}
    assert digests == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("attr.pkl", "model_params.pt", "var_names.csv")
    }
    assert origin.lost == (
        "labeled_indices_: which of the training cells were labelled",
        "obs_metadata_: the obs columns of one cell of each condition",
        "prototypes_labeled_: how many cells are behind each prototype (scArches does not save it)",
        "the obs column 'cell type', called 'cell_type' here",
        TRAINING,
    )


def test_what_else_is_lost(tmp_path: Path) -> None:
    folder = edited(LEGACY / "trvae-0.3.0", tmp_path / "My Model (2021)", our_own_="x", is_trained_=False)
    (folder / "adata.h5ad").write_bytes(b"cells")
    found = import_legacy(folder).manifest
    assert found.name == "my-model-2021"
    assert found.imported_from is not None
    assert found.imported_from.lost == (
        "our_own_: no attribute of scArches' models",
        "adata.h5ad: its cells",
        UNTRAINED,
    )
    assert found.imported_from.files[-1].path == "adata.h5ad"


def test_a_model_without_labels_loses_none(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"cell_types_": {}, "cell_type_keys_": [], "labeled_indices_": [], "obs_metadata_": []}
    nothing |= {"prototypes_labeled_": {"mean": None, "cov": None}}
    found = import_legacy(edited(LEGACY / "scpoli-0.5.9", tmp_path / "model", **nothing)).manifest
    assert found.labels == ()
    assert found.imported_from is not None and found.imported_from.lost == (TRAINING,)


@pytest.mark.parametrize(
    ("given", "known"),
    [("mouse", ORGANISMS["mouse"]), ("NCBITaxon:9606", ORGANISMS["human"]), (None, None)]
    + [(term, term) for term in [OntologyTerm(id="NCBITaxon:1", label="root", release="2026")]],
)
def test_organisms(given: Any, known: OntologyTerm | None) -> None:
    assert import_legacy(LEGACY / "trvae-0.3.0", organism=given).manifest.organism == known


def test_an_organism_that_is_not_known() -> None:
    with pytest.raises(errors.InvalidInput, match="organism is 'unicorn'; it is one of human, mouse"):
        import_legacy(LEGACY / "trvae-0.3.0", organism="unicorn")


def test_gene_ids_in_order_and_by_name() -> None:
    ids = [f"ENSG{number:011}" for number in range(12)]
    by_order = import_legacy(LEGACY / "trvae-0.3.0", gene_ids=ids).manifest.genes
    assert [gene.id for gene in by_order.panel] == ids
    assert (by_order.id_type, by_order.panel[0].symbol) == ("symbol", "ACTB")
    by_name = import_legacy(LEGACY / "trvae-0.3.0", gene_ids={"CD3E": "ENSG00000198851.10"}).manifest.genes
    assert [gene.id for gene in by_name.panel][:3] == [None, "ENSG00000198851", None]


@pytest.mark.parametrize(
    ("ids", "said"),
    [(["ENSG00000198851"], "1 ids for 12 genes"), ({"CD4": "ENSG00000010610"}, "names CD4, which the model does not")],
)
def test_gene_ids_that_do_not_fit(ids: Any, said: str) -> None:
    with pytest.raises(errors.InvalidInput, match=said):
        import_legacy(LEGACY / "trvae-0.3.0", gene_ids=ids)


def test_gene_ids_that_are_none() -> None:
    with pytest.raises(errors.ManifestError, match="id"):
        import_legacy(LEGACY / "trvae-0.3.0", gene_ids={"CD3E": "no id"})


def test_terms_are_named(tmp_path: Path) -> None:
    folder = LEGACY / "expimap-0.5.0"
    bare = import_legacy(folder).manifest
    assert bare.imported_from is not None and NAMES in bare.imported_from.lost
    mask = pickle.loads((folder / "attr.pkl").read_bytes())["mask_"]
    assert [term.genes for term in bare.terms] == [
        tuple(name for name, inside in zip(bare.genes.names, row, strict=True) if inside) for row in mask
    ]
    names = [f"program {number}" for number in range(5)]
    told = import_legacy(folder, term_names=names).manifest
    assert [term.name for term in told.terms] == names
    assert told.imported_from is not None and NAMES not in told.imported_from.lost
    genes = [[gene.lower() for gene in term.genes] for term in bare.terms]
    programs = [Program(f"R-{number}", names[number], tuple(genes[number])) for number in (3, 1, 4, 0, 2)]
    found = import_legacy(folder, term_names=programs).manifest
    assert [(term.id, term.name) for term in found.terms] == [(f"R-{n}", name) for n, name in enumerate(names)]
    by_sum = term_directions(import_legacy(folder), method="sum").signs
    assert by_sum.tolist() == cells_of(folder)[1]["directions"].tolist()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_kinds_are_told_apart() -> None:
    assert import_legacy(LEGACY / "trvae-0.3.0", kind="trvae").manifest.architecture.kind == "trvae"
    with pytest.raises(errors.Unsupported, match="describes a model of trvae, not of scpoli"):
        import_legacy(LEGACY / "trvae-0.3.0", kind="scpoli")
    with pytest.raises(errors.InvalidInput, match="kind is 'scgen'; it is one of scpoli"):
        import_legacy(LEGACY / "trvae-0.3.0", kind="scgen")


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    folder = copytree(LEGACY / "trvae-0.3.0", tmp_path / "scgen")
    (folder / "attr.pkl").write_bytes(pickle.dumps({"z_dim_": 10, "input_dim_": 12}))
    with pytest.raises(
        errors.Unsupported, match="describes none of scpoli, expimap, trvae: it has input_dim_, z_dim_"
    ) as refused:
        import_legacy(folder)
    assert refused.value.verb == "import"


@pytest.mark.parametrize("missing", ["latent_dim_", "conditions_", "hidden_layer_sizes_"])
@pytest.mark.parametrize("name", ["trvae-0.3.0", "scpoli-0.5.9"])
def test_attributes_that_are_missing(name: str, missing: str, tmp_path: Path) -> None:
    folder = edited(LEGACY / name, tmp_path / "model", without=missing)
    with pytest.raises(errors.IntegrityError, match=f"lack '{missing}'"):
        import_legacy(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions_": 3},
        {"hidden_layer_sizes_": "wide"},
        {"latent_dim_": "ten"},
        {"latent_dim_": -1},
        {"recon_loss_": "nb_dist"},
        {"conditions_": ["b0", "b0"]},
        {"dr_rate_": 2.0},
    ],
)
def test_attributes_that_are_wrong(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((errors.IntegrityError, errors.ManifestError)):
        import_legacy(edited(LEGACY / "trvae-0.3.0", tmp_path / "model", **changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("theta"), r"theta\.rows is None, not \(2, 12\)"),
        (lambda state: state.update(theta=torch.zeros(12, 3)), r"theta\.rows is \(3, 12\), not \(2, 12\)"),
        (lambda state: state.update(theta=torch.zeros(1, 1)), r"theta\.rows is \(1, 1\)"),
        (lambda state: state["theta"].fill_(torch.nan), "holds NaN"),
    ],
)
def test_tensors_of_another_model(change: Callable[[Any], object], said: str, tmp_path: Path) -> None:
    folder = with_state(LEGACY / "trvae-0.3.0", tmp_path / "model", change)
    with pytest.raises(errors.IntegrityError, match=said) as refused:
        import_legacy(folder)
    assert refused.value.file == "model_params.pt"


@pytest.mark.parametrize("changes", [{"hidden_layer_sizes_": [10**7, 10**7]}, {"latent_dim_": 10**12}])
def test_sizes_that_are_only_claimed(changes: dict[str, Any], tmp_path: Path) -> None:
    """A network of that size would not fit into memory."""
    with pytest.raises(errors.IntegrityError, match=r"claims more than|does not hold the weights of the model"):
        import_legacy(edited(LEGACY / "trvae-0.3.0", tmp_path / "model", **changes))


@pytest.mark.parametrize("name", ["trvae-0.3.0", "scpoli-0.5.9"])
def test_tensors_that_such_a_model_does_not_have(name: str, tmp_path: Path) -> None:
    folder = with_state(
        LEGACY / name, tmp_path / "model", lambda state: state.update({"classifier.weight": torch.ones(2)})
    )
    with pytest.raises(errors.ManifestError, match=r"no tensors classifier\.weight"):
        import_legacy(folder)


def test_labels_that_surgery_added_and_nobody_trained(tmp_path: Path) -> None:
    """They have no prototype yet, and no cell is called by them."""
    types = {"NK": ["cell type"], "T": ["cell type"], "B": ["cell type"], "new": ["cell type"]}
    folder = LEGACY / "scpoli-0.5.9"
    model = import_legacy(edited(folder, tmp_path / "model", cell_types_=types))
    _, said = cells_of(folder)
    assert model.manifest.labels[0].categories == ("NK", "T", "B", "new")
    assert model.tensors()["prototypes.0.cells"].tolist() == [1, 1, 1, 0]
    found = model.network.score(said["latent_mean"].astype("float32"))["cell_type"]
    assert "new" not in {found.labels[index] for index in found.values.argmin(axis=1)}


@pytest.mark.slow
@given(edits=st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=4)), min_size=1, max_size=3))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_attributes_end_with_errors_of_ours(tmp_path: Path, edits: list[tuple[int, bytes]]) -> None:
    folder = copytree(LEGACY / "scpoli-0.5.9", tmp_path / "model", dirs_exist_ok=True)
    content = bytearray((LEGACY / "scpoli-0.5.9" / "attr.pkl").read_bytes())
    for where, what in edits:
        start = where % len(content)
        content[start : start + len(what)] = what
    (folder / "attr.pkl").write_bytes(bytes(content))
    with suppress(errors.HubClientError):
        assert isinstance(import_legacy(folder), Model)
