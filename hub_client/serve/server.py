"""The hub on a socket, until it is stopped."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from hub_client import errors
from hub_client.serve.app import Application
from hub_client.serve.hub import Settings, open_hub

_BACKLOG = 512
_FAREWELL = 30
"""Seconds that uploads and downloads have to end after the hub was asked to stop."""
_IDLE = 65


@dataclass(frozen=True)
class Listening:
    """Where a hub listens."""

    host: str = "127.0.0.1"
    port: int = 8400
    """0 is any that is free."""
    certificate: Path | None = None
    key: Path | None = None
    """Like the certificate a file in PEM, for https; None is http."""
    proxies: str = "127.0.0.1"
    """Addresses whose X-Forwarded headers are believed."""


def serve(settings: Settings, where: Listening, *, ready: Callable[[str], None]) -> None:
    """Serve a hub until SIGTERM or SIGINT; what is under way then may end.

    Parameters
    ----------
    settings
        The hub.
    where
        Where it listens.
    ready
        Called with the hub's address once it takes connections.

    Raises
    ------
    TransportError
        If the address cannot be listened on.
    """
    listener = _listener(where)
    scheme = "https" if where.certificate else "http"
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        Application(open_hub(settings)),
        lifespan="off",
        access_log=False,  # it would hold the signatures of upload links; the audit log does not
        log_level="warning",
        server_header=False,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_FAREWELL,
        forwarded_allow_ips=where.proxies,
        ssl_certfile=where.certificate,
        ssl_keyfile=where.key,
    )
    ready(settings.address or f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped)
    uvicorn.Server(config).run(sockets=[listener])


def _stopped(number: int, frame: object) -> None:
    """Do nothing: uvicorn has stopped by then, and hands the signal on."""


def _listener(where: Listening) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise errors.TransportError(
            f"cannot listen on {where.host}:{where.port}: {error.strerror or error}. Choose another with --host and "
            "--port."
        ) from error
    listener.set_inheritable(True)
    return listener
