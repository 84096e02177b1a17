"""What scArches' scPoli means in ours; its numbers are in test_golden_scpoli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hub_client import errors
from hub_client.interop.scarches_vaes import key_of, layer_names
from hub_client.interop.scpoli import manifest_of, relative_uncertainty, tensors_of
from hub_client.models.model import Model
from tests.golden.recorded import Recording

GENES = [f"g{number}" for number in range(200)]


def attributes(name: str = "scpoli_multi", **changed: Any) -> dict[str, Any]:
    return Recording(name).attributes | changed


def test_manifest() -> None:
    found = manifest_of(attributes(), GENES, name="old-model", unlabelled=3)
    config = found.architecture
    assert config.kind == "scpoli"
    assert (config.hidden, config.latent, config.dropout) == ((24,), 8, 0.05)
    assert (config.likelihood, config.normalization, config.inject) == ("nb", "layer", ("encoder", "decoder"))
    assert [(c.key, c.categories) for c in found.conditions] == [("batch", ("b0", "b2", "b1")), ("tech", ("v3", "v2"))]
    assert [c.encoding.dim for c in found.conditions if c.encoding.kind == "embedding"] == [5, 3]
    assert found.combinations[3].values == ("b1", "v2")
    assert found.prototypes.unlabelled == 3
    assert found.lineage is not None
    assert (found.version, found.lineage.relation) == ("1.0.0", "import")


def test_levels_get_their_own_labels() -> None:
    found = manifest_of(attributes(), GENES, name="old-model")
    assert {level.key: level.categories for level in found.labels} == {
        "cell_type": ("NK", "B", "Mono", "T"),
        "cell_class": ("lymph", "myelo"),
    }


def test_a_name_at_two_levels_has_a_prototype_at_each() -> None:
    types = {"B": ["cell_type", "cell_class"], "T": ["cell_type"], "myelo": ["cell_class"]}
    latent = torch.arange(24.0).reshape(3, 8)
    labelled = {"mean": latent, "cov": torch.zeros(3, 8, 8)}
    found = tensors_of(Recording("scpoli_multi").state, attributes(cell_types_=types), labelled=labelled)
    assert torch.equal(found["prototypes.0.means"], latent[[0, 1]])
    assert torch.equal(found["prototypes.1.means"], latent[[0, 2]])


def test_what_the_query_added_is_the_querys() -> None:
    query = Recording("scpoli_multi_query_newtype")
    assert query.reference is not None
    found = manifest_of(query.attributes, GENES, name="old-model", reference=query.reference.attributes)
    assert found.version == "1.1.0"
    assert found.conditions[0].added_in == {"q0": "1.1.0", "q1": "1.1.0"}
    assert [c.added_in for c in found.combinations] == [None] * 6 + ["1.1.0"] * 4
    assert [level.added_in for level in found.labels] == [{"NEWTYPE": "1.1.0"}, {"newclass": "1.1.0"}]


def test_a_count_of_known_conditions_is_enough() -> None:
    query = attributes("scpoli_query_unlabeled")
    known = query | {"conditions_": {"batch": query["conditions_"]["batch"][:3]}}
    found = manifest_of(query, GENES, name="old-model", reference=known)
    assert Model.build(found).vocabulary.conditions["batch"].reference == 3


@pytest.mark.parametrize(
    ("genes", "id_type"),
    [(["ENSG00000111640", "ENSMUSG00000051951"], "ensembl"), (["ENSG00000111640", "CD4"], "symbol")],
)
def test_gene_names(genes: list[str], id_type: str) -> None:
    found = manifest_of(attributes("scpoli_default"), genes, name="old-model").genes
    assert (found.id_type, found.names) == (id_type, tuple(genes))


def test_repeated_genes_are_refused() -> None:
    with pytest.raises(errors.ManifestError, match="gene names must be unique; repeated: g0"):
        manifest_of(attributes("scpoli_default"), ["g0", "g1", "g0"], name="old-model")


def test_conditions_with_underscores_are_told_apart() -> None:
    conditions = {"batch": ["a", "a_b"], "tech": ["b_c", "d"]}
    plain = attributes(conditions_=conditions, conditions_combined_=["a_d", "a_b_d", "a_b_b_c"])
    found = manifest_of(plain, GENES, name="old-model").combinations
    assert [c.values for c in found] == [("a", "d"), ("a_b", "d"), ("a_b", "b_c")]


@pytest.mark.parametrize(("joined", "ways"), [("a_b_c", 2), ("x_c", 0)])
def test_combinations_that_cannot_be_told_apart(joined: str, ways: int) -> None:
    conditions = {"batch": ["a", "a_b"], "tech": ["b_c", "c"]}
    with pytest.raises(errors.ManifestError, match=f"'{joined}' is {ways} combinations"):
        manifest_of(attributes(conditions_=conditions, conditions_combined_=[joined]), GENES, name="old-model")


def test_keys_that_a_manifest_cannot_hold() -> None:
    assert key_of("cell type/v.2") == "cell_type_v_2"
    renamed = attributes(condition_keys_=["batch id", "tech"])
    renamed["conditions_"] = {"batch id": ["b0", "b2", "b1"], "tech": ["v3", "v2"]}
    assert manifest_of(renamed, GENES, name="old-model").conditions[0].key == "batch_id"


def test_models_that_format_1_cannot_describe() -> None:
    with pytest.raises(errors.ManifestError, match=r"cannot be described\n.*likelihood"):
        manifest_of(attributes(recon_loss_="nb_dist"), GENES, name="old-model")


def test_layers_of_deep_networks() -> None:
    names = layer_names(3)
    assert names["encoder.FC.L2"] == "encoder.hidden.rest.1"
    assert names["decoder.HiddenL.L1"] == "decoder.hidden.rest.0"
    assert names["encoder.FC.N1"] == "encoder.hidden.activations.1.norm.norm"
    assert names["decoder.FirstL.N0"] == "decoder.hidden.activations.0.norm.norm"
    assert names["decoder.HiddenL.N2"] == "decoder.hidden.activations.2.norm.norm"
    assert len(set(names.values())) == len(names)


def test_tensors_are_all_a_network_needs() -> None:
    for name in ("scpoli_default", "scpoli_unknown_zinb", "scpoli_mse_encoder_only"):
        recording = Recording(name)
        described = manifest_of(recording.attributes, GENES, name="old-model")
        found = tensors_of(recording.state, recording.attributes)
        expected = Model.build(described).network.tensors()
        assert {key: tensor.shape for key, tensor in found.items()} == {k: t.shape for k, t in expected.items()}


def test_tensors_of_another_model_are_refused() -> None:
    state = {"encoder.FC.L1.weight": np.zeros((2, 2)), **Recording("scpoli_default").state}
    with pytest.raises(errors.ManifestError, match=r"no tensors encoder\.FC\.L1\.weight"):
        tensors_of(state, attributes("scpoli_default"))


def test_the_given_arrays_are_left_alone() -> None:
    state = {name: torch.from_numpy(array.copy()) for name, array in Recording("scpoli_default").state.items()}
    state["embeddings.0.weight"] *= 10
    before = {name: tensor.clone() for name, tensor in state.items()}
    found = tensors_of(state, attributes("scpoli_default"))
    assert (torch.linalg.vector_norm(found["embeddings.0.rows"], dim=1) < 1.0 + 1e-6).all()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_relative_uncertainty() -> None:
    assert relative_uncertainty([2.0, 4.0, 3.0]).tolist() == [0.0, 1.0, 0.5]
    assert relative_uncertainty([2.0, 2.0]).tolist() == [0.0, 0.0]
    assert relative_uncertainty([]).tolist() == []
