"""Signed manifests: whom they are from, and that a change is noticed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from hub_client import errors
from hub_client.checks import validate
from hub_client.hub.client import Hub
from hub_client.manifest.v1 import Manifest
from hub_client.release import folder as release_folder
from hub_client.release import signing
from hub_client.release.signing import Signer
from tests.releases import contents, release

REPO = "lab/tiny-scpoli"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    signing.new_key(tmp_path / "lab.pem")
    return Signer(tmp_path / "lab.pem", "My lab")


def trust(path: Path, key: str, name: str = "My lab") -> Path:
    path.write_text(f'[publishers]\n"{name}" = "{key}"\n')
    return path


def test_a_key_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    public = signing.new_key(tmp_path / "key.pem")
    assert public.startswith("ed25519:") and len(public) == 72
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    with pytest.raises(errors.InvalidInput, match="never replaced"):
        signing.new_key(tmp_path / "key.pem")


def test_a_signed_release_is_pulled_as_it_was_signed(tmp_path: Path, signer: Signer) -> None:
    hub, elsewhere = Hub(tmp_path / "hub"), Hub(tmp_path / "elsewhere")
    ref = hub.push(release(tmp_path / "plain"), REPO, signer=signer)
    folder = hub.download(REPO, tmp_path / "out")
    found = signing.check((folder / "manifest.json").read_bytes(), source="it")
    assert found is not None and found.publisher == "My lab"
    assert release_folder.verify(folder).digest == ref.digest
    assert elsewhere.push(folder, "other/tiny-scpoli").digest == ref.digest
    assert hub.push(release(tmp_path / "again"), REPO, signer=signer) == ref


def test_what_was_changed_after_signing_is_refused(tmp_path: Path, signer: Signer) -> None:
    manifest = Manifest.model_validate_json((release(tmp_path / "plain") / "manifest.json").read_bytes())
    document = signing.signed(manifest, signer).to_bytes()
    assert signing.check(document, source="it")
    with pytest.raises(errors.IntegrityError, match="changed after it was signed"):
        signing.check(document.replace(b"Tiny scPoli", b"Tidy scPoli"), source="it")
    fields = json.loads(document)
    turned = json.dumps(dict(reversed(fields.items())), indent=4).encode()
    assert signing.check(turned, source="it") == signing.check(document, source="it")
    fields["signature"]["publisher"] = "Somebody else"  # a name is what the trust file says, not what a signature says
    assert signing.check(json.dumps(fields).encode(), source="it")


def test_saving_a_changed_model_drops_the_signature(tmp_path: Path, signer: Signer) -> None:
    signed = signing.signed_copy(release(tmp_path / "plain"), signer, tmp_path / "signed")
    read = release_folder.read(signed)
    same = release_folder.write(tmp_path / "same", read.manifest, read.tensors)
    assert contents(same) == contents(signed)
    other = release_folder.write(tmp_path / "other", read.manifest.changed(title="Other"), read.tensors)
    assert release_folder.verify(other).signature is None


def test_validate_tells_who_signed(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHZOO_TRUST", str(tmp_path / "none.toml"))
    plain = release(tmp_path / "plain")
    signed = signing.signed_copy(plain, signer, tmp_path / "signed")
    key = Manifest.model_validate_json((signed / "manifest.json").read_bytes()).signature
    assert key is not None
    ours, theirs = trust(tmp_path / "ours.toml", f"ed25519:{key.key}", "Lab A"), tmp_path / "none.toml"

    def told(folder: Path, file: Path | None) -> tuple[str, str]:
        found = validate.validate(folder, trust=file, load=False).findings
        (one,) = [finding for finding in found if finding.check == "signature"]
        return one.severity, one.message

    assert told(plain, None) == ("info", "nobody signed it")
    assert told(plain, ours) == ("warning", "nobody signed it")
    assert told(signed, ours) == ("info", "signed by Lab A, whom you trust")
    severity, message = told(signed, theirs)
    assert severity == "warning" and "'My lab'" in message and "not in your trust file" in message
    document = (signed / "manifest.json").read_bytes()
    (signed / "manifest.json").write_bytes(document.replace(b"Tiny scPoli", b"Tidy scPoli"))
    assert told(signed, ours)[0] == "error"
    with pytest.raises(errors.IntegrityError, match="signature"):
        Hub(tmp_path / "hub").push(signed, REPO)


def test_keys_and_trust_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no key at"):
        signing.signed_copy(release(tmp_path / "plain"), Signer(tmp_path / "no.pem", "x"), tmp_path / "signed")
    (tmp_path / "text.pem").write_text("a key")
    with pytest.raises(errors.InvalidInput, match="not an unencrypted private key"):
        signing.signed_copy(tmp_path / "plain", Signer(tmp_path / "text.pem", "x"), tmp_path / "signed-2")
    assert signing.trusted(tmp_path / "no.toml") == {}
    with pytest.raises(errors.ManifestError, match="wrong are My lab"):
        signing.trusted(trust(tmp_path / "short.toml", "ed25519:00"))
    (tmp_path / "bad.toml").write_text("[")
    with pytest.raises(errors.ManifestError, match="not TOML"):
        signing.trusted(tmp_path / "bad.toml")
