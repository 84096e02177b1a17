from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from hub_client import errors
from hub_client.data.obs import read_obs
from tests import queries

TWO = {"keys": ("batch", "donor")}


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns or {"batch": ["a", "b", "c"]}, index=["x", "y", "z"])


def test_conditions_are_read_from_the_columns_given() -> None:
    found = read_obs(frame(sample=["a", "c", "a"], batch=["x"] * 3), queries.manifest(), conditions={"batch": "sample"})
    assert found.conditions["batch"].tolist() == ["a", "c", "a"]
    assert found.columns == {"batch": "sample"}
    assert found.notes == ()


def test_columns_named_like_the_keys_are_read_if_none_are_given() -> None:
    found = read_obs(frame(), queries.manifest())
    assert found.conditions["batch"].tolist() == ["a", "b", "c"]
    assert found.columns == {"batch": "batch"}


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("donor_id", ["1488", "107", "107"], "its obs column, 'donor_id'"),
        ("sample", ["patient_1", "patient_2", "a"], "its categories, patient_1, patient_2"),
    ],
)
def test_new_donors_are_warned_of(column: str, values: list[str], why: str) -> None:
    (note,) = read_obs(frame(**{column: values}), queries.manifest(), conditions={"batch": column}).notes
    assert f"the condition 'batch' looks like donors or patients by {why}: their names (" in note
    assert "publish_donors=True" in note


def test_persons_are_warned_of_and_no_push_is_told_of_them() -> None:
    obs = frame(sample=["Jane Doe 1961-03-04", "a", "b"])
    (note,) = read_obs(obs, queries.manifest(), conditions={"batch": "sample"}).notes
    assert "by its categories, Jane Doe 1961-03-04: " in note
    assert "publish_donors" not in note


def test_donors_that_the_model_knows_are_not_warned_of() -> None:
    assert read_obs(frame(donor=["a", "b", "a"]), queries.manifest(), conditions={"batch": "donor"}).notes == ()


@pytest.mark.parametrize("name", ["A", " a", "a ", "\uff41", "(a)"])
def test_new_categories_spelt_like_the_models_are_warned_of(name: str) -> None:
    found = read_obs(frame(batch=["a", "c", name]), queries.manifest())
    (note,) = found.notes
    assert f"({name!r} for 'a')" in note
    assert found.conditions["batch"].tolist() == ["a", "c", name]


@pytest.mark.parametrize(("known", "expected"), [("a", "query"), ("query", "query-2")])
def test_a_query_without_conditions_is_one_new_category(known: str, expected: str) -> None:
    condition = {"key": "batch", "categories": [known], "encoding": {"kind": "embedding"}}
    found = read_obs(frame(other=[1, 2, 3]), queries.manifest(conditions=[condition]))
    assert found.conditions["batch"].tolist() == [expected] * 3
    assert f"one new category, '{expected}'" in found.notes[0]
    assert found.columns == {}


def test_a_key_without_a_column_is_one_new_category_beside_one_that_has_it() -> None:
    found = read_obs(frame(), queries.manifest(**TWO))
    assert found.conditions["batch"].tolist() == ["a", "b", "c"]
    assert found.conditions["donor"].tolist() == ["query"] * 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 1], ["1", "2", "1"]),
        ([1.0, 2.0, 1.0], ["1", "2", "1"]),
        ([0.5, 2.0, 1.0], ["0.5", "2", "1"]),
        ([True, False, True], ["True", "False", "True"]),
        (pd.Categorical(["b", "a", "b"], categories=["a", "b", "unused"]), ["b", "a", "b"]),
        (pd.Categorical([3, 1, 3]), ["3", "1", "3"]),
        (pd.array(["b", "a", "b"], dtype="string"), ["b", "a", "b"]),
        (pd.array([3, 1, 3], dtype="Int64"), ["3", "1", "3"]),
    ],
)
def test_columns_of_any_type_become_text(values: Any, expected: list[str]) -> None:
    assert read_obs(frame(batch=values), queries.manifest()).conditions["batch"].tolist() == expected


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT])
def test_gaps_in_a_condition_are_refused(gap: Any) -> None:
    with pytest.raises(
        errors.VocabularyError, match=r"obs\['batch'\].*NaN\) for 2 of 3 cells.*fill the gaps"
    ) as caught:
        read_obs(frame(batch=pd.Series(["a", gap, gap], index=["x", "y", "z"], dtype=object)), queries.manifest())
    assert caught.value.field == "batch"


