"""Errors as one line on stderr and an exit code that scripts can rely on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hub_client import errors
from hub_client.cli import screen

INTERRUPTED = 130

EXIT_CODES: dict[type[Exception], tuple[int, str]] = {
    errors.InvalidInput: (2, "an option or argument was refused"),
    errors.NotFound: (3, "nothing has this name"),
    errors.AlignmentError: (4, "the query's matrix does not fit the model"),
    errors.IntegrityError: (5, "a file is not the one its release names"),
    errors.TransportError: (6, "the hub could not be read or written"),
    errors.ManifestError: (7, "a manifest, recipe or plan is wrong"),
    errors.VocabularyError: (8, "a condition, label or column is unknown"),
    errors.Unsupported: (9, "this kind of model cannot do that"),
}
"""Exit code of each kind of error, and what it means. Never renumbered."""


def exit_code(error: Exception) -> int:
    """Return the exit code of an error; 1 for those without one of their own."""
    return EXIT_CODES.get(type(error), (1, ""))[0]


def table_of_codes() -> str:
    """Return the exit codes as Markdown, for the help text."""
    rows = {0: "all went well", 1: "any other error, or `validate` found problems"}
    rows |= dict(EXIT_CODES.values()) | {INTERRUPTED: "interrupted"}
    return "Exit codes:\n\n" + "\n".join(f"- {code}: {meaning}" for code, meaning in rows.items())


@contextmanager
def failing(*, debug: bool) -> Iterator[None]:
    """Turn the errors we raise on purpose, and those of the operating system, into a line and an exit code."""
    try:
        yield
    except (errors.HubClientError, OSError) as error:
        if debug:
            raise
        screen.complain(f"error: {error}")
        sys.exit(exit_code(error))
