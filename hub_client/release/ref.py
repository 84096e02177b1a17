"""Ref: a pinned place in a hub."""

from __future__ import annotations

from dataclasses import dataclass

from hub_client import errors


@dataclass(frozen=True)
class Ref:
    """Where a release is, exactly."""

    repo: str
    """``name`` or ``owner/name``."""
    commit: str
    """40 hex digits."""
    version: str | None
    """The release's semantic version, if it has a tag."""
    digest: str
    """sha256 of the manifest, 64 hex digits: what a paper cites."""
    hub: str = ""
    """The hub's address: ``bundled``, a folder or a URL."""

    def __str__(self) -> str:
        version = f"@{self.version}" if self.version else ""
        return f"{self.repo}{version} (commit {self.commit[:12]}, sha256:{self.digest[:12]})"

    def check(self, digest: str, *, file: str) -> None:
        """Raise IntegrityError if the release's document, called ``file``, has another digest."""
        if digest != self.digest:
            raise errors.IntegrityError(
                f"{file} has sha256 {digest}, but {self} was asked for. Pull it again, or from another hub.",
                file=file,
                expected=self.digest,
                actual=digest,
            )