@pytest.mark.parametrize("gap", ["", "nan", "NA", "None", "Unknown", "unknown", b"nan"])
def test_texts_that_mean_no_value_are_gaps_in_a_condition(gap: Any) -> None:
    obs = frame(batch=pd.Series(["a", gap, gap], index=["x", "y", "z"], dtype=object))
    with pytest.raises(errors.VocabularyError, match=r"obs\['batch'\].*no value \('.*'\) for 2 of 3 cells"):
        read_obs(obs, queries.manifest())


def test_gaps_of_several_kinds_are_counted() -> None:
    obs = frame(batch=pd.Series(["nan", None, "NA"], index=["x", "y", "z"], dtype=object))
    with pytest.raises(errors.VocabularyError, match=r"\(NaN 1, 'nan' 1, 'NA' 1\) for 3 of 3 cells"):
        read_obs(obs, queries.manifest())


def test_a_category_of_the_model_is_a_value_whatever_it_is_called() -> None:
    condition = {"key": "batch", "categories": ["Unknown", "b"], "encoding": {"kind": "embedding"}}
    found = read_obs(frame(batch=["Unknown", "b", "b"]), queries.manifest(conditions=[condition]))
    assert found.conditions["batch"].tolist() == ["Unknown", "b", "b"]


def test_texts_that_mean_no_value_are_no_labels_and_are_counted() -> None:
    obs = frame(mine=["nan", "", "T"])
    found = read_obs(obs, queries.manifest(), labels={"cell_type": "mine"})
    assert found.labels["cell_type"].tolist() == ["", "", "T"]
    (note,) = (note for note in found.notes if "labels" in note)
    assert "labels no cell with 'nan' 1, '' 1: 2 of 3 cells have no label of 'cell_type'" in note


def test_a_label_of_the_model_is_one_whatever_it_is_called() -> None:
    label = {"key": "cell_type", "categories": ["T", "Unknown"], "ontology": {"T": None, "Unknown": None}}
    found = read_obs(frame(mine=["T", "Unknown", "na"]), queries.manifest(labels=[label]), labels={"cell_type": "mine"})
    assert found.labels["cell_type"].tolist() == ["T", "Unknown", ""]


@pytest.mark.parametrize("wrong", ["caf\udce9", "a\0b"])
@pytest.mark.parametrize("asked", [{"conditions": {"batch": "mine"}}, {"labels": {"cell_type": "mine"}}])
def test_text_that_no_file_holds_is_refused(wrong: str, asked: dict[str, Any]) -> None:
    with pytest.raises(errors.VocabularyError, match=r"obs\['mine'\] holds .*half a character or a zero"):
        read_obs(frame(batch=["a"] * 3, mine=["c", wrong, "b"]), queries.manifest(), **asked)


def test_bytes_are_the_text_they_spell() -> None:
    found = read_obs(frame(batch=pd.Series([b"a", "a", b"b"], index=["x", "y", "z"])), queries.manifest())
    assert found.conditions["batch"].tolist() == ["a", "a", "b"]


@pytest.mark.parametrize("wrong", [1e300, 1e-300])
def test_size_factors_that_float32_cannot_hold_are_refused(wrong: float) -> None:
    with pytest.raises(errors.VocabularyError, match="1 of 3 cells have none"):
        read_obs(frame(total=[10, wrong, 30]), queries.manifest(), size_factor="total")


def test_continuous_covariates_that_float32_cannot_hold_are_refused() -> None:
    described = queries.manifest(architecture={"kind": "scvi"}, covariates={"continuous": ["age"]}, labels=[])
    with pytest.raises(errors.VocabularyError, match="beyond float32, for 1 of 3 cells"):
        read_obs(frame(age=[1.0, 1e300, 2.0]), described)


def test_unknown_keys_are_refused_with_the_models() -> None:
    with pytest.raises(errors.VocabularyError, match="names sample, but the model's conditions are batch") as caught:
        read_obs(frame(), queries.manifest(), conditions={"sample": "batch"})
    assert caught.value.unknown == ("sample",)
    assert caught.value.known == ("batch",)


def test_every_key_needs_a_column_once_one_is_given() -> None:
    with pytest.raises(errors.VocabularyError, match="none for donor") as caught:
        read_obs(frame(), queries.manifest(**TWO), conditions={"batch": "batch"})
    assert caught.value.unknown == ("donor",)


def test_a_key_whose_column_is_none_has_no_column() -> None:
    with pytest.raises(errors.VocabularyError, match="gives a column for nothing, but none for batch"):
        read_obs(frame(), queries.manifest(), conditions={"batch": None})  # type: ignore[dict-item]


