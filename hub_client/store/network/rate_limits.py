"""How long a hub asks to be left alone: ``Retry-After``, and the ``RateLimit`` header of the public hub and others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_LEFT = re.compile(r"(?i)(?<![\w-])(?:r|remaining)=(\d{1,18})", re.ASCII)
_RESET = re.compile(r"(?i)(?<![\w-])(?:t|reset)=(\d{1,9})", re.ASCII)
_RESETS = ("ratelimit-reset", "x-ratelimit-reset")
_EPOCH = 10**9
"""From here on a reset is a moment, in seconds since 1970, and no number of seconds."""


def asked_pause(headers: Mapping[str, str], *, limited: bool) -> float:
    """Return for how many seconds a busy hub asks to be left alone, 0 where it does not state that.

    Parameters
    ----------
    headers
        Of its answer, names in lower case: ``retry-after`` in seconds or as a date, which is counted from the answer's
        own ``date``, so that clocks may differ; ``ratelimit`` (``"api";r=0;t=55``, as
        draft-ietf-httpapi-ratelimit-headers has it, or its earlier form ``limit=100, remaining=0, reset=55``).
    limited
        Whether it answered 429; only then quotas, which hubs state in every answer, are what it waits for.
    """
    now = _moment(headers.get("date", "")) or datetime.now(UTC)
    asked = _retry_after(headers.get("retry-after", ""), now)
    if not limited:
        return asked
    resets = (_reset(headers.get(name, ""), now) for name in _RESETS)
    return max(asked, _rate_limit(headers.get("ratelimit", "")), *resets)


def _retry_after(text: str, now: datetime) -> float:
    if _SECONDS.fullmatch(text.strip()):
        return float(text)
    until = _moment(text)
    return max(0.0, (until - now).total_seconds()) if until else 0.0


def _rate_limit(text: str) -> float:
    """Return when the last of the used-up quotas is full again; a header may list several, with commas between."""
    quotas = text.split(",") if ";" in text else [text]
    used_up = [quota for quota in quotas if (left := _LEFT.search(quota)) and int(left[1]) == 0]
    resets = (_RESET.search(quota) for quota in used_up or quotas)
    return max((float(reset[1]) for reset in resets if reset), default=0.0)


def _reset(text: str, now: datetime) -> float:
    found = text.strip()
    if not re.fullmatch(r"\d{1,10}", found, re.ASCII):
        return 0.0
    return float(found) if int(found) < _EPOCH else max(0.0, int(found) - now.timestamp())


def _moment(text: str) -> datetime | None:
    """Return the moment of an HTTP date; None if it is none."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
