"""README's promises: its quickstart runs, and its commands are the ones CI and users run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from hub_client import _resources
from tests import warm

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The code between README's markers of this name."""
    (found,) = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- end -->", README, flags=re.DOTALL)
    return str(found)


@pytest.mark.slow
def test_quickstart_runs(tmp_path: Path) -> None:
    if not any(_resources.released().iterdir()):
        pytest.skip("the bundled zoo is empty")
    environment = os.environ | {"ARCHZOO_HUB": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [warm.python(), "-c", block("quickstart")], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "my-lab/pbmc-scpoli-68k" in done.stdout
    assert "of the model's genes were measured" in done.stdout


def test_quickstart_is_short() -> None:
    assert len(block("quickstart").splitlines()) <= 14


@pytest.mark.parametrize("name", ["run-command", "test-command"])
def test_commands_are_one_line_to_paste(name: str) -> None:
    (line,) = block(name).splitlines()
    steps = line.split(" && ")
    assert steps[:3] == ["python3 -m venv .venv", ". .venv/bin/activate", "pip install -q torch==2.13.0"]
    assert steps[3].startswith("pip install -q -c constraints.txt -e ")


def test_ci_runs_readmes_test_command(tmp_path: Path) -> None:
    """The line that .ci/run takes from README is the one between the markers."""
    script = (ROOT / ".ci" / "run").read_text()
    extraction = next(line for line in script.splitlines() if line.startswith("command="))
    between = next(line for line in script.splitlines() if line.startswith("between="))
    shown = subprocess.run(
        ["bash", "-c", f'{between}\n{extraction}\nprintf "%s\\n" "$command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == block("test-command")


def test_links_lead_somewhere() -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if link and not (ROOT / link).exists()] == []
