"""scArches' EXPIMAP class; its signatures are in test_compat_signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from hub_client import errors
from hub_client.compat import EXPIMAP, TRVAE
from hub_client.manifest.plan import Plan
from hub_client.models.architectures.expimap import ExpiMap
from tests.golden.recorded import HERE, Recording, anndata_of

pytestmark = pytest.mark.slow
FAST: dict[str, Any] = {"n_epochs": 4, "monitor": False}
MASK = np.load(HERE / "masks.npz", allow_pickle=False)["mask"]
EXT_MASK = np.load(HERE / "masks.npz", allow_pickle=False)["ext_mask"]
NAMES = [f"TERM_{number:02}" for number in range(12)]


def annotated(cells: AnnData) -> AnnData:
    cells.varm["I"] = MASK.T.copy()
    cells.uns["terms"] = list(NAMES)
    return cells


@pytest.fixture(scope="module")
def reference_cells() -> AnnData:
    return annotated(anndata_of("ref"))


@pytest.fixture(scope="module")
def query_cells() -> AnnData:
    return anndata_of("query")


@pytest.fixture(scope="module")
def reference(reference_cells: AnnData) -> EXPIMAP:
    model = EXPIMAP(reference_cells, condition_key="batch", hidden_layer_sizes=[32, 16])
    model.train(n_epochs=10, lr=0.01, eps=1e-8, weight_decay=0.0, alpha=1.0, monitor=False)
    return model


def recorded(name: str, cells: AnnData) -> EXPIMAP:
    return EXPIMAP._around(Recording(name).model(), cells)


def mean_of(model: EXPIMAP, x: Any = None, c: Any = None, **options: Any) -> NDArray[np.float32]:
    found = model.get_latent(x, c, mean=True, **options)
    assert isinstance(found, np.ndarray)
    return found


def network_of(model: EXPIMAP) -> ExpiMap:
    assert isinstance(model.model.network, ExpiMap)
    return model.model.network


def plan_of(model: EXPIMAP) -> Plan:
    assert model.model.manifest.training.plan is not None
    return model.model.manifest.training.plan


# --- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["expimap_nb", "expimap_nb_strong", "expimap_soft_lenc"])
def test_the_latent_is_scarches(name: str, reference_cells: AnnData) -> None:
    """From an AnnData with its genes in another order, and from arrays in the model's."""
    recording, model = Recording(name), recorded(name, reference_cells)
    shuffled = reference_cells[:, ::-1].copy()
    x, c = reference_cells.X, reference_cells.obs["batch"].to_numpy()
    for given in ((), (shuffled,), (x, c), (x.toarray(), c)):
        assert_allclose(mean_of(model, *given), recording.outputs["latent_mean"], rtol=0, atol=1e-5)
    mean, variance = model.get_latent(mean_var=True)
    assert_allclose(mean, recording.outputs["latent_mean"], rtol=0, atol=1e-5)
    assert_allclose(variance, recording.outputs["latent_var"], rtol=0, atol=1e-5)


def test_only_active_terms(reference_cells: AnnData) -> None:
    recording, model = Recording("expimap_nb_strong"), recorded("expimap_nb_strong", reference_cells)
    active = model.nonzero_terms()
    assert_array_equal(active, recording.outputs["nonzero_terms"])
    expected = recording.outputs["latent_mean_only_active"]
    assert_allclose(mean_of(model, only_active=True), expected, rtol=0, atol=1e-5)
    mean, variance = model.get_latent(only_active=True, mean_var=True)
    assert_allclose(mean, expected, rtol=0, atol=1e-5)
    assert variance.shape == expected.shape
    assert_array_equal(model.get_latent(only_active=True), np.asarray(model.get_latent())[:, active])


def test_extensions_count_as_active(query_cells: AnnData) -> None:
    """Those without a weight too, as in scArches."""
    model = recorded("expimap_nb_query_ext", query_cells)
    weight = network_of(model).decoder.programs[1].weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        weight.zero_()
    assert model.nonzero_terms().tolist() == [True] * 17


