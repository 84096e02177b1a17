"""Tutorials run as they are written, on the data they are about, and find what they say they find."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tutorials

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pictures_and_links_are_there(path: Path) -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", path.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_picture_is_one_that_the_code_saves(path: Path) -> None:
    code = "".join(tutorials.blocks(path.read_text()))
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text())
    assert pictures
    assert [picture for picture in pictures if f'"{picture}"' not in code] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_tutorial_runs_as_it_is_written(path: Path, shared_data: Callable[[str], Path]) -> None:
    """Every block runs and prints what the page shows, but for digits, which differ between machines."""
    page = path.read_text()
    files = tutorials.files_read(page)
    data = {shared_data(name).parent for name in files}
    with tutorials.beside(data.pop(), files) as folder:
        printed = tutorials.run(page, folder)
        for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page):
            assert (folder / picture).stat().st_size > 5_000
    for found, shown in zip(printed, tutorials.shown(page), strict=True):
        assert words(found[:200]) and words(found) == words(shown) if shown else not found


def words(text: str) -> list[str]:
    """Return the words of the first line: what follows is ranked by numbers that machines round differently."""
    return re.findall(r"[A-Za-z]+", text.splitlines()[0]) if text else []
