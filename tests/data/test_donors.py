"""Which names look like those of donors or patients."""

from __future__ import annotations

import pytest

from hub_client.data.donors import donor_names, looks_like_donors, named_like_donors


@pytest.mark.parametrize(
    "column",
    [
        *(
            "donor",
            "Donor",
            "donor_id",
            "donorID",
            "DonorId",
            "patient",
            "patients",
            "patient.no",
            "Subject",
            "subject_id",
        ),
        *(
            "sample_donor",
            "individual",
            "participant_code",
            "PatientNumber",
            "orig.patient",
            "person",
            "proband",
            "MRN",
            "ind",
            "ind_cov",
            "pat_id",
        ),
    ],
)
def test_columns_of_donors(column: str) -> None:
    assert named_like_donors(column)


@pytest.mark.parametrize(
    "column",
    ["batch", "library", "sample", "run", "donor_sex", "patient_group", "disease", "subjective", "impatient", "tissue"],
)
def test_other_columns(column: str) -> None:
    assert not named_like_donors(column)


@pytest.mark.parametrize(
    "name",
    [
        *("donor1", "Donor 3", "donor_A", "DONOR-07", "patient_07", "Patient12_stim", "pbmc_patient_1015", "pt12"),
        *("pat 3", "subject-12", "Subject S07", "individual 4", "donor_id_12", "HD3", "participant#9"),
        *("sub-01", "ind1015"),
    ],
)
def test_names_of_donors(name: str) -> None:
    assert donor_names([name, "kang_ctrl"]) == [name]


@pytest.mark.parametrize(
    "names",
    [
        *(["kang_ctrl", "kang_stim", "10x_pbmc3k"], ["P0", "P1", "P2"], ["D0", "D7", "D14"], ["P1"], ["s1", "s2"]),
        *(["subset 1", "sub1", "industry-2"]),
        *(["lib1", "lib2"], ["patients", "controls"], ["a", "b"], ["ptprc", "hd", "donor pool"], ["1488", "107"]),
    ],
)
def test_other_names(names: list[str]) -> None:
    assert donor_names(names) == []


def test_several_short_names_are_patients() -> None:
    assert donor_names(["P1", "P2", "control"]) == ["P1", "P2"]


def test_why_a_condition_looks_like_donors() -> None:
    assert looks_like_donors("batch", ["1", "2"], column="donor") == "its obs column, 'donor'"
    assert looks_like_donors("patient_id", ["1", "2"]) == "its key, 'patient_id'"
    assert looks_like_donors("batch", ["donor1", "x"], column="library") == "its categories, donor1"
    assert looks_like_donors("batch", ["a", "b"], column="library") is None
