"""Errors as one line on stderr and an exit code that scripts can rely on."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hub_client import errors
from hub_client.cli import screen
from hub_client.cli.argument_names import as_options

INTERRUPTED = 130
RED = 10
"""Of a mapping whose verdict is red, where that was asked for."""

EXIT_CODES: dict[type[Exception], tuple[int, str]] = {
    errors.InvalidInput: (2, "an option or argument was refused"),
    errors.NotFound: (3, "nothing has this name"),
    errors.AlignmentError: (4, "the query's matrix does not fit the model"),
    errors.IntegrityError: (5, "a file is not the one its release names"),
    errors.TransportError: (6, "a hub or a folder could not be read or written"),
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
    rows |= dict(EXIT_CODES.values()) | {RED: "the verdict on a mapping is red (`map --strict`)"}
    rows |= {INTERRUPTED: "interrupted"}
    return "Exit codes:\n\n" + "\n".join(f"- {code}: {meaning}" for code, meaning in rows.items())


class _Warnings(logging.Handler):
    """Shows what the verbs log as one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        screen.complain(f"warning: {as_options(record.getMessage())}")


@contextmanager
def failing(*, debug: bool) -> Iterator[None]:
    """Turn warnings into lines, and errors into a line and an exit code.

    Errors are those we raise on purpose and those of the operating system; others are bugs and keep their traceback.
    """
    log, shown = logging.getLogger("hub_client"), _Warnings(logging.WARNING)
    log.addHandler(shown)
    try:
        yield
    except (errors.HubClientError, OSError) as error:
        if debug:
            raise
        screen.complain(f"error: {as_options(str(error))}")
        sys.exit(exit_code(error))
    finally:
        log.removeHandler(shown)
