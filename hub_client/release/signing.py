"""Signed manifests: ed25519 over the canonical JSON of everything but the signature, and a file of trusted publishers.

A manifest names the sha256 of every file of its release, so a signature of the manifest is one of the whole release.
What a publisher's key is, is not found out here: the trust file states it, and whoever writes that file has to know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from hub_client import errors
from hub_client.manifest import _json
from hub_client.manifest._frozen import as_json
from hub_client.manifest.header import Signature
from hub_client.manifest.reading import MAX_BYTES, read_header
from hub_client.manifest.v1 import Manifest
from hub_client.release.store import DOCUMENT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TRUST_VARIABLE = "ARCHZOO_TRUST"
_PREFIX = "ed25519:"
_KEY = re.compile(rf"{_PREFIX}[0-9a-f]{{64}}")
_MANIFEST = DOCUMENT["models"]


@dataclass(frozen=True)
class Signer:
    """Who signs: a file with an ed25519 private key in PEM, and the name that readers of the signature see."""

    key: Path
    publisher: str


def trust_file() -> Path:
    """Return the file of trusted publishers: ``$ARCHZOO_TRUST``, or ``trusted.toml`` in archzoo's configuration."""
    named = os.environ.get(TRUST_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_config_path("archzoo") / "trusted.toml"


def new_key(path: Path) -> str:
    """Write a new private key that only its owner can read, and return the public key as a trust file has it.

    Raises
    ------
    InvalidInput
        If something lies at ``path``.
    """
    _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise errors.InvalidInput(f"{path} exists already: a key is never replaced.", facts={"key": path}) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return _PREFIX + _public(key)


def signed(manifest: Manifest, signer: Signer) -> Manifest:
    """Return the manifest with a signature; it holds until anything else in the manifest changes."""
    # signed is what will be written: with a signature, a manifest of an older format is written in this one
    marked = manifest.changed(signature=Signature(publisher=signer.publisher, key="0" * 64, value="0" * 128))
    return manifest.changed(signature=_signature(marked.to_bytes(), signer))


def signed_copy(folder: Path, signer: Signer, into: Path) -> Path:
    """Copy a release with its manifest signed, and return the copy; of a delta the parent need not be at hand."""
    shutil.copytree(folder, into)
    document = (into / _MANIFEST).read_bytes()
    fields: dict[str, Any] = _json.strict(document, limit=MAX_BYTES)
    signature = _signature(document, signer)
    (into / _MANIFEST).write_bytes(as_json(fields | {"signature": signature.model_dump(mode="json")}))
    return into


def _signature(document: bytes, signer: Signer) -> Signature:
    """Return the signature of a manifest, whichever it had before."""
    key = _private(signer.key)
    return Signature(publisher=signer.publisher, key=_public(key), value=key.sign(_message(document)).hex())


def check(document: bytes, *, source: str) -> Signature | None:
    """Return the signature of a manifest, which holds; None if it has none.

    Parameters
    ----------
    document
        The bytes of ``manifest.json``.
    source
        What to call it in errors.

    Raises
    ------
    IntegrityError
        If it is not the signature of this manifest.
    Unsupported
        If ``cryptography`` is not installed.
    """
    signature = read_header(document, source=source).signature
    if signature is None:
        return None
    _library()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.key))
    try:
        key.verify(bytes.fromhex(signature.value), _message(document))
    except InvalidSignature:
        raise errors.IntegrityError(
            f"{source} is signed by {signature.publisher!r}, and the signature is not of this manifest: it was changed "
            "after it was signed. Do not use it; get it from its publisher.",
            file=_MANIFEST,
            expected=signature.publisher,
        ) from None
    return signature


def trusted(path: Path) -> Mapping[str, str]:
    """Return public keys, 64 hex digits, and the publishers they belong to; none where there is no file.

    Raises
    ------
    ManifestError
        If the file is not a trust file.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("publishers", {})
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.ManifestError(f"{path} is not TOML: {error}.", path=str(path)) from None
    wrong = [name for name, key in found.items() if not isinstance(key, str) or not _KEY.fullmatch(key)]
    if wrong:
        raise errors.ManifestError(
            f'{path}: expected [publishers] with lines such as "My lab" = "{_PREFIX}<64 hex digits>"; wrong are '
            f"{errors.names(wrong)}.",
            path=str(path),
        )
    return {key.removeprefix(_PREFIX): name for name, key in found.items()}


def _message(document: bytes) -> bytes:
    """Return what is signed: the document's own JSON without the signature, so that no later field changes it."""
    fields: dict[str, Any] = _json.strict(document, limit=MAX_BYTES)
    fields.pop("signature", None)
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _private(path: Path) -> Ed25519PrivateKey:
    _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise errors.NotFound(f"there is no key at {path}; archzoo key makes one.", name=str(path)) from None
    except (ValueError, TypeError) as error:
        raise errors.InvalidInput(
            f"{path} is not an unencrypted private key in PEM ({error}).", facts={"key": path}
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise errors.InvalidInput(f"{path} holds another kind of key than ed25519.", facts={"key": path})
    return key


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise errors.Unsupported(
            "signatures need the package cryptography: pip install archzoo[sign].", kind="signature", verb="sign"
        ) from None
