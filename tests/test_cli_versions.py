"""``archzoo yank``, ``diff`` and ``log``, as a shell runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_client
from tests.test_cli import NAME, Run, folder, pushed, run  # noqa: F401 - fixtures


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
    assert {"what": "title", "before": None, "after": "Another"} in told["values"]
    assert told["needed"] == "patch"


def test_log_walks_to_the_root(run: Run, pushed: dict[str, Any]) -> None:  # noqa: F811
    (step,) = run("log", NAME, "--json").json
    assert step["digest"] == pushed["digest"]
    assert "the first" in run("log", NAME).out
