from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hub_client import _resources
from hub_client.files import markdown as md
from hub_client.release import card, released_cards
from hub_client.release import folder as release_folder
from tests import examples

ROOT = Path(__file__).parents[2]
TRICKY = [
    "NO",
    "1.10",
    "null",
    "~",
    "- item",
    "key: value",
    "a # b",
    "*alias",
    "&anchor",
    "!!python/object:os.system",
    "---\nname: other",
    'quote " and \\ backslash',
    "\u2028\u2029\x85\x7f\ufeff",
    "🧬 été",
    "2024-01-01",
    "",
]


def front(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def headings(text: str) -> list[str]:
    return re.findall(r"(?m)^#+ (.*)$", text)


@pytest.mark.parametrize("kind", examples.KINDS)
def test_every_kind_has_a_card_that_the_public_hub_reads(kind: str) -> None:
    manifest = examples.of_kind(kind)
    found = ModelCard(card.render(manifest)).data
    assert (found.library_name, found.license) == ("archzoo", "cc-by-4.0")
    assert {"single-cell", kind, "Homo sapiens", "blood"} <= set(found.tags)
    (result,) = found.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.93, "blood")
    assert found.model_name == manifest.name


@pytest.mark.parametrize("kind", examples.KINDS)
def test_a_card_is_deterministic_and_leaves_no_gap(kind: str) -> None:
    text = card.render(examples.of_kind(kind))
    assert text == card.render(examples.of_kind(kind))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\n\n\n" not in text
    assert "$" not in text
    assert "None" not in text.replace("unknown_above=None", "")


def test_a_card_does_not_depend_on_the_files_that_hold_it() -> None:
    manifest = examples.manifest()
    file = {"path": "README.md", "size": 1, "sha256": "0" * 64, "role": "card"}
    assert card.render(manifest) == card.render(manifest.changed(files=[file]))


def test_a_full_card_says_what_a_reader_asks() -> None:
    text = card.render(examples.of_kind("scpoli"))
    assert headings(text) == [
        "Example",
        "Use it",
        "At a glance",
        "What it is for",
        "What it is not for",
        "Labels it knows",
        "Conditions it knows",
        "What it was trained on",
        "How good it is",
        "How far to trust a label",
        "Where it comes from",
        "Citation",
    ]
    for fact in (
        'hub_client.pull("example-scpoli@1.1.0")',
        'conditions={"batch": "your_column", "chemistry": "your_column"}',
        "Homo sapiens (NCBITaxon:9606)",
        "CC-BY-4.0 (weights), CC-BY-4.0 (training data)",
        "[Ada Lovelace](https://orcid.org/0000-0002-1825-0097)",
        "| T cell | CL:0000084 | lymphoid |",
        "`sha256:" + "0" * 64 + "`",
        "| `cell_type.accuracy` | share of cells whose label is right | blood | held out | 120 | **0.93** |",
        "exceeds 0.4 is called `unknown`; `unknown_above=None` names every cell. Each cell also has the set of labels "
        "that it may have, which holds the true one for 90% of cells like those that it was fitted on: cells of b.",
        "Checked on held-out cells of the reference.",
        "`lab/parent@0.9.0`",
        "Not kept: optimiser state.",
        "https://doi.org/10.1000/182",
        "@article{example",
        "Trained for 10 epochs on cpu in 2 min, seed 7, with torch 2.13.0.",
    ):
        assert fact in text


def test_a_sparse_card_has_no_empty_sections() -> None:
    manifest = examples.manifest(labels=[], prototypes={}, conditions=[], tensors=[], summary="")
    text = card.render(manifest)
    assert headings(text) == ["Tiny scPoli", "Use it", "At a glance", "Citation"]
    assert 'mapping.adata.obsm["X_latent"]' in text


def test_the_quickstart_is_python() -> None:
    text = card.render(examples.of_kind("scpoli"))
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    compile(code, "card", "exec")


def test_gene_programs_are_listed_and_very_many_are_counted() -> None:
    text = card.render(examples.of_kind("expimap"))
    assert "| constrained 1 |" in text
    total, active = len(examples.of_kind("expimap").terms), sum(t.active for t in examples.of_kind("expimap").terms)
    counted = re.findall(r"(\d+) programs?, (\d+) active", text)
    assert (sum(int(n) for n, _ in counted), sum(int(n) for _, n in counted)) == (total, active)
    assert "mapping.scores" in text and "mapping.scores" not in card.render(examples.of_kind("scpoli"))
    assert "a program whose name is longer than thirty letters" not in text, "an inactive program is not listed"
    terms = [{"id": str(i), "name": f"program {i}", "genes": ["GAPDH"]} for i in range(card.MOST_ROWS + 5)]
    config = {"kind": "expimap", "hidden": [6]}
    many = card.render(examples.of_kind("expimap", terms=terms, architecture=config, tensors=[]))
    assert "and 5 more, named in `manifest.json`." in many


def judged(*, transfer: str, accuracy: float, alone: float, kind: str = "scpoli") -> str:
    """Return the card of a release with an accuracy and macro-F1, and others from the latent alone."""
    values = {
        "accuracy": accuracy,
        "latent_accuracy": alone,
        "macro_f1": accuracy - 0.1,
        "latent_macro_f1": alone - 0.1,
    }
    metric = examples.of_kind(kind).metrics[0].model_dump()
    metrics = [metric | {"name": f"cell_type.{name}", "value": value} for name, value in values.items()]
    trust = {"calibrations": [{"level": "cell_type", "transfer": transfer, "temperature": 1.0}]}
    return card.render(examples.of_kind(kind, metrics=metrics, trust=trust))


