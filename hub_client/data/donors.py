"""Names that look like those of donors or patients: in a mapped model they would go wherever the model goes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hub_client import errors

_PERSON = "donor|patient|subject|participant|individual|proband|volunteer|person"
_KEY = re.compile(rf"(?:{_PERSON})s?(?:id|ids|no|nr|num|number|name|code)?|subj|indiv|ind|pat|mrn")
_ABOUT = frozenset(
    {"age", "batch", "cohort", "condition", "diagnosis", "disease", "ethnicity", "gender", "group", "organism", "sex"}
    | {"site", "species", "stage", "status", "tissue", "treatment", "type"}
)
"""Last words of columns that tell donors' groups apart and not the donors."""
_SEPARATOR = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_NUMBERED = re.compile(
    rf"(?i)(?:.*[\W_])?(?:(?:{_PERSON})[\W_]*(?:(?:id|no|nr)[\W_]*)?[a-z]{{0,3}}\d+[a-z]?"
    rf"|(?:{_PERSON})(?:[\W_]+[a-z]|(?-i:[A-RT-Z]))"
    r"|(?:pat|pt|subj|indiv|ind|hd)[\W_]*\d+|sub-\d+)(?:[\W_].*)?"
)
_SHORT = re.compile(r"([PD])(\d{1,4})")


def named_like_donors(column: str) -> bool:
    """Return whether a column, or a condition's key, is called as one that holds a name for each donor or patient."""
    words = [word.lower() for word in _SEPARATOR.split(column) if word]
    return any(_KEY.fullmatch(word) for word in words) and words[-1] not in _ABOUT


def donor_names(categories: Iterable[str]) -> list[str]:
    """Return the categories that look like names of donors or patients.

    ``Donor 3``, ``patient_07_stim`` and ``pt12`` do; ``P1`` and ``D1`` where there are several of them, and none of a
    number 0, with which days and passages begin.
    """
    names = list(categories)
    found = [name for name in names if _NUMBERED.fullmatch(name)]
    short = [(name, match[1], int(match[2])) for name in names if (match := _SHORT.fullmatch(name))]
    for letter in "PD":
        numbers = [number for _, first, number in short if first == letter]
        if len(numbers) > 1 and 0 not in numbers:
            found += [name for name, first, _ in short if first == letter]
    return found


def looks_like_donors(key: str, categories: Iterable[str], *, column: str | None = None) -> str | None:
    """Return why a condition looks like donors or patients, as what follows "looks like ... by"; None if it does not.

    Parameters
    ----------
    key
        The condition's.
    categories
        Its categories.
    column
        The obs column they came from, if that is known.
    """
    for name, what in ((column, "its obs column"), (key, "its key")):
        if name is not None and named_like_donors(name):
            return f"{what}, {name!r}"
    names = donor_names(categories)
    return f"its categories, {errors.names(names)}" if names else None
