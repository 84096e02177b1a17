"""scArches' own folders through compat's classes: load() and load_query_data() as in scArches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose

from hub_client import errors
from hub_client.compat import EXPIMAP, TRVAE, scPoli
from tests.golden.recorded import Recording
from tests.golden.test_expimap import QUERIES
from tests.golden.test_expimap import REFERENCES as EXPIMAPS
from tests.golden.test_trvae import QUERY
from tests.golden.test_trvae import REFERENCES as TRVAES

LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
TWO_KEYS, ONE_KEY = LEGACY / "scpoli-0.5.9", LEGACY / "scpoli-0.5.8" / "reference"


def cells_of(folder: Path) -> AnnData:
    """The cells old scArches was given; their labels under a name that a manifest can hold."""
    with np.load(folder / "outputs.npz", allow_pickle=False) as found:
        obs = {name: found[f"obs/{name}"] for name in ("batch", "tech")} | {"cell_type": found["obs/cell type"]}
        counts = found["X"].astype("float32")
    genes = (folder / "var_names.csv").read_text().splitlines()
    return AnnData(counts, obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(90)]), var=pd.DataFrame(index=genes))


def latent_of(folder: Path) -> np.ndarray:
    with np.load(folder / "outputs.npz", allow_pickle=False) as found:
        return found["latent_mean"]


def test_a_folder_of_scarches_is_loaded() -> None:
    cells = cells_of(TWO_KEYS)
    model = scPoli.load(str(TWO_KEYS), adata=cells)
    assert_allclose(model.get_latent(cells, mean=True), latent_of(TWO_KEYS), rtol=0, atol=1e-5)
    assert model.conditions_ == {"batch": ["b0", "b1"], "tech": ["v3", "v2"]}
    assert model.labeled_indices_ == range(90)
    assert model.is_trained_ and model.share_metadata_
    assert set(model.classify(cells)["cell_type"]["preds"]) <= {"NK", "T", "B"}


SAME = {
    "trvae": (TRVAE, frozenset()),
    "expimap": (EXPIMAP, frozenset({"decoder_last_layer_"})),  # the layer itself, where scArches keeps None
    "scpoli": (
        scPoli,
        frozenset({"beta_", "labeled_indices_", "mmd_boundary_", "mmd_on_", "prototype_training_"})
        | {"unlabeled_prototype_training_"},
    ),
}
"""The class of each kind, and what it does not tell of the attributes as scArches does."""
RECORDED = [*TRVAES, QUERY, *EXPIMAPS, *QUERIES]
RECORDED += ["scpoli_default", "scpoli_multi", "scpoli_unknown_zinb", "scpoli_mse_encoder_only"]
RECORDED += ["scpoli_query_unlabeled", "scpoli_multi_query_newtype"]


@pytest.mark.parametrize("name", RECORDED)
def test_attributes_are_those_that_were_saved(name: str, shared_legacy: Callable[[str], Path]) -> None:
    recording = Recording(name)
    cls, others = SAME[recording.kind]
    found = cls.load(str(shared_legacy(name)))
    said = {key: value for key, value in recording.facts["attrs"].items() if key not in others}
    assert {key: getattr(found, key) for key in said} == said


def test_its_cells_are_read_too(tmp_path: Path) -> None:
    folder = copytree(TWO_KEYS, tmp_path / "model")
    cells_of(TWO_KEYS).write_h5ad(folder / "adata.h5ad")
    model = scPoli.load(str(folder))
    assert model.adata is not None and model.adata.n_obs == 90


def test_what_obs_says_of_conditions_is_kept() -> None:
    found = scPoli.load(str(ONE_KEY)).get_conditional_embeddings()
    assert isinstance(found, AnnData)
    assert found.obs_names.tolist() == ["b0", "b1"]
    assert {"tech", "age", "dead"} <= set(found.obs)
    grown = scPoli.load(str(ONE_KEY.with_name("query"))).get_conditional_embeddings()
    assert isinstance(grown, AnnData) and grown.obs_names.tolist() == ["b0", "b1", "q0"]


def test_a_query_is_loaded_onto_a_folder_of_scarches() -> None:
    query = cells_of(ONE_KEY.with_name("query"))
    model = scPoli.load_query_data(query, str(ONE_KEY), labeled_indices=[])
    assert model.conditions_ == {"batch": ["b0", "b1", "q0"]}
    model.train(n_epochs=2, monitor=False)
    known = cells_of(ONE_KEY)
    assert_allclose(model.get_latent(known, mean=True), latent_of(ONE_KEY), rtol=0, atol=1e-5)


def test_what_was_loaded_is_saved_without_a_pickle(tmp_path: Path) -> None:
    scPoli.load(str(TWO_KEYS)).save(str(tmp_path / "release"))
    assert sorted(path.name for path in (tmp_path / "release").iterdir()) == [
        "README.md",
        "manifest.json",
        "model.safetensors",
    ]
    cells = cells_of(TWO_KEYS)
    again = scPoli.load(str(tmp_path / "release"), adata=cells)
    assert_allclose(again.get_latent(cells, mean=True), latent_of(TWO_KEYS), rtol=0, atol=1e-5)


def test_a_folder_of_another_class() -> None:
    with pytest.raises(errors.Unsupported, match="describes a model of trvae, not of scpoli"):
        scPoli.load(str(LEGACY / "trvae-0.3.0"))


@pytest.mark.parametrize("labelled", [range(10**18), [0, 90], [-91]])
def test_positions_of_cells_that_there_are_not(labelled: range | list[int]) -> None:
    """A range of any length fits into a few bytes of a file."""
    model = scPoli.load(str(TWO_KEYS), adata=cells_of(TWO_KEYS))
    model.labeled_indices_ = labelled
    with pytest.raises(errors.InvalidInput, match="and there are 90 cells"):
        model.train(n_epochs=1, monitor=False)
