"""What a search finds a release by."""

from __future__ import annotations

import json

import pytest

from hub_client.release.listing import Listing, listing
from hub_client.release.store import Ref
from tests import examples

REF = Ref("lab/tiny-scpoli", "c" * 40, "1.0.0", "d" * 64, "hub")


def listed() -> Listing:
    level = examples.fields()["labels"][0] | {"parents": {"T cell": "lymphocyte", "B cell": "lymphocyte"}}
    coarse = {"key": "lineage", "categories": ["lymphocyte"], "ontology": {"lymphocyte": "CL:0000542"}}
    terms = {name: examples.DESCRIBED[name] for name in ("organism", "tissue", "assay", "disease")}
    return listing(REF, examples.manifest(**terms, labels=[level, coarse]).model_dump_json().encode())


@pytest.mark.parametrize(
    "query",
    [
        "tiny scpoli",
        "blood",
        "UBERON:0000178",
        "10x 3' v3",
        "efo:0009922",
        "lupus erythematosus",
        "MONDO_0007915",
        "http://purl.obolibrary.org/obo/MONDO_0007915",
        "homo sapiens",
        "NCBITaxon:9606",
        "T cell",
        "CL:0000236",
        "lymphocyte",
        "CL_0000542",
        "lupus CL:0000236",
    ],
)
def test_it_is_found(query: str) -> None:
    assert listed().matches(query)


@pytest.mark.parametrize("query", ["CL:0000899", "kidney", "blood kidney", "UBERON:0002113", "CL_1"])
def test_it_is_not_found(query: str) -> None:
    assert not listed().matches(query)


def test_what_is_listed_of_a_release() -> None:
    found = listed()
    assert (found.assay, found.disease) == (("10x 3' v3",), ("systemic lupus erythematosus",))
    assert found.parents == ("lymphocyte",)
    assert found.ontology[:2] == ("NCBITaxon:9606", "UBERON:0000178")
    assert {"CL:0000084", "CL:0000236"} <= set(found.ontology)


def test_a_label_without_an_id_and_fields_of_a_later_format_are_listed() -> None:
    fields = json.loads(examples.manifest().model_dump_json()) | {"schema_version": "1.9", "news": [1]}
    fields["labels"][0]["ontology"]["T cell"] = None
    assert listing(REF, json.dumps(fields).encode()).ontology == ("CL:0000236",)
