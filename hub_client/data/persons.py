"""Text that names a person: a name or a birth date beside what only one person has.

A name alone is not looked for, because authors, vendors and cell types have names, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MONTH = (
    r"(?:jan|feb|fév|mar|mär|apr|abr|avr|may|mai|maggio|jun|jui|giu|jul|lug|aug|ago|aoû|sep|set|oct|okt|out|ott|nov|dec|dez|déc|dic)"
    r"[a-zéûä]*\.?"
)
"""Months in English, German, French, Spanish, Italian and Portuguese."""
_DAY = r"(?:3[01]|[12]\d|0?[1-9])"
_TWO = r"(?:0[1-9]|1[0-2])"


def _date(year: str) -> str:
    """Return the pattern of a whole date in such a year: year, month, day in any usual order and spelling."""
    return (
        rf"(?:{year}[-./_ ]?{_TWO}[-./_ ]?(?:3[01]|[12]\d|0[1-9])"
        rf"|{_DAY}[-./_ ](?:1[0-2]|0?[1-9])[-./_ ]{year}"
        rf"|{_DAY}(?:st|nd|rd|th)?[-. _]+(?:de )?(?i:{_MONTH})[-, _]+(?:de )?{year}"
        rf"|{year}年(?:1[0-2]|0?[1-9])月{_DAY}日"
        rf"|(?i:{_MONTH})[ _]+{_DAY}(?:st|nd|rd|th)?[, _]+{year})(?!\d)"
    )


_ANY_YEAR = r"(?:19|20)\d\d"
_BIRTH_YEAR = r"(?:19\d\d|200\d|201[0-2])"
"""A year that a date beside a name is a birth date in, and no date of an experiment."""
_UPPER = "A-ZÀ-ÞĀ-ſΆ-ΫЀ-Я"
_LETTER = "a-zß-ÿĀ-ſά-ώа-џ"
"""Latin, Greek and Cyrillic letters; capital and small ones alternate in Latin Extended-A, so both have all of it."""
_WORD = rf"(?:[{_UPPER}]['’])?[{_UPPER}](?:[{_LETTER}]+|[{_UPPER}]+)(?:['’-][{_UPPER}]?[{_LETTER}]+)*"
_PARTICLES = r"(?:(?:van|von|der|den|de|del|della|di|da|dos|la|le|al|bin|ibn|ter|ten|zu) ){0,3}"
_NAME = (
    rf"(?<![^\W_])(?:{_WORD}(?:(?:,? +|, ?|[_^])(?:[{_UPPER}]\.?[ _]+)?{_PARTICLES}{_WORD}(?:[ _^]{_WORD})?"
    rf"|, ?[{_UPPER}]\.(?: ?[{_UPPER}]\.)?)"
    rf"|(?:Mr|Mrs|Ms|Herr|Frau|Mme|Sig|Sra?)\.? {_WORD}|[一-鿿]{{2,4}}|[가-힯]{{2,4}})"
)
_INITIAL = rf"(?<![^\W_])[{_UPPER}]\. ?{_WORD}"
_INITIALS = rf"[{_UPPER}]\. ?[{_UPPER}]\."
_LOWER = r"(?<![^\W_])[a-zß-ÿ]{2,}[_.][a-zß-ÿ]{2,}"
_BETWEEN = r"[\s,;:(_*|/.–-]{1,4}"
_BORN = (
    r"(?i:(?<![^\W_])(?:born(?: on| in)?|birth[ _-]?(?:day|date)|date[ _-]of[ _-]birth|d\.?o\.?b\.?"
    r"|geb(?:oren|\.)(?: am)?|née? le|nacid[oa](?: el)?|nat[oa] il))"
)
_COLON = r"[\s:=(,_*\"'#-]{1,6}"
_RECORD = (
    r"(?i:(?<![^\W_])(?:m\.?r\.?n\.?|nhs|ssn"
    r"|(?:medical|hospital|patient|clinical|health|case|chart)[ _-]?(?:record|file|chart|history)s?"
    r"|(?:medical|hospital|patient|case|chart|insurance|social[ _-]security)(?=[ _-]?(?:no|nr|num|id|#)))"
    r"[ _-]?(?:number|num|no|nr|id)?)"
)
_NUMBER = r"[A-Za-z]{0,3}[ -]?\d(?:[ /-]?\d){3,}(?!\d)"
_RECORD_OF_ONE = (
    r"(?i:(?<![^\W_])(?:(?:record|file|chart|case|hospital|pat(?:ient)?|donor|subject|insurance)s?"
    r"[ _-]?(?:number|num|no|nr|id|#)|(?:fall|patienten|versicherten|akten)nummer)[\s.:=#_-]{0,4})"
)
_SHORT_DATE = rf"(?:{_DAY}/(?:1[0-2]|0?[1-9])/|(?:3[01]|[12]\d|0[1-9])\.{_TWO}\.)\d\d(?!\d)"
_DIGITS = r"\d(?:[ /-]?\d){4,}(?!\d)"
_OF_PATIENTS = r"(?i:(?<![^\W_])(?:patient|donor|subject|participant|proband|individual)s?(?:[ _-]?names?)?)"

PATTERNS: Mapping[str, re.Pattern[str]] = {
    "a birth date": re.compile(
        rf"{_BORN}{_COLON}{_date(_ANY_YEAR)}|(?:{_NAME}|{_INITIAL}).{{0,12}}?{_BORN}{_COLON}{_ANY_YEAR}(?!\d)"
    ),
    "a record number": re.compile(rf"{_RECORD}[\s:=(,_*\"'#.-]{{0,6}}{_NUMBER}"),
    "a person": re.compile(
        rf"(?:{_NAME}|{_INITIAL}|{_LOWER}){_BETWEEN}(?:(?i:b\.|d\.?o\.?b\.?|\*)\s?)?(?:{_date(_BIRTH_YEAR)}|{_SHORT_DATE})"
        rf"|{_NAME}.{{0,15}}?{_RECORD_OF_ONE}{_NUMBER}|{_RECORD_OF_ONE}{_NUMBER}.{{0,15}}?{_NAME}|(?<!\d){_date(_BIRTH_YEAR)}{_BETWEEN}{_NAME}"
        rf"|{_OF_PATIENTS}[\s:=,_-]{{1,3}}{_NAME}{_BETWEEN}(?i:no\.?|nr\.?|number|id|#)?[\s:.]{{0,2}}{_DIGITS}"
    ),
}
OWN_FACT = re.compile(
    r"(?i)birth[ _-]?(?:day|date)|date[ _-]of[ _-]birth|dob|mrn|medical[ _-]record(?:[ _-]?(?:number|no|id))?"
)
"""Keys of which one in a record is enough: what they hold is one person's."""
_CATEGORY = re.compile(
    rf"{_NAME}{_BETWEEN}(?:(?i:no\.?|nr\.?|id|#)[\s:.]{{0,2}})?(?!20[12]\d{_TWO})\d{{6,}}\W?"
    rf"|{_INITIALS}{_BETWEEN}{_date(_BIRTH_YEAR)}"
)


def gives_away(category: str) -> bool:
    """Return whether a category names a person, as a push would find."""
    return named(category) is not None or any(pattern.search(category) for pattern in PATTERNS.values())


def named(category: str) -> str | None:
    """Return a category that is a person's name and a number of six digits or more, or initials and a birth date.

    None for any other.
    """
    return category if _CATEGORY.fullmatch(category) else None