def test_unknown_columns_are_refused_with_close_names() -> None:
    with pytest.raises(errors.VocabularyError, match=r"no column 'dnor'.*Did you mean donor") as caught:
        read_obs(frame(donor=[1, 2, 3]), queries.manifest(), conditions={"batch": "dnor"})
    assert caught.value.unknown == ("dnor",)


def test_categories_are_listed_where_no_name_is_close() -> None:
    with pytest.raises(errors.VocabularyError, match="It has donor, x"):
        read_obs(frame(donor=[1, 2, 3], x=[1, 2, 3]), queries.manifest(), conditions={"batch": "zzzzz"})


@pytest.mark.parametrize("columns", [{"batch": ["a", "b", "new"]}, {"other": [1, 2, 3]}])
def test_categories_a_model_cannot_learn_are_refused(columns: dict[str, Any]) -> None:
    closed = queries.manifest(unknown="error")
    assert read_obs(frame(batch=["a", "b", "b"]), closed).notes == ()
    with pytest.raises(errors.VocabularyError, match=r"cannot learn: (new|query). It takes a, b"):
        read_obs(frame(**columns), closed)


def test_labels_are_not_read_unless_asked_for() -> None:
    assert read_obs(frame(cell_type=["T"] * 3), queries.manifest()).labels == {}


def test_gaps_and_the_unlabelled_value_are_no_label() -> None:
    found = read_obs(frame(mine=["T", None, "Unknown"]), queries.manifest(), labels={"cell_type": "mine"})
    assert found.labels["cell_type"].tolist() == ["T", "", ""]


def test_new_labels_are_kept() -> None:
    found = read_obs(frame(mine=pd.Categorical(["T", "NK", "B"])), queries.manifest(), labels={"cell_type": "mine"})
    assert found.labels["cell_type"].tolist() == ["T", "NK", "B"]


@pytest.mark.parametrize("labels", [{"lineage": "mine"}, {"cell_type": "not there"}])
def test_unknown_levels_and_columns_of_labels_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(errors.VocabularyError, match=r"lineage|not there"):
        read_obs(frame(mine=["T"] * 3), queries.manifest(), labels=labels)


def test_size_factors_come_from_the_manifests_column_or_the_callers() -> None:
    obs = frame(total=[10, 20, 30], mine=[1.5, 2.5, 3.5])
    described = queries.manifest(input={"size_factor": "total"})
    found = read_obs(obs, described).size_factors
    assert found is not None
    assert found.tolist() == [10, 20, 30]
    assert found.dtype == np.float32
    other = read_obs(obs, described, size_factor="mine").size_factors
    assert other is not None
    assert other.tolist() == [1.5, 2.5, 3.5]
    assert read_obs(obs, queries.manifest()).size_factors is None


@pytest.mark.parametrize("wrong", [0, -1, np.nan, np.inf, "many"])
def test_size_factors_have_to_be_positive_numbers(wrong: Any) -> None:
    with pytest.raises(errors.VocabularyError, match="1 of 3 cells have none"):
        read_obs(
            frame(total=pd.Series([10, wrong, 30], index=["x", "y", "z"])), queries.manifest(), size_factor="total"
        )


def test_a_missing_column_of_size_factors_is_refused() -> None:
    with pytest.raises(errors.VocabularyError, match="no column 'total', which was to hold each cell's size factor"):
        read_obs(frame(), queries.manifest(input={"size_factor": "total"}))


def test_a_column_that_is_there_twice_is_refused() -> None:
    obs = pd.concat([frame(), frame()], axis=1)
    with pytest.raises(
        errors.VocabularyError, match="obs has 2 columns 'batch', of which one was to hold the condition"
    ):
        read_obs(obs, queries.manifest())


@pytest.mark.parametrize("value", [["a"], ("a", 1), {"a": 1}, {"a"}, np.ones(2), np.array("a")])
@pytest.mark.parametrize(
    "asked", [{"conditions": {"batch": "listed"}}, {"labels": {"cell_type": "listed"}}, {"size_factor": "listed"}]
)
def test_columns_of_lists_are_refused(value: Any, asked: dict[str, Any]) -> None:
    obs = frame(batch=["a"] * 3, listed=["one", value, value])
    with pytest.raises(errors.VocabularyError, match=rf"obs\['listed'\].* holds a {type(value).__name__} for 2 of 3"):
        read_obs(obs, queries.manifest(), **asked)
