"""``archzoo import``: what it writes, what it shows, and what it refuses."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

import hub_client
from hub_client.cli import main
from tests import hostile, scvi_folders
from tests.cli.test_cli import Outcome, Run
from tests.scvi_models import scvi_model

LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
OLD = LEGACY / "scpoli-0.5.9"


class Terminal(io.StringIO):
    """Where control characters act; from a pipe they would be left out."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``archzoo import``, or ``export``, as a shell would, on a screen of 100 columns."""
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "hub"))

    def run_main(
        *words: str | Path, command: str = "import", columns: int = 100, into: type[io.StringIO] = io.StringIO
    ) -> Outcome:
        monkeypatch.setenv("COLUMNS", str(columns))
        out, err = into(), into()
        with pytest.raises(SystemExit) as stopped, redirect_stdout(out), redirect_stderr(err):
            main([command, *map(str, words)])
        return Outcome(int(stopped.value.code or 0), out.getvalue(), err.getvalue())

    return run_main


def test_a_release_is_written(run: Run, tmp_path: Path) -> None:
    outcome = run(OLD, "--out", tmp_path / "release", "--organism", "human", "--name", "old-model", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    told = outcome.json
    model = hub_client.Model.load(tmp_path / "release")
    assert told["digest"] == model.manifest.digest
    assert (told["kind"], told["version"], told["folder"]) == ("scpoli", "1.0.0", str(tmp_path / "release"))
    assert model.manifest.name == "old-model"
    assert model.manifest.organism is not None and model.manifest.organism.label == "Homo sapiens"
    assert model.manifest.imported_from is not None
    assert told["not_kept"] == list(model.manifest.imported_from.lost)
    assert told["imported_from"].keys() == {"attr.pkl", "model_params.pt", "var_names.csv"}


def test_for_people(run: Run, tmp_path: Path) -> None:
    text = run(OLD, "--out", tmp_path / "release").out
    for expected in ("scpoli-0-5-9", "2: b0, b1", "3: NK, T, B", "not kept", "which of the training cells", "import"):
        assert expected in text


def test_an_existing_release_is_kept(run: Run, tmp_path: Path) -> None:
    words = [OLD, "--out", tmp_path / "release"]
    assert run(*words).code == 0
    refused = run(*words)
    assert refused.code == 2 and "--force" in refused.err
    assert run(*words, "--force").code == 0


def test_somewhere_to_write_is_needed(run: Run) -> None:
    outcome = run(OLD)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--out" in outcome.err and "--inspect" in outcome.err


def test_surgery_of_a_reference(run: Run, tmp_path: Path) -> None:
    folder = LEGACY / "scpoli-0.5.8"
    words = [folder / "query", "--reference", folder / "reference", "--out", tmp_path / "release", "--json"]
    assert run(*words).json["version"] == "1.1.0"


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("".join(f"ENSG{number:011}\n" for number in range(12)), [f"ENSG{number:011}" for number in range(12)]),
        ("CD3E\tENSG00000198851\nACTB\tENSG00000075624\n", ["ENSG00000075624", "ENSG00000198851"] + [None] * 10),
    ],
)
def test_gene_ids_of_a_file(run: Run, tmp_path: Path, content: str, ids: list[str | None]) -> None:
    (tmp_path / "ids.tsv").write_text(content)
    assert run(OLD, "--gene-ids", tmp_path / "ids.tsv", "--out", tmp_path / "release").code == 0
    panel = hub_client.Model.load(tmp_path / "release").manifest.genes.panel
    assert [gene.id for gene in panel] == ids


def test_gene_ids_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    words = [OLD, "--out", tmp_path / "release", "--gene-ids", tmp_path / "ids.tsv"]
    assert run(*words).code == 3
    (tmp_path / "ids.tsv").write_text("CD3E\tENSG00000198851\nACTB\n")
    outcome = run(*words)
    assert outcome.code == 2 and "some lines have a tab" in outcome.err
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([LEGACY / "none"], 3, "no such folder"),
        ([LEGACY], 3, "Did you mean"),
        ([OLD, "--organism", "unicorn"], 2, "organism is 'unicorn'"),
        ([OLD, "--kind", "trvae"], 9, "describes a model of scpoli, not of trvae"),
    ],
)
def test_slips_are_one_line(run: Run, tmp_path: Path, words: list[Any], code: int, said: str) -> None:
    outcome = run(*words, "--out", tmp_path / "release")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert said in outcome.err
    assert not (tmp_path / "release").exists()


# --- looking ---------------------------------------------------------------------------------------------------------


def test_inspect_tells_what_is_inside(run: Run) -> None:
    told = run(OLD, "--inspect", "--json").json
    assert told["kind"] == "scpoli"
    assert told["genes"][:3] == ["ACTB", "CD3E", "HLA-DRA"]
    assert told["conditions"] == {"batch": ["b0", "b1"], "tech": ["v3", "v2"]}
    assert told["labels"] == {"cell type": ["NK", "T", "B"]}
    assert told["settings"]["latent_dim"] == 4 and told["settings"]["hidden_layer_sizes"] == [8]
    assert told["tensors"]["embeddings.1.weight"] == [2, 3]
    assert told["refused"] == []
    asked = {one["name"]: one for one in told["asks_for"]}
    assert asked["pandas.core.frame:DataFrame"] == {
        "file": "attr.pkl",
        "name": "pandas.core.frame:DataFrame",
        "allowed": True,
    }


