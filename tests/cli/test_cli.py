"""The command line: exit codes, one-line errors, JSON and tables, on a folder hub with a small trained model."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

import hub_client
from hub_client import errors
from hub_client.checks.verify import with_test_vectors
from hub_client.cli import main, options, screen
from hub_client.cli.argument_names import as_options
from hub_client.cli.cache import readable
from hub_client.cli.failures import EXIT_CODES, INTERRUPTED, RED, exit_code
from hub_client.cli.screen import Column
from hub_client.labels.atlas import with_atlas
from hub_client.manifest import Manifest, Plan
from hub_client.manifest.axes import LabelLevel
from hub_client.manifest.calibration import Calibration, Trust
from hub_client.manifest.publishing import NEEDED
from tests import simulated

COMMANDS = [
    "list",
    "info",
    "which",
    "map",
    "pull",
    "push",
    "yank",
    "validate",
    "key",
    "verify",
    "diff",
    "log",
    "lock",
    "cite",
    "replay",
    "audit-labels",
    "build",
    "import",
    "cache",
    "bundle",
    "export-static",
]
NAME = "my-lab/tiny"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release folder with a trained model, and ``query.h5ad`` beside it."""
    home = tmp_path_factory.mktemp("cli")
    model = hub_client.Model.build(simulated.manifest())
    reference = simulated.cells_for(model.manifest)
    hub_client.train(model, reference, plan=Plan(epochs=3, pretraining_epochs=2), progress=False, accelerator="cpu")
    simulated.counts(simulated.QUERY, seed=1).write_h5ad(home / "query.h5ad")
    return model.save(home / "tiny")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command line as a shell would, on a hub of its own and a screen of 120 columns."""
    monkeypatch.setenv("ARCHZOO_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("ARCHZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")

    def run_main(*words: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return run_main


@pytest.fixture
def pushed(run: Run, folder: Path) -> dict[str, Any]:
    """The ref of the model in the hub."""
    outcome = run("push", folder, "--to", NAME, "--json")
    assert outcome.code == 0
    ref: dict[str, Any] = outcome.json
    return ref


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["cache", "ls"], ["cache", "verify"]])
def test_help_teaches(run: Run, command: list[str]) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0
    assert "archzoo" in outcome.out and (command == ["cache"] or f"archzoo {' '.join(command)}".strip() in outcome.out)


def test_help_lists_every_exit_code(run: Run) -> None:
    text = run("--help").out
    assert all(f"{code}: " in text for code in [0, 1, INTERRUPTED, RED, *(code for code, _ in EXIT_CODES.values())])


def test_version(run: Run) -> None:
    assert run("--version").out == f"archzoo {hub_client.__version__}\n"


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = [RED, *(code for code, _ in EXIT_CODES.values())]
    kinds = {kind for kind in errors.HubClientError.__subclasses__() if kind.__module__ == errors.__name__}
    assert set(EXIT_CODES) == kinds
    assert len(set(codes)) == len(codes) and not {0, 1, INTERRUPTED} & set(codes)
    assert exit_code(OSError("disk full")) == 1


def test_unknown_name_is_one_line_with_suggestions(run: Run, pushed: dict[str, Any]) -> None:
    outcome = run("info", "my-lab/tinny")
    assert outcome.code == 3
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: ") and NAME in outcome.err


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(errors.NotFound):
        main(["info", "no-such-model", "--debug"])


def test_usage_errors_end_with_2(run: Run, folder: Path) -> None:
    query = folder.parent / "query.h5ad"
    assert run("no-such-command").code == 2
    assert run("map").code == 2
    assert run("map", folder, "--query", query, "--out", "x.h5ad", "--min-coverage", "3").code == 2
    assert run("map", folder, "--query", query, "--out", "x.h5ad", "-c", "batch").code == 2
    assert run("map", folder, "--query", query, "--out", "x.csv").code == 2


@pytest.mark.parametrize("words", [["--epochs", "-3"], ["--seed", "-1"], ["--epochs", "x"], ["--start", "worst"]])
def test_numbers_and_choices_out_of_range_end_with_2(run: Run, folder: Path, tmp_path: Path, words: list[str]) -> None:
    outcome = run("map", folder, "--query", folder.parent / "query.h5ad", "--out", tmp_path / "x.h5ad", *words)
    assert outcome.code == 2 and words[0] in outcome.err


def test_what_cannot_be_written_is_told_before_training(run: Run, folder: Path, tmp_path: Path) -> None:
    words = ["map", folder, "--query", folder.parent / "query.h5ad", "-c", "batch=batch"]
    (tmp_path / "file").touch()
    nowhere = run(*words, "--out", tmp_path / "file" / "mapped.h5ad")
    assert nowhere.code == 2 and "Choose another place" in nowhere.err
    nowhere = run(*words, "--out", tmp_path / "mapped.h5ad", "--save-model", tmp_path / "file" / "model")
    assert nowhere.code == 2 and nowhere.err.startswith("error: --save-model")
    for model in ("mapped.h5ad", "mapped.receipt.json"):
        both = run(*words, "--out", tmp_path / "mapped.h5ad", "--save-model", tmp_path / model, "--force")
        assert both.code == 2 and "one would replace the other" in both.err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.md").touch()
    kept = run(*words, "--out", tmp_path / "mapped.h5ad", "--save-model", tmp_path / "thesis", "--force")
    assert kept.code == 2 and "is not a release folder" in kept.err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "thesis"}


@pytest.mark.parametrize("command", [["info"], ["validate"], ["pull", "--out", "new"], ["map", "--out", "m.h5ad"]])
def test_a_broken_manifest_is_told_by_the_name_that_was_given(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    run("pull", folder, "--out", tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    query = ["--query", folder.parent / "query.h5ad"] if command[0] == "map" else []
    outcome = run(command[0], "./broken", *command[1:], *query)
    assert outcome.code == 7 and outcome.err.startswith("error: broken")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_push_follows_the_release_it_names(run: Run, pushed: dict[str, Any], folder: Path) -> None:
    run("push", folder, "--to", NAME, "--version", "1.0.1")
    stale = run("push", folder, "--to", NAME, "--version", "1.0.2", "--parent", "1.0.0")
    assert stale.code == 6 and "--parent" in stale.err and "parent=" not in stale.err
    assert run("push", folder, "--to", NAME, "--version", "1.0.2", "--parent", "1.0.1").code == 0


def test_list_shows_what_was_pushed(run: Run, pushed: dict[str, Any]) -> None:
    listed = {row["name"]: row for row in run("list", "--json").json}
    assert listed[NAME]["version"] == "1.0.0"
    assert listed[NAME]["genes"] == len(simulated.GENES)
    assert listed[NAME]["digest"] == pushed["digest"]
    assert NAME in run("list", "tiny").out
    nothing = run("list", "no-such-word")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no-such-word" in nothing.err


def test_info_for_people_and_scripts(run: Run, pushed: dict[str, Any]) -> None:
    text = run("info", NAME).out
    assert pushed["commit"] in text and "4: B, Mono, NK, T" in text
    told = run("info", NAME, "--json").json
    assert told["ref"] == pushed
    assert Manifest.model_validate(told["manifest"]).digest == pushed["digest"]


@pytest.mark.slow
def test_proteins_are_found_where_they_are_said_to_be(run: Run, tmp_path: Path) -> None:
    model = hub_client.Model.build(simulated.manifest("totalvi"))
    hub_client.train(model, simulated.cells_for(model.manifest), plan=Plan(epochs=1), progress=False)
    model.save(tmp_path / "cite")
    query = simulated.counts(simulated.QUERY, cells=40, proteins=True)
    query.obsm["adt"] = query.obsm.pop("protein")
    query.write_h5ad(tmp_path / "query.h5ad")
    words = ("map", tmp_path / "cite", "--query", tmp_path / "query.h5ad", "--epochs", "1", "--quiet")
    found = run(*words, "--proteins", "adt", "--out", tmp_path / "mapped.h5ad")
    assert found.code == 0
    assert "12 of 12 measured, counts from adt; all 12 imputed" in " ".join(found.out.split())
    mapped = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert list(mapped.uns["X_proteins_imputed"]) == list(simulated.PROTEINS)
    assert mapped.obsm["X_proteins_imputed"].shape == (40, 12)
    refused = run(*words, "--proteins", "prot", "--out", tmp_path / "other.h5ad")
    assert refused.code == EXIT_CODES[errors.VocabularyError][0]
    assert "'prot'" in refused.err


def test_programs_are_counted_and_named(run: Run, tmp_path: Path) -> None:
    model = hub_client.Model.build(simulated.manifest("expimap"))
    hub_client.train(model, simulated.cells_for(model.manifest), plan=Plan(epochs=1), progress=False, accelerator="cpu")
    model.save(tmp_path / "programs")
    assert "6 of 6 active: program 0, program 1" in run("info", tmp_path / "programs").out
    simulated.counts(simulated.QUERY, seed=1).write_h5ad(tmp_path / "query.h5ad")
    words = ("map", tmp_path / "programs", "--query", tmp_path / "query.h5ad", "--epochs", "1", "--quiet")
    assert "6 scores a cell" in run(*words, "-c", "batch=batch", "--out", tmp_path / "mapped.h5ad").out
    mapped = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert list(mapped.uns["X_terms"]) == [term.name for term in model.manifest.terms]
    assert mapped.obsm["X_terms"].shape == (mapped.n_obs, 6)


def test_pull_writes_the_same_release(run: Run, pushed: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    outcome = run("pull", NAME, "--out", tmp_path / "pulled", "--json")
    assert outcome.json == {**pushed, "folder": str(tmp_path / "pulled")}
    weights = "model.safetensors"
    assert (tmp_path / "pulled" / weights).read_bytes() == (folder / weights).read_bytes()


def test_validate_lists_what_is_missing(run: Run, folder: Path) -> None:
    outcome = run("validate", folder)
    assert outcome.code == 1
    assert all(f"{field}: missing" in outcome.out for field in NEEDED)
    found = run("validate", folder, "--json").json["findings"]
    fields = {one["message"].split(":")[0]: one["severity"] for one in found if one["check"] == "fields"}
    assert fields == dict.fromkeys(NEEDED, "warning") | {"created": "info"}


def test_validate_replays_test_vectors(run: Run, folder: Path, tmp_path: Path) -> None:
    model = with_test_vectors(hub_client.Model.load(folder), simulated.cells_for(simulated.manifest()))
    model.save(tmp_path / "vectors")
    assert "test vectors reproduced" in run("validate", tmp_path / "vectors").out
    assert model.manifest.test_vectors
    model.extras[model.manifest.test_vectors.tensors["latent"]].add_(1)
    model.save(tmp_path / "other")
    outcome = run("validate", tmp_path / "other")
    assert outcome.code == 1 and "error: test vectors: " in outcome.out and "latent" in outcome.out
    refused = run("push", tmp_path / "other", "--to", NAME)
    assert refused.code == 5 and "latent" in refused.err


def test_validate_names_a_flipped_byte(run: Run, folder: Path, tmp_path: Path) -> None:
    run("pull", folder, "--out", tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    outcome = run("validate", tmp_path / "broken", "--html", tmp_path / "found.html")
    assert outcome.code == 1
    assert "error: files: model.safetensors" in outcome.out
    assert '<tr class="error"><td>error</td><td>files</td>' in (tmp_path / "found.html").read_text()


def test_cache_lists_and_verifies(run: Run, pushed: dict[str, Any], tmp_path: Path) -> None:
    (record,) = run("cache", "ls", "--json").json["repositories"]
    assert record["name"] == NAME and record["releases"] == record["commits"] == 1 and record["bytes"] > 1000
    assert NAME in run("cache", "ls").out
    assert run("cache", "verify").code == 0
    (weights,) = (tmp_path / "hub").rglob("lfs/objects/*/*/*")
    weights.chmod(0o644)
    weights.write_bytes(b"x" * weights.stat().st_size)
    outcome = run("cache", "verify")
    assert outcome.code == 5
    assert pushed["commit"][:12] in outcome.out and "1 broken" in outcome.out


def test_a_damaged_repository_does_not_hide_the_others(run: Run, pushed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "hub" / "models" / "my-lab" / "torn.git").mkdir()
    listed = run("list", "tiny")
    assert listed.code == 0 and NAME in listed.out
    assert listed.err.startswith("warning: my-lab/torn in ") and listed.err.count("\n") == 1
    assert [row["commits"] for row in run("cache", "ls", "--json").json["repositories"]] == [1, None]
    assert "damaged" in run("cache", "ls").out
    verified = run("cache", "verify")
    assert verified.code == 5 and "my-lab/torn history: torn.git is not a whole git" in verified.out
    assert options.complete_model("my-lab/") == [NAME, "my-lab/torn"]


def test_a_hub_that_is_not_there(run: Run, tmp_path: Path) -> None:
    outcome = run("list", "--hub", tmp_path / "none")
    assert (outcome.code, outcome.out) == (0, "") and "there is no hub at" in outcome.err
    assert run("cache", "ls", "--hub", "https://example.org").code == 9


@pytest.mark.slow
def test_map_writes_labels_and_a_model_that_can_be_pushed(
    run: Run, pushed: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "new" / "mapped.h5ad", tmp_path / "updated"
    words = ["map", NAME, "--query", folder.parent / "query.h5ad", "-c", "batch=batch", "--epochs", "3", "--quiet"]
    words += ["--latent-uncertainty"]
    outcome = run(*words, "--out", out, "--save-model", model, "--truth", "cell_type=cell_type", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    record = outcome.json
    mapped = anndata.read_h5ad(out)
    counts = mapped.obs["cell_type_pred"].value_counts()
    assert {row["label"]: row["cells"] for row in record["labels"]["cell_type"]} == counts[counts > 0].to_dict()
    assert record["reference"]["commit"] == pushed["commit"]
    assert record["genes"]["coverage"] == 1
    assert record["training"]["epochs"] == 3
    assert record["evaluation"][0]["accuracy"] == pytest.approx(
        (mapped.obs["cell_type_pred"].astype(str) == mapped.obs["cell_type"].astype(str)).mean()
    )
    assert 0 < record["evaluation"][0]["latent_accuracy"] <= 1
    width = mapped.obsm["X_latent"].shape
    assert mapped.obsm["X_latent_variance"].shape == mapped.obsm["X_latent_gene_loss"].shape == width
    again = run("push", model, "--to", f"{NAME}-updated", "--json")
    assert again.code == 0
    assert run("info", f"{NAME}-updated", "--json").json["manifest"]["lineage"]["parent"]["digest"] == pushed["digest"]


@pytest.mark.slow
def test_map_for_people(run: Run, folder: Path, tmp_path: Path) -> None:
    query, out = folder.parent / "query.h5ad", tmp_path / "mapped.zarr"
    words = ["map", folder, "--query", query, "-c", "batch=batch", "--epochs", "2", "--out", out, "--quiet"]
    text = run(*words, "--truth", "cell_type=cell_type").out
    for expected in (
        "60 of 60 measured (100.0%)",
        "mean uncertainty",
        "macro-F1",
        "alone: accuracy",
        "2 epochs",
        "mapped.zarr",
    ):
        assert expected in text
    assert anndata.read_zarr(out).n_obs == 240
    refused = run(*words)
    assert refused.code == 2 and "--force" in refused.err
    assert run(*words, "--force").code == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def sure(folder: Path, out: Path, *, away: float) -> Path:
    """Write a release that is sure of its labels, its reference so far away from where queries lie, and return it."""
    model = hub_client.Model.load(folder)
    trust = Trust(calibrations=(Calibration(level="cell_type", temperature=0.001),))
    model.manifest = model.manifest.changed(trust=trust)
    model = with_atlas(model, simulated.cells_for(model.manifest))
    assert model.atlas is not None
    model.atlas.obsm["X_latent"] += away
    return model.save(out)


@pytest.mark.slow
def test_a_red_verdict_ends_with_10_where_it_is_asked_to(run: Run, folder: Path, tmp_path: Path) -> None:
    near, far = (sure(folder, tmp_path / f"away-{away}", away=away) for away in (0, 100))
    words = ["--query", folder.parent / "query.h5ad", "-c", "batch=batch", "--no-train", "-q", "--force"]
    words += ["--out", tmp_path / "mapped.h5ad"]
    lenient = run("map", far, *words)
    assert lenient.code == 0
    shown = " ".join(lenient.out.split())
    assert "verdict red: beyond the atlas (red)" in shown and "Check organism, tissue and gene names" in shown
    (tmp_path / "mapped.h5ad").unlink()
    strict = run("map", far, *words, "--strict", "--json")
    assert strict.code == RED and "the verdict is red" in strict.err
    assert (tmp_path / "mapped.h5ad").exists()
    assert strict.json["verdict"]["colour"] == "red"
    assert {check["colour"] for check in strict.json["verdict"]["checks"]} >= {"red", "not checked"}
    assert run("map", near, *words, "--strict").code == 0


def doubting(folder: Path, out: Path) -> Path:
    """Write a release that states when a cell is unknown, label sets and a coarser level, and return it."""
    model = hub_client.Model.load(folder)
    (fine,) = model.manifest.labels
    classes = sorted(set(simulated.CLASSES.values()))
    coarse = {"key": "cell_class", "categories": classes, "ontology": dict.fromkeys(classes)}
    labels = (
        fine.model_copy(update={"parents": simulated.CLASSES}),
        LabelLevel.model_validate(coarse | {"derived_from": "cell_type"}),
    )
    stated = Calibration(level="cell_type", temperature=0.03, unknown_above=0.3, set_above=0.2)
    model.manifest = model.manifest.changed(labels=labels, trust=Trust(calibrations=(stated,)))
    return model.save(out)


@pytest.mark.slow
def test_map_counts_unknown_cells_and_tells_of_label_sets(run: Run, folder: Path, tmp_path: Path) -> None:
    out, release = tmp_path / "mapped.h5ad", doubting(folder, tmp_path / "doubting")
    words = [
        "map",
        release,
        "--query",
        folder.parent / "query.h5ad",
        "-c",
        "batch=batch",
        "--no-train",
        "-q",
        "--force",
    ]
    words += ["--truth", "cell_type=cell_type", "--out", out]
    record = run(*words, "--json").json
    obs = anndata.read_h5ad(out).obs
    unknown = {level: int((obs[f"{level}_pred"].astype(str) == "unknown").sum()) for level in record["labels"]}
    assert list(unknown) == ["cell_type", "cell_class"] and unknown["cell_class"] < unknown["cell_type"] < 240
    assert record["unknown"] == {level: {"cells": cells, "above": 0.3} for level, cells in unknown.items()}
    sizes = obs["cell_type_set"].astype(str).str.count(r" \| ") + 1
    assert record["label_sets"]["cell_type"] == {"mean_size": pytest.approx(sizes.mean()), "several": (sizes > 1).sum()}
    assert {"cell_type_backoff", "cell_class_set", "cell_class_backoff"} <= set(obs)
    judged = record["evaluation"][0]
    named = obs["cell_type_pred"].astype(str) != "unknown"
    right = obs["cell_type_pred"].astype(str) == obs["cell_type"].astype(str)
    assert judged["named_accuracy"] == pytest.approx(right[named].mean()) and judged["unknown"] == (~named).sum()
    text = run(*words).out
    assert f"called unknown: {unknown['cell_type']} of 240 (uncertainty above 0.3)" in text
    assert (
        f"label sets: {sizes.mean():.2f} labels in the mean, {(sizes > 1).sum()} of 240 cells have more than one"
        in text
    )
    assert "lymphoid" in text and f"of cells that are not called unknown: accuracy {right[named].mean():.3f}" in text
    assert f"label sets: {judged['set_coverage']:.3f} of them hold the true label" in text
    named_all = run(*words, "--unknown-above", "1", "--json").json
    assert named_all["unknown"]["cell_type"] == {"cells": 0, "above": 1.0}
    assert "unknown" not in {row["label"] for rows in named_all["labels"].values() for row in rows}


@pytest.mark.slow
def test_map_trains_where_it_is_asked_to_or_where_it_helps(run: Run, folder: Path, tmp_path: Path) -> None:
    words = ["map", folder, "--query", folder.parent / "query.h5ad", "-c", "batch=batch", "--quiet", "--force"]
    words += ["--out", tmp_path / "mapped.h5ad", "--save-model", tmp_path / "grown"]
    outcome = run(*words, "--no-train")
    assert outcome.code == 0 and "none, as asked" in outcome.out
    shown = run("info", tmp_path / "grown").out
    assert "mapped without training" in shown and "epochs" not in shown
    plan = tmp_path / "plan.toml"
    plan.write_text("epochs = 2")
    steps = tmp_path / "steps.toml"
    steps.write_text("steps = 500\nepochs = 100\nkl_anneal_epochs = 50")
    for more in (["--train", "--epochs", "2"], ["--plan", plan], ["--plan", steps, "--epochs", "2"]):
        assert "2 epochs in" in run(*words, *more).out
        assert "2 epochs, batches of" in run("info", tmp_path / "grown").out
    refused = run(*words, "--plan", plan, "--no-train", "--json").json
    assert (refused["training"], refused["decision"]) == (None, {"train": False, "reason": "as asked"})
    found = run(*words, "--json").json
    assert found["decision"]["train"] == (found["training"] is not None) and found["decision"]["reason"]
    shown = " ".join(run(*words).out.split())  # without line breaks
    assert found["training"] or found["decision"]["reason"] in shown


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be reserved on this system")
def test_a_disk_that_is_too_full_is_found_before_training(run: Run, folder: Path, tmp_path: Path) -> None:
    words = ["map", folder, "--query", folder.parent / "query.h5ad", "-c", "batch=batch", "--epochs", "1", "-q"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        outcome = run(*words, "--out", tmp_path / "mapped.h5ad", "--save-model", tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outcome.code, outcome.out) == (6, "")
    assert "has no room left" in outcome.err and outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_in_training_keeps_what_was_learned(folder: Path, tmp_path: Path) -> None:
    """The signal goes out when the progress bar shows an epoch."""
    code = "import signal; signal.signal(2, signal.default_int_handler); from hub_client.cli import main; main()"
    options = ["-c", "batch=batch", "--epochs", "100000", "--out", "m.h5ad", "--save-model", "model"]
    words = [sys.executable, "-c", code, "map", folder, "--query", folder.parent / "query.h5ad", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=0
    ) as process:
        shown = ""
        while "cells/s" not in shown:
            piece = process.stderr.read(1)
            assert piece, shown
            shown += piece
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == INTERRUPTED
    assert "(interrupted)" in out
    assert "interrupted: training ended early" in err and "Traceback" not in err
    assert "cell_type_pred" in anndata.read_h5ad(tmp_path / "m.h5ad").obs
    assert {path.name for path in tmp_path.iterdir()} == {"m.h5ad", "m.receipt.json", "model"}


def test_map_reports_slips_before_training(run: Run, folder: Path, tmp_path: Path) -> None:
    query = folder.parent / "query.h5ad"
    words = ["map", folder, "--query", query, "--out", tmp_path / "mapped.h5ad"]
    assert run("map", folder, "--query", tmp_path / "none.h5ad", "--out", tmp_path / "mapped.h5ad").code == 3
    assert run(*words, "-c", "batch=donor").code == 8
    assert run(*words, "--plan", tmp_path / "none.toml").code == 3
    plan = tmp_path / "plan.toml"
    plan.write_text("epochs = [")
    assert run(*words, "--plan", plan).code == 7
    plan.write_text("epoch = 3")
    wrong = run(*words, "--plan", plan)
    assert wrong.code == 7 and "epochs" in wrong.err
    plan.write_text("epochs = 3\ngroup_lasso = 0.5")
    foreign = run(*words, "--plan", plan)
    assert foreign.code == 2
    assert "plan.toml sets group_lasso (of expimap), which scpoli does not read" in " ".join(foreign.err.split())
    assert not (tmp_path / "mapped.h5ad").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cell_type=cell_typ"], "no column 'cell_typ', which was to hold the truth of 'cell_type' (--truth). Did you"),
        (["tissue=batch"], "--truth names tissue, but this model predicts cell_type."),
        (["cell_type=batch"], "the truth has q0, q1, the model B, Mono, NK, T."),
        (["cell_type=none"], "the truth has none, the model B"),
        (["tissue=batch", "--labels", "tissue=batch"], "--truth names tissue"),
        (["cell_type=batch", "--labels", "cell_type=cell_class"], "the model B, Mono, NK, T, lymphoid and 1 more."),
    ],
)
def test_a_truth_is_checked_before_training(
    run: Run, folder: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    query = anndata.read_h5ad(folder.parent / "query.h5ad")
    query.obs["none"] = np.nan
    query.write_h5ad(tmp_path / "query.h5ad")
    options = ["-c", "batch=batch", "--out", tmp_path / "mapped.h5ad"]
    outcome = run("map", folder, "--query", tmp_path / "query.h5ad", *options, "--truth", *words)
    assert (outcome.code, outcome.out) == (8, "")
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert said in outcome.err
    assert not (tmp_path / "mapped.h5ad").exists()


def test_a_model_without_prototypes_has_no_truth(run: Run, folder: Path, tmp_path: Path) -> None:
    hub_client.Model.build(simulated.manifest()).save(tmp_path / "untrained")
    query, out = folder.parent / "query.h5ad", tmp_path / "mapped.h5ad"
    outcome = run("map", tmp_path / "untrained", "--query", query, "--out", out, "--truth", "cell_type=cell_type")
    assert outcome.code == 8 and "this model predicts no labels" in outcome.err


@pytest.mark.slow
def test_truth_of_labels_that_the_query_teaches(run: Run, folder: Path, tmp_path: Path) -> None:
    query = anndata.read_h5ad(folder.parent / "query.h5ad")
    query.obs["mine"] = "my " + query.obs["cell_type"].astype(str)
    query.write_h5ad(tmp_path / "query.h5ad")
    words = ["map", folder, "--query", tmp_path / "query.h5ad", "-c", "batch=batch", "--epochs", "2", "-q", "--json"]
    taught = ["--labels", "cell_type=mine", "--truth", "cell_type=mine"]
    outcome = run(*words, *taught, "--out", tmp_path / "mapped.h5ad")
    assert outcome.code == 0
    (judged,) = outcome.json["evaluation"]
    assert (judged["cells"], judged["not_in_model"]) == (240, {})


def test_model_names_are_completed(run: Run, pushed: dict[str, Any]) -> None:
    assert options.complete_model("my-lab/") == [NAME]
    assert options.complete_model("nobody/") == []


@pytest.mark.slow
def test_the_installed_shape_of_the_command(folder: Path, tmp_path: Path) -> None:
    """A process of its own: no traceback on stderr, the exit code from the table."""
    code = "from hub_client.cli import main; main()"
    words = [sys.executable, "-c", code, "info", "no-such-model"]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"ARCHZOO_HUB": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_pairs() -> None:
    assert options.pairs(["batch=donor", "site=a=b"], option="-c") == {"batch": "donor", "site": "a=b"}
    assert options.pairs(None, option="-c") is None
    for wrong in (["batch"], ["=donor"], ["batch="], ["batch=a", "batch=b"]):
        with pytest.raises(errors.InvalidInput, match="KEY=COLUMN"):
            options.pairs(wrong, option="-c")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Pass min_coverage= to map it.", "Pass --min-coverage to map it."),
        ("pass layer='raw'.", "pass --layer raw."),
        ("pass conditions={'batch': obs column}.", "pass --condition batch=COLUMN."),
        ("Write conditions={model's key: your obs column}.", "Write --condition KEY=COLUMN."),
        ("labels= names donor", "--labels names donor"),
        ("push with parent='1a2b3c'.", "push with --parent 1a2b3c."),
        ("pass overwrite=True to replace", "pass --force to replace"),
        ("choose one hub with hub=.", "choose one hub with --hub."),
        ("X holds counts = whole numbers", "X holds counts = whole numbers"),
    ],
)
def test_messages_speak_of_options(said: str, told: str) -> None:
    assert as_options(said) == told


def test_warnings_are_lines_on_stderr(run: Run, folder: Path, tmp_path: Path) -> None:
    simulated.counts(simulated.QUERY)[:, :45].copy().write_h5ad(tmp_path / "few.h5ad")
    words = ["map", folder, "--query", tmp_path / "few.h5ad", "-c", "batch=batch", "--epochs", "1", "-q"]
    outcome = run(*words, "--out", tmp_path / "mapped.h5ad", "--json")
    assert outcome.code == 0
    assert outcome.json["genes"]["coverage"] == 0.75
    assert len(outcome.json["warnings"]) == 1
    assert outcome.err == f"warning: {as_options(outcome.json['warnings'][0])}\n"


@pytest.mark.parametrize(("width", "shown"), [(120, "name size note"), (20, "name size"), (10, "name")])
def test_narrow_tables_lose_their_least_important_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, shown: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [Column("name"), Column("size", "right", rank=1), Column("note", rank=2)]
    screen.say_table(columns, [["kidney", "12", "a long note"]])
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading.split() == shown.split()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_960, "100 kB"), (2_500_000, "2.5 MB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable(size) == text
