"""Tutorials that run: their Python blocks, in order, as one program; what they print, and the pictures they save.

A block that prints is followed by a text block with what it printed. ``python -m tests.tutorials PAGE --data FOLDER``
runs a page beside the data it reads, writes what was printed into the page and the pictures into its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

_BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL)
PICTURES = ("*.png", "*.svg")


def blocks(page: str) -> list[str]:
    """Return a page's Python blocks."""
    return [found["code"] for found in _BLOCK.finditer(page)]


def shown(page: str) -> list[str]:
    """Return what a page says that each block prints; ``""`` for one that prints nothing."""
    return [found["printed"] or "" for found in _BLOCK.finditer(page)]


def run(page: str, folder: Path) -> list[str]:
    """Run a page's blocks one after another in a folder, and return what each printed."""
    names: dict[str, object] = {}
    printed = []
    with contextlib.chdir(folder):
        for code in blocks(page):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, "tutorial", "exec"), names)
            printed.append("".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines()))
    return printed


def written(page: str, printed: list[str]) -> str:
    """Return the page with what its blocks printed."""
    answers = iter(printed)

    def filled(found: re.Match[str]) -> str:
        answer = next(answers)
        return f"```python\n{found['code']}```\n" + (f"\n```text\n{answer}```\n" if answer else "")

    return _BLOCK.sub(filled, page)


@contextlib.contextmanager
def beside(data: Path, wanted: list[str]) -> Iterator[Path]:
    """Give a folder for a while that holds these files of another one."""
    with TemporaryDirectory(prefix="archzoo-") as name:
        for file in wanted:
            (Path(name) / file).symlink_to((data / file).resolve())
        yield Path(name)


def files_read(page: str) -> list[str]:
    """Return the names of data files that a page's code opens."""
    return sorted({name for code in blocks(page) for name in re.findall(r'"([\w.-]+\.(?:h5ad|gmt|csv))"', code)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    page = given.page.read_text(encoding="utf-8")
    with beside(given.data, files_read(page)) as folder:
        given.page.write_text(written(page, run(page, folder)), encoding="utf-8")
        for picture in (path for pattern in PICTURES for path in folder.glob(pattern)):
            shutil.copy(picture, given.page.parent / picture.name)


if __name__ == "__main__":
    main()
