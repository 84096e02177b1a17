from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from the config file, cache and tokens of whoever runs them."""
    nowhere = tmp_path_factory.getbasetemp() / "nowhere"
    monkeypatch.setenv("ARCHZOO_CACHE", str(nowhere / "cache"))
    monkeypatch.setenv("ARCHZOO_CONFIG", str(nowhere / "config.toml"))
    for name in ("ARCHZOO_OFFLINE", "ARCHZOO_SHARED_CACHE", "ARCHZOO_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return the path of a development data file, or skip the test where the data is not at hand."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"needs the development data file shared/data/{name}, which is not here")
        return path

    return find


@pytest.fixture(scope="session")
def shared_legacy() -> Callable[[str], Path]:
    """Return the folder that scArches saved of a recorded model, or skip the test where it is not at hand."""

    def find(name: str) -> Path:
        path = SHARED / "golden" / name / "legacy"
        if not path.exists():
            pytest.skip(f"needs the recorded folder shared/golden/{name}/legacy, which is not here")
        return path

    return find


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs CUDA devices that are not here."""
    marks = {mark.name for mark in item.iter_markers()}
    needed = 2 if "multigpu" in marks else 1 if "gpu" in marks else 0
    if needed and (found := cuda_devices()) < needed:
        pytest.skip(f"needs {needed} CUDA device(s), found {found}")


def cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
