"""What is set outside: variables of the environment, and the config file.

::

    # ~/.config/archzoo/config.toml
    shared_cache = "/software/archzoo-cache"    # read-only, looked into before anything is downloaded
    push_to = "https://hub.lab.example"         # where a push goes when no hub is named; else the first hub below

    [[hubs]]                                    # in this order a name is looked for
    address = "https://hub.lab.example"
    token_file = "~/.config/archzoo/lab.token"  # or token_env = "LAB_TOKEN"

    [[hubs]]
    address = "/data/our-hub"
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hub_client import errors

OFFLINE = "ARCHZOO_OFFLINE"
HUB = "ARCHZOO_HUB"
TOKEN = "ARCHZOO_TOKEN"
CACHE = "ARCHZOO_CACHE"
SHARED_CACHE = "ARCHZOO_SHARED_CACHE"
CONFIG = "ARCHZOO_CONFIG"

_NO = ("", "0", "no", "false", "off")
_LARGEST = 1 << 20


class HubEntry(BaseModel):
    """A hub in the config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Annotated[str, Field(min_length=1)]
    token_file: str | None = None
    token_env: str | None = None

    def token(self) -> str | None:
        """Return the hub's token, or None where it has none.

        Raises
        ------
        InvalidInput
            If the file or variable that should hold it does not, or others can read the file.
        """
        if self.token_env is not None:
            found = os.environ.get(self.token_env)
            if not found:
                raise errors.InvalidInput(
                    f"the token of {self.address} should be in the variable {self.token_env}, which is not set.",
                    facts={"token_env": self.token_env},
                )
            return found
        if self.token_file is None:
            return None
        path = Path(self.token_file).expanduser()
        try:
            with path.open("rb") as file:
                mode, found = os.fstat(file.fileno()).st_mode, file.read(_LARGEST).decode().strip()
        except (OSError, ValueError) as error:
            raise errors.InvalidInput(f"the token of {self.address} cannot be read from {path}: {error}.") from None
        if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
            raise errors.InvalidInput(
                f"others can read the token of {self.address} in {path}. Run chmod 600 {path}, then try again."
            )
        return found


class Config(BaseModel):
    """The config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hubs: tuple[HubEntry, ...] = ()
    push_to: str | None = None
    shared_cache: str | None = None


def config_path() -> Path:
    """Return where the config file is: ``$ARCHZOO_CONFIG``, or ``config.toml`` in archzoo's user config folder."""
    named = os.environ.get(CONFIG)
    return Path(named).expanduser() if named else platformdirs.user_config_path("archzoo") / "config.toml"


def config() -> Config:
    """Return what the config file sets; nothing where there is none.

    Raises
    ------
    InvalidInput
        If it cannot be read.
    """
    path = config_path()
    try:
        with path.open("rb") as file:
            found = Config.model_validate(tomllib.loads(file.read(_LARGEST).decode()))
    except FileNotFoundError:
        return Config()
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise errors.InvalidInput(f"the config file {path} is not as it should be: {wrong}.") from None
    except (OSError, ValueError) as error:
        raise errors.InvalidInput(f"the config file {path} cannot be read: {error}.") from None
    addresses = [hub.address for hub in found.hubs]
    if found.push_to is not None and found.push_to not in addresses:
        raise errors.InvalidInput(
            f"the config file {path} pushes to {found.push_to}, which is none of its hubs: {errors.names(addresses)}."
        )
    return found


def offline() -> bool:
    """Return whether ``ARCHZOO_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE, "").strip().lower() not in _NO


@contextmanager
def without_network() -> Iterator[None]:
    """Forbid the network while the context lasts, for what must not wait for it."""
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[OFFLINE]
        else:
            os.environ[OFFLINE] = before


def refuse_offline(place: str) -> None:
    """Raise TransportError if the network is forbidden; asked before every connection."""
    if offline():
        raise errors.TransportError(
            f"{place} is not asked: {OFFLINE} is set, so no network connection is made. Unset it to go online."
        )


def cache_folder() -> Path:
    """Return where what was downloaded is kept: ``$ARCHZOO_CACHE``, or archzoo's user cache folder."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("archzoo").absolute()


def shared_cache_folder() -> Path | None:
    """Return a cache that others keep and we only read: ``$ARCHZOO_SHARED_CACHE``, or the config file's."""
    named = os.environ.get(SHARED_CACHE) or config().shared_cache
    return Path(named).expanduser().absolute() if named else None
