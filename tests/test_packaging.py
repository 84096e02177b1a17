"""The wheel, the sdist, an editable install and a plain checkout all find the zoo."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import hub_client

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHOW_WHERE = (
    "import hub_client; from hub_client._resources import released; print(hub_client.__file__); print(released())"
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[<>=!~\[; ]", requirement)[0]) for requirement in requirements}


def build(source: Path, *, target: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def wheel_names(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, target="wheel", out=tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_wheel_holds_the_code_the_zoo_and_the_cards(wheel: Path) -> None:
    names = wheel_names(wheel)
    assert {f"hub_client/_zoo/{name}" for name in files(ROOT / "zoo" / "released")} <= names
    assert {f"hub_client/_cards/{name}" for name in files(ROOT / "cards")} <= names
    assert {"hub_client/py.typed", "hub_client/cli/__init__.py"} <= names
    assert {f"hub_client/data/tables/{name}" for name in files(ROOT / "hub_client" / "data" / "tables")} <= names
    templates = files(ROOT / "hub_client" / "serve" / "templates")
    assert {f"hub_client/serve/templates/{name}" for name in templates} <= names
    assert {name.split("/")[0] for name in names} == {"hub_client", f"archzoo-{hub_client.__version__}.dist-info"}


@pytest.mark.slow
def test_unpacked_wheel_finds_its_own_zoo(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {SHOW_WHERE}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    package, zoo = map(Path, done.stdout.splitlines())
    assert package.is_relative_to(tmp_path)
    assert zoo == tmp_path / "hub_client" / "_zoo"
    assert files(zoo) == files(ROOT / "zoo" / "released")


def test_checkout_finds_its_own_zoo() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW_WHERE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.splitlines()[1]) == ROOT / "zoo" / "released"


def test_editable_install_finds_the_checkouts_zoo(tmp_path: Path) -> None:
    """Such an install leaves a copy of the zoo in site-packages, and the checkout after it on the path."""
    (tmp_path / "hub_client" / "_zoo" / "stale").mkdir(parents=True)
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; {SHOW_WHERE}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    package, zoo = map(Path, done.stdout.splitlines())
    assert (package.parent, zoo) == (ROOT / "hub_client", ROOT / "zoo" / "released")


@pytest.mark.slow
def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, target="sdist", out=tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    assert not (tmp_path / sdist.name.removesuffix(".tar.gz") / "tests").exists()
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), target="wheel", out=tmp_path / "wheel")
    assert wheel_names(again) == wheel_names(wheel)


DECLARED = PROJECT["dependencies"] + [needed for extra in ("serve", "sign", "criticism") for needed in EXTRAS[extra]]


def third_party(wanted: Callable[[Path], bool] = lambda path: True) -> set[str]:
    """The distributions that the package's files import, all of them or those that are wanted."""
    paths = filter(wanted, (ROOT / "hub_client").rglob("*.py"))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    top = {name.split(".")[0] for name in named} - sys.stdlib_module_names - {"hub_client"}
    homes = packages_distributions()
    return {normal(home) for name in top for home in homes.get(name, [name])}  # of an extra that is not installed


def test_what_is_imported_is_declared() -> None:
    assert third_party() - distributions(DECLARED) == set()


def test_only_the_served_hub_signatures_and_criticism_need_their_extras() -> None:
    needing = {"serve", "signing.py", "integration.py"}
    outside = third_party(lambda path: not needing & set(path.relative_to(ROOT / "hub_client").parts))
    assert outside - distributions(PROJECT["dependencies"]) == set()


def test_what_is_declared_is_imported() -> None:
    assert distributions(DECLARED) - third_party() == set()


def test_constraints_pin_every_dependency() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    wanted = distributions(PROJECT["dependencies"] + EXTRAS["serve"] + EXTRAS["test"]) - {"archzoo"}
    assert wanted - {line.split("==")[0] for line in lines} == set()
