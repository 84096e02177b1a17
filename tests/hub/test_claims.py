"""check_claims(): the four claims, and the first that does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client import errors
from hub_client.checks.verify import with_test_vectors
from hub_client.hub.claims import check_claims
from tests.contract.examples import trained
from tests.releases import unfit
from tests.simulated import cells_for


def held(folder: Path) -> dict[str, bool | None]:
    return {claim.name: claim.holds for claim in check_claims(folder)}


def test_all_hold_of_a_sound_release(tmp_path: Path) -> None:
    model = with_test_vectors(trained("scpoli"), cells_for(trained("scpoli").manifest))
    claims = check_claims(model.save(tmp_path / "sound"))
    assert [claim.name for claim in claims] == ["valid", "loads", "runs", "reproduces"]
    assert all(claim.holds and claim.seconds > 0 for claim in claims)
    model.extras["test_vectors.latent"].add_(1)
    claims = check_claims(model.save(tmp_path / "other"))
    assert [claim.holds for claim in claims] == [True, True, True, False]
    assert "latent differs" in claims[-1].message


def test_what_follows_a_broken_claim_is_not_tried(tmp_path: Path) -> None:
    assert held(unfit(tmp_path / "fake")) == {"valid": True, "loads": False, "runs": None, "reproduces": None}
    plain = trained("scpoli").save(tmp_path / "plain")
    assert held(plain) == {"valid": True, "loads": True, "runs": False, "reproduces": None}
    (plain / "model.safetensors").write_bytes(b"x")
    assert held(plain)["valid"] is False


def test_nothing_has_no_standing(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        check_claims(tmp_path)
