"""Citations: the digest is in them, and nothing in a manifest breaks them."""

from __future__ import annotations

import yaml

from hub_client.release import citation
from hub_client.release.store import Ref
from tests import examples

REF = Ref("my-lab/example", "c" * 40, "1.1.0", "d" * 64)


def test_bibtex_names_release_method_and_data() -> None:
    found = citation.bibtex(examples.of_kind("scpoli"), REF)
    assert found.startswith("@misc{my_lab_example_1_1_0,\n")
    assert "author       = {Lovelace, Ada}," in found
    assert f"note         = {{sha256:{'d' * 64}}}" in found
    assert "@article{example, title={Example}}" in found
    assert "10.1038/s41592-023-02035-2" in found
    assert "@misc{blood_00000000,\n" in found and "doi          = {10.1000/183}" in found
    assert found.count("{") == found.count("}")


def test_bibtex_takes_any_text() -> None:
    described = examples.manifest(title="50% of {all} T_cells & \\input{x}", authors=[{"name": "The {A} & B lab"}])
    found = citation.bibtex(described, REF)
    assert r"50\% of \{all\} T\_cells \&" in found and r"{The \{A\} \& B lab}" in found
    assert "\\input" not in found


def test_cff_is_yaml_with_the_digest_and_the_data() -> None:
    lineage = {"relation": "surgery", "parent": {"name": "atlas/x", "version": "1.0.0", "digest": "e" * 64}}
    found = yaml.safe_load(citation.cff(examples.of_kind("scpoli", lineage=lineage), REF))
    assert (found["cff-version"], found["title"], found["version"]) == ("1.2.0", "Example", "1.1.0")
    assert found["authors"] == [
        {"family-names": "Lovelace", "given-names": "Ada", "orcid": "https://orcid.org/0000-0002-1825-0097"}
    ]
    assert found["identifiers"][0]["value"] == f"sha256:{'d' * 64}"
    method, data, parent = found["references"]
    assert (method["type"], data["doi"], parent["title"]) == ("article", "10.1000/183", "atlas/x@1.0.0")
    assert found["date-released"] == "2024-05-01"


def test_a_bare_manifest_can_be_cited() -> None:
    bare = examples.manifest()
    assert "sha256:" in citation.bibtex(bare, REF)
    assert yaml.safe_load(citation.cff(bare, REF))["authors"] == [{"name": "unknown"}]


def test_a_grown_release_is_cited_with_what_it_was_grown_from() -> None:
    root = examples.of_kind("scpoli", lineage=None, delta=None, title="The root")
    parent = {"name": "atlas/root", "version": "1.0.0", "digest": "e" * 64}
    query = {"datasets": [{"name": "query", "cells": 90, "fingerprint": "9" * 64}]}
    lineage = {"relation": "surgery", "parent": parent}
    grown = examples.of_kind("scpoli", lineage=lineage, training=query, delta=None)
    found = citation.bibtex(grown, REF, ancestors=[root])
    assert "@misc{atlas_root_1_0_0,\n" in found and "{The root}" in found and f"sha256:{'e' * 64}" in found
    assert "@misc{blood_00000000,\n" in found and "@misc{query_99999999,\n" in found
    assert found.count("@article{example, title={Example}}") == 1
    references = yaml.safe_load(citation.cff(grown, REF, ancestors=[root]))["references"]
    assert [one["title"] for one in references[1:]] == ["blood", "query", "atlas/root@1.0.0"]
    alone = citation.bibtex(grown, REF)
    assert f"sha256:{'e' * 64}" in alone and "blood" not in alone