def test_a_weak_latent_cannot_hide_behind_a_classifier() -> None:
    text = judged(transfer="consensus", accuracy=0.95, alone=0.7)
    assert text.index("`cell_type.accuracy`") < text.index("`cell_type.latent_accuracy`")
    assert (
        "The `cell_type` labels lean on expression, not on the latent: the latent alone gives them with an accuracy of "
        "0.7 instead of 0.95 and macro-F1 of 0.6 instead of 0.85." in text
    )
    assert "lean on expression" not in judged(transfer="consensus", accuracy=0.95, alone=0.94)
    other = judged(transfer="gaussians", accuracy=0.95, alone=0.7)
    assert "expression, not" not in other and "are better than their nearest neighbours in the latent" in other


@pytest.mark.parametrize("license", ["MIT", "LicenseRef-Lab-Terms", "MIT AND CC0-1.0"])
def test_a_licence_the_public_hub_does_not_know_is_other_by_name(license: str) -> None:
    found = front(card.render(examples.manifest(license=license)))
    known = {"license": "mit"}
    assert {key: value for key, value in found.items() if "license" in key} == (
        known if license == "MIT" else {"license": "other", "license_name": license.lower().replace(" ", "-")}
    )


@pytest.mark.parametrize("text", TRICKY)
def test_yaml_gives_back_the_very_text(text: str) -> None:
    value = {"plain": text, "list": [text, {"inner": text, "deep": {"x": [text]}}], "numbers": [1, 1.5, True, None]}
    written = md.yaml(value)
    assert yaml.safe_load(written) == value
    assert "*" not in re.sub(r'"[^"\n]*"', "", written), "no aliases"


@pytest.mark.parametrize("text", [text for text in TRICKY if text])
def test_tricky_names_do_not_break_the_front_matter(text: str) -> None:
    term = {"id": "UBERON:0000178", "label": text, "release": "1"}
    assert text in front(card.render(examples.manifest(tissue=[term])))["tags"]


def test_names_cannot_become_markup() -> None:
    name = "a|b `c` <script>alert(1)</script> [x](javascript:1)\n# heading"
    label = {"key": "cell_type", "categories": [name], "ontology": {name: None}}
    condition = {"key": "batch", "categories": [name], "encoding": {"kind": "embedding", "dim": 2}}
    text = card.render(examples.manifest(title=name, labels=[label], conditions=[condition], summary="<b>x</b>"))
    tokens = parsed(text)
    assert {token.type for token in tokens} & {"html_block", "html_inline"} == set()
    links = [str(token.attrGet("href")) for token in tokens if token.type == "link_open"]
    assert [link for link in links if not link.startswith("https://doi.org/")] == []
    assert "heading" not in [token.content for token in tokens]
    shown = name.replace("\n", " ")
    assert [token.content for token in tokens if "alert" in token.content and token.type == "code_inline"] == [shown]


def parsed(text: str) -> list[Token]:
    """Return the card's Markdown tokens, inline ones too."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    return [token for block in blocks for token in (block, *(block.children or ()))]


@pytest.mark.parametrize("bibtex", ["```\n# out", "@a{b}"])
def test_a_fence_is_longer_than_what_it_holds(bibtex: str) -> None:
    text = card.render(examples.manifest(citation={"bibtex": bibtex}))
    ticks = "````" if "```" in bibtex else "```"
    assert f"{ticks}bibtex\n{bibtex}\n{ticks}\n" in text


def test_a_release_holds_its_card(tmp_path: Path) -> None:
    folder = release_folder.write(tmp_path / "release", examples.manifest(), examples.tensors())
    assert (folder / "README.md").read_text(encoding="utf-8") == card.render(release_folder.read(folder).manifest)


def test_the_zoo_renders_the_newest_version_of_each_model(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        folder = tmp_path / "released" / "tiny" / version
        release_folder.write(folder, examples.manifest(version=version), examples.tensors())
    (tmp_path / "released" / "notes.txt").write_text("not a model")
    (tmp_path / "cards").mkdir()
    (written,) = card.render_zoo(tmp_path / "released", tmp_path / "cards")
    assert written == tmp_path / "cards" / "tiny.md"
    assert "tiny-scpoli@1.10.0" in written.read_text(encoding="utf-8")


def test_where_released_cards_differ_is_recorded(tmp_path: Path) -> None:
    recorded = (ROOT / "docs" / "released-cards.md").read_text(encoding="utf-8")
    assert released_cards.differences(_resources.released()) == recorded, "run `make generate`"
    folder = release_folder.write(tmp_path / "tiny" / "1.0.0", examples.manifest(), examples.tensors())
    assert "##" not in released_cards.differences(tmp_path)
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("Four genes", "Five genes"))
    assert "\n- Five genes, for tests.\n+ Four genes, for tests.\n" in released_cards.differences(tmp_path)


@pytest.mark.slow
def test_the_cards_are_current(tmp_path: Path) -> None:
    released = ROOT / "zoo" / "released"
    command = [sys.executable, "-m", "hub_client.release.card", str(released), str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    rendered = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text(encoding="utf-8") for path in _resources.cards().glob("[!_]*.md")}
    assert kept == rendered, "run `make generate`"