def test_the_latent_is_sampled_unless_the_mean_is_asked_for(reference: EXPIMAP) -> None:
    sample, (mean, variance) = reference.get_latent(), reference.get_latent(mean_var=True)
    assert_array_equal(sample, reference.get_latent())
    scaled = (sample - mean) / np.sqrt(variance)
    assert abs(float(scaled.mean())) < 0.1
    assert abs(float(scaled.std()) - 1) < 0.1


def test_y_is_the_decoders_output(reference: EXPIMAP) -> None:
    sample, weights = np.asarray(reference.get_latent()), network_of(reference).term_weights()
    rows = network_of(reference).tensors()["decoder.condition.rows"].numpy()
    assert reference.adata is not None
    codes = [reference.conditions_.index(name) for name in reference.adata.obs["batch"]]
    assert_allclose(reference.get_y(), sample @ weights.T + rows[codes], atol=1e-5)


# --- terms -----------------------------------------------------------------------------------------------------------


def test_names_of_terms_are_saved(reference: EXPIMAP, reference_cells: AnnData, tmp_path: Path) -> None:
    reference.save(str(tmp_path / "model"))
    bare = reference_cells.copy()
    del bare.uns["terms"], bare.varm["I"]
    loaded = EXPIMAP.load(str(tmp_path / "model"), adata=bare)
    assert list(loaded.mask_genes()) == NAMES
    assert loaded.mask_genes() == reference.mask_genes()
    pd.testing.assert_frame_equal(loaded.term_genes("TERM_03"), reference.term_genes("TERM_03"))
    assert loaded.mask_ == MASK.tolist()