@pytest.mark.parametrize("columns", [80, 120])
def test_inspect_for_people_fits_the_screen(run: Run, columns: int) -> None:
    outcome = run(OLD, "--inspect", columns=columns)
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= columns
    for expected in ("can be imported", "3: NK, T, B", "theta", "12 x 4", "torch.storage:_load_from_bytes"):
        assert expected in outcome.out


@pytest.mark.parametrize("name", ["trvae-0.3.0", "expimap-0.5.0"])
def test_inspect_of_other_kinds(run: Run, name: str) -> None:
    told = run(LEGACY / name, "--inspect", "--json").json
    assert told["conditions"] == {"batch": ["b0", "b1"]}
    assert told["programs"] == ({"annotated": 5} if name == "expimap-0.5.0" else {})
    assert {one["file"] for one in told["asks_for"]} == {"model_params.pt"}


def test_inspect_shows_what_import_refuses(run: Run, tmp_path: Path) -> None:
    marker, folder = tmp_path / "it-ran", copytree(OLD, tmp_path / "model")
    content = pickle.dumps({"prototypes_labeled_": hostile.Calls(os.system, hostile.shell(marker)), "dr_rate_": 0.1})
    (folder / "attr.pkl").write_bytes(content)
    shown = run(folder, "--inspect")
    assert shown.code == 0
    assert "refused: it asks for 1 thing that no saved model needs" in shown.out
    (row,) = [line for line in shown.out.splitlines() if "posix:system" in line]
    assert row.split() == ["refused", "posix:system", "attr.pkl"]
    told = run(folder, "--inspect", "--json").json
    assert told["refused"] == ["posix:system"] and told["settings"] == {"dr_rate": 0.1}
    outcome = run(folder, "--out", tmp_path / "release")
    assert outcome.code == 5 and "posix:system" in outcome.err
    assert not marker.exists() and not (tmp_path / "release").exists()


def test_inspect_writes_nothing_odd_to_the_terminal(run: Run, tmp_path: Path) -> None:
    folder = copytree(OLD, tmp_path / "model")
    odd = "\x1b[2J"
    said = {"conditions_": {odd: [odd]}, "cell_types_": {odd: [odd]}, "dr_rate_": odd, f"{odd}_": 1}
    (folder / "attr.pkl").write_bytes(pickle.dumps(said))
    (folder / "var_names.csv").write_text(f"{odd}\n")
    shown = run(folder, "--inspect", into=Terminal)
    assert shown.code == 0
    assert r"\x1b[2J" in shown.out and "\x1b[2J" not in shown.out
    refused = run(folder, "--out", tmp_path / "release", into=Terminal)
    assert r"\x1b[2J" in refused.err and "\x1b[2J" not in refused.err


def test_names_are_not_marked_up(run: Run, tmp_path: Path) -> None:
    folder = copytree(OLD, tmp_path / "model")
    (folder / "attr.pkl").write_bytes(pickle.dumps({"condition_key_": "[/red]", "conditions_": ["[bold]"]}))
    shown = run(folder, "--inspect")
    assert shown.code == 0
    assert "condition [/red]" in shown.out and "1: [bold]" in shown.out


# --- scvi-tools ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scvi_tools_there_and_back(run: Run, tmp_path: Path) -> None:
    folder = scvi_folders.saved(scvi_model("plain"), tmp_path / "saved", prefix="lung_")
    looked = run(folder, "--inspect", "--prefix", "lung_", "--json").json
    assert (looked["kind"], looked["conditions"], looked["refused"]) == ("scvi", {"batch": ["b0", "b1", "b2"]}, [])
    told = run(folder, "--prefix", "lung_", "--out", tmp_path / "release", "--json").json
    assert (told["kind"], list(told["imported_from"])) == ("scvi", ["lung_model.pt"])
    words = [tmp_path / "release", "--scvi", tmp_path / "theirs"]
    outcome = run(*words, command="export")
    assert (outcome.code, outcome.err) == (0, "")
    assert "pickle" in outcome.out
    again = scvi_folders.loaded(scvi_model("plain"), tmp_path / "theirs")
    assert (scvi_folders.mean(again) == scvi_folders.mean(scvi_model("plain"))).all()
    refused = run(*words, command="export")
    assert refused.code == 2 and "exists already" in refused.err
    assert run(*words, "--force", "--json", command="export").json == {"folder": str(tmp_path / "theirs")}


def test_an_export_of_another_kind(run: Run, tmp_path: Path) -> None:
    assert run(OLD, "--out", tmp_path / "release").code == 0
    outcome = run(tmp_path / "release", "--scvi", tmp_path / "theirs", command="export")
    assert outcome.code == 9 and "scpoli is no model of scvi-tools" in outcome.err


def test_a_hostile_model_is_shown_and_refused(run: Run, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    (tmp_path / "model.pt").write_bytes(hostile.tensors(marker, zipped=True))
    found = run(tmp_path, "--inspect", "--json").json
    assert (found["kind"], found["refused"], found["tensors"]) == (None, ["posix:system"], None)
    assert "refused: it asks for 1 thing" in run(tmp_path, "--inspect").out
    outcome = run(tmp_path, "--out", tmp_path / "release")
    assert outcome.code != 0 and "posix:system" in outcome.err
    assert not marker.exists()
