"""How long a hub asks to be left alone, how long it is, and what is stated where it asks for too long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from hub_client import errors
from hub_client.store.network.http import LONGEST_WAIT, Client
from hub_client.store.network.rate_limits import asked_pause
from tests.hubs import HubServer, Reply, served

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with served(HubServer()) as hub:
        yield hub


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "6"}, 6),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, 0),
        ({"retry-after": "Friday, 02-Jan-26 03:05:05 GMT"}, 60),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api"; r=0; t=55'}, 55),
        ({"ratelimit": '"api";r=3;t=55'}, 55),
        ({"ratelimit": '"api";r=0;t=7, "pages";r=90;t=300'}, 7),
        ({"ratelimit": "limit=100, remaining=0, reset=42"}, 42),
        ({"ratelimit": "nonsense;t=x"}, 0),
        ({"ratelimit": '"api";r=0;t=4', "retry-after": "9"}, 9),
        ({"ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 20)}, 20),
    ],
)
def test_what_a_hub_asks_for(headers: dict[str, str], seconds: float) -> None:
    headers["date"] = format_datetime(NOW, usegmt=True)
    assert asked_pause(headers, limited=True) == pytest.approx(seconds)


def test_a_quota_is_nothing_that_a_broken_hub_waits_for() -> None:
    assert asked_pause({"ratelimit": '"api";r=400;t=250'}, limited=False) == 0


def test_a_date_is_counted_from_the_hubs_clock() -> None:
    ahead = datetime.now(UTC) + timedelta(hours=5)
    headers = {"date": format_datetime(ahead, usegmt=True)}
    headers["retry-after"] = format_datetime(ahead + timedelta(seconds=3), usegmt=True)
    assert asked_pause(headers, limited=True) == 3
    assert asked_pause({"retry-after": headers["date"]}, limited=True) > 4 * 3600


@pytest.mark.slow
def test_a_hub_is_left_alone_as_long_as_it_asks(server: HubServer) -> None:
    begun, limited = time.monotonic(), iter([True])
    server.trick(
        "/api/",
        lambda seen, reply: Reply(429, headers={"RateLimit": '"api";r=0;t=2'}) if next(limited, False) else reply,
    )
    assert Client(server.url).get("api/models", limit=1000).status == 200
    assert 2 <= time.monotonic() - begun < 5


@pytest.mark.parametrize("header", [{"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}])
def test_a_hub_that_asks_for_too_long_is_not_waited_for(server: HubServer, header: dict[str, str]) -> None:
    assert LONGEST_WAIT < 3600
    server.trick("/api/", lambda seen, reply: Reply(429, headers=header | {"X-Error-Message": "Slow down."}))
    begun = time.monotonic()
    with pytest.raises(errors.TransportError) as caught:
        Client(server.url).get("api/models", limit=1000)
    assert time.monotonic() - begun < 2
    assert len(server.seen) == 1
    told = "limits how often it is asked (429 Too Many Requests: Slow down). Wait 3,600 seconds and try again; it may"
    assert told in str(caught.value)
    assert "network" not in str(caught.value)


def test_a_hub_that_is_down_for_long_states_so(server: HubServer) -> None:
    server.trick("/api/", lambda seen, reply: Reply(503, headers={"Retry-After": "7200"}))
    with pytest.raises(errors.TransportError, match=r"broken \(503\), and asks to come back in 7,200 seconds"):
        Client(server.url).get("api/models", limit=1000)


@pytest.mark.slow
def test_a_limit_without_an_end_is_stated_as_one(server: HubServer) -> None:
    server.trick("/api/", lambda seen, reply: Reply(429))
    with pytest.raises(errors.TransportError, match=r"limits how often .* Wait a few minutes and try again\. What"):
        Client(server.url, token="hf_write").get("api/models", limit=1000)
    assert len(server.seen) == 4
