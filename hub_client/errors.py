"""Every error archzoo raises on purpose: one tree, each also a builtin, with the facts on attributes.

Each message names what was given, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def names(values: Iterable[object], *, shown: int = 5) -> str:
    """Return up to ``shown`` names joined for a message, then how many more there are."""
    items = [str(value) for value in values]
    head = ", ".join(items[:shown])
    return head if len(items) <= shown else f"{head} and {len(items) - shown:,} more"


class HubClientError(Exception):
    """Base class of every error in this package."""


class NotFound(HubClientError, LookupError):
    """Nothing has this name; close names are in ``suggestions``."""

    def __init__(self, message: str, *, name: str, suggestions: Sequence[str] = ()) -> None:
        hint = f" Did you mean {names(suggestions)}?" if suggestions else ""
        super().__init__(message + hint)
        self.name = name
        self.suggestions = tuple(suggestions)


class TransportError(HubClientError, ConnectionError):
    """A hub could not be reached, refused us, cannot be written, or has moved on since ``ref`` was read."""

    def __init__(self, message: str, *, ref: object = None) -> None:
        super().__init__(message)
        self.ref = ref


class Restricted(TransportError):
    """A hub shows that it has something and gives it only to those who accepted its terms there."""


class ManifestError(HubClientError, ValueError):
    """A manifest, recipe or plan does not fit its format; ``problems`` has one line each."""

    def __init__(self, message: str, *, path: str | None = None, problems: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *problems]))
        self.path = path
        self.problems = tuple(problems)


class IntegrityError(HubClientError, ValueError):
    """A file is not the one its manifest names: other bytes, other tensors, missing or uninvited."""

    def __init__(self, message: str, *, file: str, expected: object = None, actual: object = None) -> None:
        super().__init__(message)
        self.file = file
        self.expected = expected
        self.actual = actual


class AlignmentError(HubClientError, ValueError):
    """A query's matrix cannot be read as the model's input: wrong genes, wrong organism, not counts."""

    def __init__(self, message: str, *, coverage: float | None = None, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.coverage = coverage
        self.missing = tuple(missing)


class VocabularyError(HubClientError, ValueError):
    """A condition, label or column is not one the model or the query knows."""

    def __init__(
        self, message: str, *, field: str, unknown: Iterable[object] = (), known: Iterable[object] = ()
    ) -> None:
        super().__init__(message)
        self.field = field
        self.unknown = tuple(map(str, unknown))
        self.known = tuple(map(str, known))


class Unsupported(HubClientError, NotImplementedError):
    """The kind of model at hand has no such verb."""

    def __init__(self, message: str, *, kind: str, verb: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.verb = verb


class InvalidInput(HubClientError, ValueError):
    """An argument is out of its range; ``facts`` maps argument names to what was given."""

    def __init__(self, message: str, *, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.facts = dict(facts or {})
