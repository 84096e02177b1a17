"""``archzoo yank``, ``diff`` and ``log``, as a shell runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_client
from tests.cli.test_cli import NAME, Run, folder, pushed, run  # noqa: F401 - fixtures


def test_a_yanked_version_is_pulled_with_a_warning(
    run: Run,  # noqa: F811
    pushed: dict[str, Any],  # noqa: F811
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    run("push", folder, "--to", NAME, "--version", "1.0.1")
    yanked = run("yank", f"{NAME}@1.0.1", "--reason", "wrong cells")
    assert yanked.code == 0 and "wrong cells" in yanked.out
    assert run("info", NAME, "--json").json["ref"]["version"] == "1.0.0"
    pulled = run("pull", f"{NAME}@1.0.1", "--out", tmp_path / "yanked")
    assert pulled.code == 0
    assert pulled.err.startswith("warning:") and pulled.err.count("wrong cells") == 1
    assert run("yank", NAME, "--reason", "all of it").code == 2


def test_diff_tells_what_changed(run: Run, pushed: dict[str, Any], folder: Path) -> None:  # noqa: F811
    assert "patch: the description changed" in run("diff", NAME, folder).out
    other = hub_client.Model.load(folder)
    other.manifest = other.manifest.changed(title="Another")
    other.save(folder.parent / "other", overwrite=True)
    told = run("diff", NAME, folder.parent / "other", "--json").json
    assert {"field": "title", "before": None, "after": "Another"} in told["values"]
    assert told["needed"] == "patch"


def test_log_walks_to_the_root(run: Run, pushed: dict[str, Any]) -> None:  # noqa: F811
    (step,) = run("log", NAME, "--json").json
    assert step["digest"] == pushed["digest"]
    assert "the first" in run("log", NAME).out


def test_a_key_signs_and_validate_tells(run: Run, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    line = run("key", tmp_path / "lab.pem").out
    (tmp_path / "trusted.toml").write_text(f"[publishers]\n{line}")
    assert run("push", folder, "--to", NAME, "--sign", tmp_path / "lab.pem").code == 2
    signed = ("--sign", tmp_path / "lab.pem", "--publisher", "My lab")
    assert run("push", folder, "--to", NAME, *signed).code == 0
    assert "signed by My lab, whom you trust" in run("validate", NAME, "--trust", tmp_path / "trusted.toml").out


def test_a_lock_is_what_pull_insists_on(run: Run, pushed: dict[str, Any], folder: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "archzoo.lock"
    assert pushed["digest"] in run("lock", NAME, "--out", file).out
    run("push", folder, "--to", NAME, "--version", "1.0.1")
    pulled = run("pull", NAME, "--locked", file, "--out", tmp_path / "pulled", "--json")
    assert pulled.json["digest"] == pushed["digest"]
    file.write_text(file.read_text().replace(pushed["digest"], "0" * 64))
    refused = run("pull", NAME, "--locked", file, "--out", tmp_path / "moved")
    assert refused.code == 5 and "not what the lock file says: digest" in refused.err


def test_verify_and_cite(run: Run, pushed: dict[str, Any]) -> None:  # noqa: F811
    outcome = run("verify", NAME)
    assert outcome.code == 5  # it has no test vectors
    assert [claim["holds"] for claim in run("verify", NAME, "--json").json] == [True, True, False, None]
    assert f"sha256:{pushed['digest']}" in run("cite", NAME).out
    assert f'value: "sha256:{pushed["digest"]}"' in run("cite", NAME, "--format", "cff").out


def test_a_receipt_is_replayed(run: Run, pushed: dict[str, Any], folder: Path, tmp_path: Path) -> None:  # noqa: F811
    query, out = folder.parent / "query.h5ad", tmp_path / "mapped.h5ad"
    words = ("map", NAME, "--query", query, "-c", "batch=batch", "--epochs", "1", "--out", out, "--quiet")
    assert run(*words, "--json").json["written"]["receipt"] == str(tmp_path / "mapped.receipt.json")
    again = run("replay", tmp_path / "mapped.receipt.json", "--query", query, "--quiet")
    assert again.code == 0 and again.out == "latents and labels are the same, bit for bit\n"
    other = run("replay", tmp_path / "mapped.receipt.json", "--query", query, "--seed", "9", "--quiet", "--json")
    assert {"what": "asked.seed", "before": 0, "after": 9} in other.json["differences"]
    assert run("replay", tmp_path / "none.json", "--query", query).code == 3
