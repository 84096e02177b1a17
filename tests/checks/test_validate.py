"""validate(): what each check finds, how bad that is, and how it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_client import errors
from hub_client.checks import validate
from hub_client.checks.validate import Finding, Validation, as_html
from hub_client.checks.verify import with_test_vectors
from hub_client.hub.client import Hub
from hub_client.manifest.publishing import NEEDED
from hub_client.models.model import Model
from tests import examples
from tests.contract.examples import trained
from tests.releases import release, unfit
from tests.simulated import cells_for

DESCRIBED = {name: value for name, value in examples.DESCRIBED.items() if name in NEEDED}


def of(found: Validation, check: str) -> list[tuple[str, str]]:
    return [(one.severity, one.message) for one in found.findings if one.check == check]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that lacks nothing."""
    model = with_test_vectors(trained("scpoli"), cells_for(trained("scpoli").manifest))
    described = Model(model.manifest.changed(**DESCRIBED), model.network, extras=model.extras)
    return described.save(tmp_path_factory.mktemp("whole") / "release")


def test_a_whole_release_could_be_published(whole: Path) -> None:
    found = validate.validate(whole)
    assert found.publishable
    assert "test vectors reproduced" in found.passed
    assert [finding.severity for finding in found.findings] == ["info"]


def test_missing_fields_are_warnings_and_the_date_is_none(tmp_path: Path) -> None:
    found = validate.validate(release(tmp_path / "bare"), load=False)
    fields = dict(
        zip((m.split(":")[0] for _, m in of(found, "fields")), (s for s, _ in of(found, "fields")), strict=True)
    )
    assert fields["created"] == "info" and fields["authors"] == "warning" and "title" not in fields
    assert not found.publishable


def test_a_network_that_does_not_take_the_tensors(tmp_path: Path) -> None:
    assert of(validate.validate(unfit(tmp_path / "fake")), "network")[0][0] == "error"
    assert of(validate.validate(tmp_path / "fake", load=False), "network") == []


def test_damage_ends_the_checks(tmp_path: Path) -> None:
    folder = release(tmp_path / "torn")
    (folder / "model.safetensors").write_bytes(b"x")
    found = validate.validate(folder)
    assert found.passed == ()
    assert [(finding.check, finding.severity) for finding in found.findings] == [("files", "error")]
    with pytest.raises(errors.NotFound):
        validate.validate(tmp_path)


def test_a_card_of_another_making_is_told(tmp_path: Path) -> None:
    from tests.release.test_privacy import resealed

    folder = release(tmp_path / "edited")
    assert of(validate.validate(folder, load=False), "card") == []
    resealed(folder, "README.md", b"# Better than all others\n")
    assert of(validate.validate(folder, load=False), "card")[0][0] == "info"


def test_the_same_weights_under_another_name_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(tmp_path / "hub")
    hub.push(release(tmp_path / "one"), "lab/first")
    folder = release(tmp_path / "two", title="My own work")
    (told,) = of(validate.validate(folder, stores=hub.stores, name="lab/second", load=False), "identity")
    assert told[0] == "info" and "released already, as lab/first@1.0.0" in told[1]
    assert of(validate.validate(folder, stores=hub.stores, name="other/first", load=False), "identity") == []
    hub.push(folder, "lab/second")
    assert "released already, as lab/first@1.0.0" in caplog.text


def test_the_worst_comes_first_and_the_page_escapes_it() -> None:
    found = Validation(("files",), (Finding("a", "error", "<script>"), Finding("b", "info", "fine & well")))
    page = as_html("x & y", found)
    assert "<script>" not in page and "&lt;script&gt;" in page and "x &amp; y" in page
    assert page.index("&lt;script") < page.index("fine &amp; well") < page.index('class="passed"')
    assert not found.publishable
