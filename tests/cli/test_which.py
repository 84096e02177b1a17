"""``archzoo which``: a table that fits, the command to go on with, and JSON."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.cli.which import size
from tests.cli.test_cli import NAME, Run, folder, pushed, run  # noqa: F401 - fixtures


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200MB", 200_000_000), ("1.5 GB", 1_500_000_000), ("4096", 4096), ("2k", 2000), ("10B", 10)],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1MB", "1TBs", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="--max-size"):
        size(text)


@pytest.mark.usefixtures("pushed")
def test_the_table_fits_and_json_has_the_same(
    run: Run,  # noqa: F811
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ("which", folder.parent / "query.h5ad", "--hub", tmp_path / "hub")
    shown, record = run(*words), run(*words, "--json").json
    assert shown.code == 0 and max(map(len, shown.out.splitlines()[:4])) <= 80
    assert shown.out.splitlines()[2].split()[:3] == ["1", NAME, "100%"]
    [row] = record["references"]
    assert row["name"] == NAME and row["tried"] and row["reason"] in " ".join(shown.out.split())
    if record["best"]:
        assert shlex.split(record["command"])[:3] == ["archzoo", "map", NAME] and record["command"] in shown.out
    else:
        assert record["command"] is None and "None fits" in shown.out


@pytest.mark.usefixtures("pushed")
def test_what_is_too_large_is_not_pulled(run: Run, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ("which", folder.parent / "query.h5ad", "--hub", tmp_path / "hub", "--max-size", "1KB")
    outcome = run(*words)
    assert outcome.code == 0 and "is above the limit of" in outcome.out and "None fits" in outcome.out
    assert run("which", folder.parent / "query.h5ad", "--max-size", "large").code == 2
    assert run("which", "missing.h5ad").code == 3
