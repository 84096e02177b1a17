"""check_claims(): which of *valid, loads, runs, reproduces* hold of a release on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hub_client import errors
from hub_client.checks.verify import simulated_cells, verify
from hub_client.hub.client import Hub
from hub_client.labels.predict import predict
from hub_client.models.model import Model


@dataclass(frozen=True)
class Claim:
    """One claim about a release."""

    name: str
    """``valid``, ``loads``, ``runs`` or ``reproduces``."""
    holds: bool | None
    """None where it was not tried, because one before it does not hold."""
    message: str
    """What makes it hold, or why it does not."""
    seconds: float = 0.0
    """How long the check took."""


def check_claims(name: str | Path, *, hub: Hub | None = None) -> tuple[Claim, ...]:
    """Return which claims about a release hold, each after the one before it.

    ``valid``: every file is the one that the manifest names, and the manifest the one that the digest names.
    ``loads``: the network that the manifest describes takes the weights. ``runs``: it embeds and labels the test cells.
    ``reproduces``: latents and labels are, within the release's tolerances, those that its maker got.

    Raises
    ------
    NotFound, InvalidInput
        If nothing has this name.
    """
    place = hub or Hub()
    place.resolve(name)
    claims: list[Claim] = []
    with TemporaryDirectory(prefix="archzoo-") as temporary:
        folder, models = Path(temporary) / "release", list[Model]()
        checks: dict[str, tuple[Callable[[], object], str]] = {
            "valid": (lambda: place.download(name, folder), "every file is the one that the manifest names"),
            "loads": (lambda: models.append(Model.load(folder)), "the network takes the weights"),
            "runs": (
                lambda: predict(models[0], simulated_cells(models[0]), device="cpu"),
                "it embeds and labels the test cells",
            ),
            "reproduces": (
                lambda: verify(models[0]),
                "latents and labels of the test cells are those its maker got",
            ),
        }
        for claim, (check, message) in checks.items():
            failed = any(not one.holds for one in claims)
            claims.append(Claim(claim, None, "not tried") if failed else _tried(claim, check, message))
    return tuple(claims)


def _tried(name: str, check: Callable[[], object], message: str) -> Claim:
    start = time.perf_counter()
    try:
        check()
    except errors.HubClientError as error:
        return Claim(name, False, str(error), time.perf_counter() - start)
    return Claim(name, True, message, time.perf_counter() - start)