def test_repeated_and_missing_names(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cells.uns["terms"] = ["A", "B", "A", *NAMES[3:]]
    model = EXPIMAP(cells, condition_key="batch", hidden_layer_sizes=[8])
    assert [term.name for term in model.model.manifest.terms][:3] == ["A", "B", "A (2)"]
    del cells.uns["terms"]
    numbered = EXPIMAP(cells, condition_key="batch", hidden_layer_sizes=[8])
    assert list(numbered.mask_genes())[:2] == ["term_0", "term_1"]


def test_genes_of_terms(query_cells: AnnData) -> None:
    """By position, by names that are given, and by those of ``uns``, with extensions numbered behind them."""
    cells = query_cells.copy()
    cells.uns["terms"], cells.uns["mine"] = list(NAMES), [f"my {name}" for name in NAMES]
    model = recorded("expimap_nb_query_ext", cells)
    expected = Recording("expimap_nb_query_ext").part("term_genes")
    for found in (model.term_genes("constrained_1"), model.term_genes(13), model.term_genes(13, terms=NAMES)):
        assert found["genes"].tolist() == expected["constrained_1/genes"].tolist()
        assert_allclose(found["weights"], expected["constrained_1/weights"], rtol=1e-6)
        assert_array_equal(found["in_mask"], expected["constrained_1/in_mask"])
    pd.testing.assert_frame_equal(model.term_genes("my TERM_04", terms="mine"), model.term_genes(4))
    assert list(model.mask_genes("mine")) == [*cells.uns["mine"], "constrained_0", "constrained_1"]
    assert list(model.mask_genes([*NAMES, "a", "b", "c", "d", "e"])) == [*NAMES, "a", "b"]
    with pytest.raises(errors.VocabularyError, match="no term 'TNF'"):
        model.term_genes("TNF")
    with pytest.raises(errors.VocabularyError, match="no 'yours' with names of terms; it has terms, mine"):
        model.term_genes(0, terms="yours")
    with pytest.raises(errors.InvalidInput, match="2 names for 12 terms of the mask and 5 extensions"):
        model.mask_genes(["a", "b"])


def test_names_are_completed(query_cells: AnnData) -> None:
    cells = query_cells.copy()
    cells.uns["terms"] = list(NAMES)
    model = recorded("expimap_nb_query_ext", cells)
    extensions = ["constrained_0", "constrained_1", "unconstrained_0", "unconstrained_1", "unconstrained_2"]
    assert model.update_terms(NAMES) == [*NAMES, *extensions]
    assert cells.uns["terms"] == NAMES
    assert model.update_terms() is None
    assert cells.uns["terms"] == [*NAMES, *extensions]
    other = query_cells.copy()
    other.uns["sets"] = list(NAMES)
    model.update_terms("sets", adata=other)
    assert other.uns["sets"] == [*NAMES, *extensions]


@pytest.mark.parametrize("name", ["expimap_nb_strong", "expimap_soft_lenc"])
def test_directions_are_written(name: str, reference_cells: AnnData) -> None:
    cells, outputs = reference_cells.copy(), Recording(name).outputs
    model = recorded(name, cells)
    model.latent_directions()
    assert_array_equal(cells.uns["directions"], outputs["directions_sum"])
    assert "directions_confindence" not in cells.uns
    other = AnnData(np.zeros((1, 1), dtype=np.float32))
    model.latent_directions(method="counts", get_confidence=True, adata=other, key_added="ways")
    assert_array_equal(other.uns["ways"], outputs["directions_counts"])
    assert_allclose(other.uns["ways_confindence"], outputs["directions_counts_confidence"], atol=1e-6)
    with pytest.raises(errors.InvalidInput, match="method is 'mean'"):
        model.latent_directions(method="mean")  # type: ignore[arg-type]


# --- enrichment ------------------------------------------------------------------------------------------------------


def enriched(model: EXPIMAP, cells: AnnData, **options: Any) -> dict[str, dict[str, NDArray[np.float64]]]:
    model.latent_enrich(adata=cells, key_added="found", **options)
    found: dict[str, dict[str, NDArray[np.float64]]] = cells.uns.pop("found")
    return found


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tag", ["rest", "rest_dirs", "vs", "sel"])
def test_enrichment_is_scarches(tag: str, exact: bool, reference_cells: AnnData) -> None:
    """But for the draws: 5,000 here, 150 there."""
    cells, outputs = reference_cells.copy(), Recording("expimap_nb").outputs
    model = recorded("expimap_nb", cells)
    model.latent_directions()
    options: dict[str, dict[str, Any]] = {
        "rest": {"groups": "cell_type"},
        "rest_dirs": {"groups": "cell_type", "use_directions": True},
        "vs": {"groups": "cell_type", "comparison": "T"},
        "sel": {"groups": "cell_class", "select_terms": [1, 3, 4]},
    }
    found = enriched(model, cells, exact=exact, **options[tag])
    expected = {key.split("__")[1] for key in outputs if key.startswith(f"enrich_{tag}__")}
    assert set(found) == expected
    for group, values in found.items():
        theirs = outputs[f"enrich_{tag}__{group}__p_h0"]
        assert values["p_h0"].shape == theirs.shape
        assert np.abs(values["p_h0"] - theirs).max() < 0.15
        assert_allclose(values["p_h0"] + values["p_h1"], 1, atol=1e-6)
        assert_allclose(values["bf"], np.log(values["p_h0"] / values["p_h1"]), atol=1e-5)


def test_terms_without_a_direction_have_no_factor(reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    model = recorded("expimap_nb_strong", cells)
    model.latent_directions()
    found = enriched(model, cells, groups="cell_class", use_directions=True)
    silent = cells.uns["directions"] == 0
    assert silent.sum() == 4
    for values in found.values():
        for part in ("p_h0", "p_h1", "bf"):
            assert_array_equal(values[part] == 0, silent)


def test_groups_by_their_cells(reference: EXPIMAP, reference_cells: AnnData) -> None:
    """As by a column; what is found is written to the AnnData that is given, and a group may be called ``res``."""
    cells = reference_cells.copy()
    names = {kind: list(part.index) for kind, part in cells.obs.groupby("cell_class", observed=True)}
    by_cells = enriched(reference, cells, groups={"res": names["lymph"], "t": names["myelo"]}, n_sample=2000)
    by_column = enriched(reference, cells, groups="cell_class", n_sample=2000)
    assert list(by_cells) == ["res", "t"]
    assert_allclose(by_cells["res"]["p_h0"], by_column["lymph"]["p_h0"], atol=0.05)
    some = enriched(reference, cells, groups={"a": names["lymph"][:50], "b": names["lymph"][50:100]})
    assert np.abs(some["a"]["bf"]).max() < np.abs(by_column["lymph"]["bf"]).max()


def test_cells_without_a_group_are_left_out(reference: EXPIMAP, reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cells.obs["part"] = cells.obs["cell_type"].where(cells.obs["cell_type"] != "NK")
    found = enriched(reference, cells, groups="part", comparison=["B", "T"])
    assert list(found) == ["Mono"]
    np.random.seed(3)
    again = enriched(reference, cells, groups="part", comparison=["B", "T"])
    assert_array_equal(found["Mono"]["bf"], again["Mono"]["bf"])


def test_groups_that_there_are_not(reference: EXPIMAP, reference_cells: AnnData) -> None:
    cells = reference_cells.copy()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"groups": "donor"}, errors.VocabularyError, "no column 'donor'"),
        ({"groups": "cell_type", "comparison": "Platelet"}, errors.VocabularyError, "comparison names Platelet"),
        ({"groups": {"a": ["nobody"]}}, errors.VocabularyError, "no cells nobody"),
        ({"groups": {"a": list(cells.obs_names)}}, errors.VocabularyError, "only the group 'a'"),
        ({"groups": "cell_type", "use_directions": True}, errors.InvalidInput, "no 'directions' with a direction"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            enriched(reference, cells, **options)


# --- training --------------------------------------------------------------------------------------------------------


def test_documented_defaults_of_training(reference_cells: AnnData) -> None:
    model = EXPIMAP(reference_cells, condition_key="batch", hidden_layer_sizes=[8])
    model.train(**FAST)
    plan = plan_of(model)
    assert (plan.kl_weight, plan.kl_anneal_epochs, plan.epochs) == (0.35, 4, 4)
    assert (
        plan.expimap.group_lasso,
        plan.expimap.soft_mask_l1,
        plan.expimap.extension_l1,
        plan.expimap.hsic_weight,
    ) == (0, 0, 0, 1)
    assert (plan.learning_rate, plan.adam_epsilon, plan.weight_decay, plan.batch_size) == (1e-3, 0.01, 0.04, 128)
    assert (plan.sampling, plan.keep_best) == ("stratified", True)


def test_arguments_of_training(reference_cells: AnnData) -> None:
    model = EXPIMAP(reference_cells, condition_key="batch", hidden_layer_sizes=[8], soft_mask=True, n_ext=1)
    omega = torch.linspace(0.5, 2, 12)
    annealed = {"alpha_l1_epoch_anneal": 10, "alpha_l1_anneal_each": 2, "gamma_epoch_anneal": 20}
    model.train(
        **FAST, alpha=0.7, omega=omega, alpha_l1=0.5, gamma_ext=0.3, beta=2.0, alpha_epoch_anneal=None, **annealed
    )
    plan = plan_of(model)
    assert (
        plan.expimap.group_lasso,
        plan.expimap.soft_mask_l1,
        plan.expimap.extension_l1,
        plan.expimap.hsic_weight,
    ) == (0.7, 0.5, 0.3, 2.0)
    assert_allclose(plan.expimap.group_lasso_scale, omega)
    assert (plan.expimap.soft_mask_l1_anneal_epochs, plan.expimap.soft_mask_l1_anneal_every) == (10, 2)
    assert (plan.expimap.extension_l1_anneal_epochs, plan.expimap.extension_l1_anneal_every) == (20, 5)
    assert plan.kl_anneal_epochs == 0
    model.train(**FAST, alpha_iter_anneal=100, beta=None)
    assert plan_of(model).kl_anneal_epochs == 50
    assert plan_of(model).expimap.hsic_weight == 0


def test_the_group_lasso_switches_terms_off(reference_cells: AnnData) -> None:
    active = {}
    for alpha in (None, 30.0):
        model = EXPIMAP(reference_cells, condition_key="batch", hidden_layer_sizes=[16])
        model.train(n_epochs=20, lr=0.01, eps=1e-8, alpha=alpha, monitor=False)
        active[alpha] = int(model.nonzero_terms().sum())
        assert mean_of(model, only_active=True).shape[1] == active[alpha]
    assert active[None] == 12 > active[30.0]


VARIANTS: dict[str, dict[str, Any]] = {
    "soft mask, library sizes, batch norm": {"soft_mask": True, "use_l_encoder": True, "use_bn": True, "use_ln": False},
    "softplus": {"decoder_last_layer": "softplus"},
    "exp": {"decoder_last_layer": "exp"},
    "relu": {"decoder_last_layer": "relu", "use_l_encoder": True},
    "extensions": {"n_ext": 2, "n_ext_m": 2, "ext_mask": EXT_MASK, "use_hsic": True, "soft_ext_mask": True},
    "mse": {"recon_loss": "mse"},
    "no condition": {"condition_key": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(reference_cells: AnnData, variant: str) -> None:
    options = {"condition_key": "batch", "hidden_layer_sizes": [16], **VARIANTS[variant]}
    cells = reference_cells.copy()
    if options.get("recon_loss") == "mse":
        cells.X = csr_matrix(np.log1p(cells.X.toarray()), dtype=np.float32)
    model = EXPIMAP(cells, **options)
    model.train(n_epochs=12, lr=0.005, eps=1e-8, monitor=False, alpha_l1=0.1, gamma_ext=0.1, alpha=0.1)
    assert model.history is not None
    fit = model.history.epochs["train_reconstruction"]
    assert fit.iloc[-1] < fit.iloc[0]
    assert model.use_l_encoder_ == (variant.startswith("soft mask"))
    assert model.is_trained_


def test_what_scarches_keeps(reference_cells: AnnData) -> None:
    model = EXPIMAP(
        reference_cells, condition_key="batch", mask=MASK.tolist(), n_ext=1, n_ext_m=2, ext_mask=EXT_MASK, use_hsic=True
    )
    assert (model.latent_dim_, model.n_ext_, model.n_ext_m_, model.input_dim_) == (12, 1, 2, 200)
    assert (model.mask_, model.ext_mask_) == (MASK.tolist(), EXT_MASK.tolist())
    assert (model.use_hsic_, model.hsic_one_vs_all_, model.soft_mask_, model.soft_ext_mask_) == (
        True,
        False,
        False,
        False,
    )
    assert (model.decoder_last_layer_, model.recon_loss_, model.hidden_layer_sizes_) == ("softmax", "nb", [256, 256])
    assert (model.condition_key_, model.conditions_, model.dr_rate_) == ("batch", ["b0", "b1", "b2"], 0.05)
    assert mean_of(model).shape == (300, 15)


@pytest.mark.parametrize("stored", [np.asarray, csc_matrix, lambda mask: pd.DataFrame(mask)])
def test_masks_in_varm(reference_cells: AnnData, stored: Callable[[Any], Any]) -> None:
    cells = reference_cells.copy()
    mask = stored(MASK.T)
    if isinstance(mask, pd.DataFrame):
        mask.index = cells.var_names
        mask.columns = NAMES
    cells.varm["sets"] = mask
    model = EXPIMAP(cells, condition_key="batch", mask_key="sets", hidden_layer_sizes=[8])
    assert model.mask_ == MASK.tolist()


def test_what_cannot_be_done_is_refused_by_name(reference_cells: AnnData, query_cells: AnnData) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"recon_loss": "zinb"}, errors.Unsupported, "'zinb'; expiMap trains with nb, mse"),
        ({"mask_key": "sets"}, errors.InvalidInput, r"varm\['sets'\]"),
        ({"mask": MASK[:, :10]}, errors.InvalidInput, r"mask has shape \(12, 10\)"),
        ({"n_ext_m": 2}, errors.InvalidInput, "2 constrained terms without a mask"),
        ({"n_ext_m": 1, "ext_mask": EXT_MASK}, errors.InvalidInput, r"shape \(2, 200\); it has 1 rows"),
        ({"decoder_last_layer": "identity"}, errors.ManifestError, "identity gives negative means"),
        ({"decoder_last_layer": "tanh"}, errors.ManifestError, "last_layer"),
        ({"condition_key": "donor"}, errors.VocabularyError, "no column 'donor'"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            EXPIMAP(reference_cells, **{"condition_key": "batch", **options})
    model = EXPIMAP(reference_cells, condition_key="batch", hidden_layer_sizes=[8])
    with pytest.raises(errors.InvalidInput, match="learning_rate"):
        model.train(learning_rate=1)
    with pytest.raises(errors.InvalidInput, match="2 numbers for 12 annotated terms"):
        model.train(**FAST, alpha=1.0, omega=[1.0, 2.0])
    with pytest.raises(errors.Unsupported, match="trvae; EXPIMAP is for expimap"):
        EXPIMAP._around(TRVAE(query_cells).model, query_cells)


# --- surgery ---------------------------------------------------------------------------------------------------------


def test_a_query_leaves_the_reference_where_it_was(
    reference: EXPIMAP, reference_cells: AnnData, query_cells: AnnData
) -> None:
    model = EXPIMAP.load_query_data(query_cells, reference)
    assert model.conditions_ == ["b0", "b1", "b2", "q0", "q1"]
    before, of_query = mean_of(reference, reference_cells), mean_of(model)
    model.train(**FAST, alpha_kl=0.1, weight_decay=0.0)
    assert_array_equal(mean_of(model, reference_cells), before)
    assert np.abs(mean_of(model) - of_query).max() > 1e-4
    assert model.dr_rate_ == 0


@pytest.mark.parametrize("soft", [False, True])
def test_new_terms(reference: EXPIMAP, reference_cells: AnnData, query_cells: AnnData, soft: bool) -> None:
    model = EXPIMAP.load_query_data(
        query_cells,
        reference,
        new_n_ext=3,
        new_n_ext_m=2,
        new_ext_mask=EXT_MASK,
        new_soft_ext_mask=soft,
        use_hsic=True,
        hsic_one_vs_all=True,
    )
    assert (model.n_ext_, model.n_ext_m_, model.latent_dim_, model.soft_ext_mask_) == (3, 2, 12, soft)
    assert model.ext_mask_ == EXT_MASK.tolist()
    assert (model.use_hsic_, model.hsic_one_vs_all_) == (True, True)
    before = mean_of(reference, reference_cells)
    model.train(**FAST, alpha_l1=0.5, gamma_ext=0.7, beta=1.0)
    assert_array_equal(mean_of(model, reference_cells)[:, :12], before)
    assert list(model.mask_genes())[12:] == ["constrained_0", "constrained_1"]
    outside = ~np.isin(np.arange(200), np.flatnonzero(EXT_MASK[0]))
    assert bool(network_of(model).term_weights()[outside, 12].any()) == soft


def test_the_mask_of_new_terms_is_in_the_order_of_the_querys_genes(reference: EXPIMAP, query_cells: AnnData) -> None:
    order = np.random.default_rng(0).permutation(200)
    shuffled = query_cells[:, order].copy()
    model = EXPIMAP.load_query_data(shuffled, reference, new_n_ext_m=2, new_ext_mask=EXT_MASK[:, order])
    assert model.ext_mask_ == EXT_MASK.tolist()
    fewer = query_cells[:, :190].copy()
    model = EXPIMAP.load_query_data(fewer, reference, new_n_ext_m=2, new_ext_mask=EXT_MASK)
    assert model.ext_mask_ == EXT_MASK.tolist()


def test_extensions_are_added_to_those_there_are(
    reference: EXPIMAP, reference_cells: AnnData, query_cells: AnnData
) -> None:
    """And what the reference had of them is trained again unless ``unfreeze_ext`` is off; nothing else moves."""
    first = EXPIMAP.load_query_data(query_cells, reference, new_n_ext=1, new_n_ext_m=2, new_ext_mask=EXT_MASK)
    first.train(**FAST)
    before = mean_of(first, query_cells)
    second_cells = query_cells.copy()
    second_cells.obs["batch"] = "r0"
    for unfreeze in (True, False):
        second = EXPIMAP.load_query_data(second_cells, first, new_n_ext=1, unfreeze_ext=unfreeze)
        assert (second.n_ext_, second.n_ext_m_) == (2, 2)
        fresh = network_of(second).tensors()["decoder.programs.2.weight"]
        second.train(**FAST)
        after = mean_of(second, query_cells)
        assert_array_equal(after[:, :12], before[:, :12])
        assert np.array_equal(after[:, 12:15], before[:, 12:]) != unfreeze
        assert torch.equal(network_of(second).tensors()["decoder.programs.2.weight"], fresh) != unfreeze


@pytest.mark.parametrize("options", [{"freeze": False}, {"freeze_expression": False}])
def test_thawing_moves_the_reference(
    reference: EXPIMAP, reference_cells: AnnData, query_cells: AnnData, options: dict[str, bool]
) -> None:
    model = EXPIMAP.load_query_data(query_cells, reference, new_n_ext=1, **options)
    before = mean_of(model, reference_cells)
    started = network_of(model).tensors()["encoder.heads.1.mean.weight"]
    model.train(**FAST, alpha=0.5)
    assert np.abs(mean_of(model, reference_cells) - before)[:, :12].max() > 1e-4
    assert not torch.equal(network_of(model).tensors()["encoder.heads.1.mean.weight"], started)


def test_surgery_refuses_what_the_reference_settles(reference: EXPIMAP, query_cells: AnnData) -> None:
    with pytest.raises(errors.Unsupported, match="cannot change mask"):
        EXPIMAP.load_query_data(query_cells, reference, mask=MASK)
    with pytest.raises(errors.InvalidInput, match="2 constrained terms without a mask"):
        EXPIMAP.load_query_data(query_cells, reference, new_n_ext_m=2)
    kept = EXPIMAP.load_query_data(query_cells, reference, remove_dropout=False)
    assert kept.dr_rate_ == 0.05


# --- files and the caller's cells ------------------------------------------------------------------------------------


def test_save_and_load(reference: EXPIMAP, reference_cells: AnnData, query_cells: AnnData, tmp_path: Path) -> None:
    query = EXPIMAP.load_query_data(query_cells, reference, new_n_ext=1)
    query.train(**FAST)
    query.save(str(tmp_path / "query"), save_anndata=True)
    loaded = EXPIMAP.load(str(tmp_path / "query"))
    assert loaded.is_trained_
    assert_array_equal(mean_of(loaded), mean_of(query))
    before = mean_of(loaded, reference_cells)
    loaded.train(**FAST)
    assert_array_equal(mean_of(loaded, reference_cells)[:, :12], before[:, :12])
    from_folder = EXPIMAP.load_query_data(query_cells, str(tmp_path / "query"))
    assert from_folder.n_ext_ == 1


def test_the_callers_anndata_is_not_written_to(reference_cells: AnnData, query_cells: AnnData) -> None:
    """But for the keys of ``uns`` that the documented methods are there to fill."""
    cells = reference_cells.copy()
    before = cells.copy()
    model = EXPIMAP(cells, condition_key="batch", hidden_layer_sizes=[8])
    model.train(**FAST)
    model.term_genes(0)
    model.mask_genes()
    query = query_cells.copy()
    EXPIMAP.load_query_data(query, model, new_n_ext=1).train(**FAST)
    model.latent_directions()
    model.latent_enrich("cell_type", use_directions=True)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert (cells.X != before.X).nnz == 0
    assert set(cells.uns) == {"terms", "directions", "bf_scores"}
    assert cells.uns["terms"] == before.uns["terms"]
    assert (list(cells.varm), list(cells.obsm), list(query.uns)) == (["I"], [], [])
