"""The shape of the code, read from its syntax trees: who may import whom, and what nobody may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from hub_client.manifest.configs import CONFIGS
from hub_client.models.architectures import ARCHITECTURES
from tests import warm
from tests.rooms import INSIDE, LOOSE, PACKAGE, ROOMS, ROOT

LONGEST_FILE = 600
MODEL_NAMES = {"expimap", "scanvi", "scpoli", "scvi", "scvi_tools", "totalvi", "trvae"}
FLOORS = [*ROOMS, *LOOSE]
TREES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}
LONGEST_FUNCTION = 60
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
READERS = {"read_pickle", "load_pickle", "Unpickler"}


def floor(module: str) -> str:
    return module.split(".")[1]


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def targets(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules an import names; ``from package import module`` names the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [full if (full := f"{node.module}.{alias.name}") in TREES else str(node.module) for alias in node.names]


def ours(tree: ast.AST) -> set[str]:
    return {name for node in imports(tree) for name in targets(node) if name.split(".")[0] == "hub_client"}


def at_import_time(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported, without those for type checkers."""
    return ast.Module([node for node in tree.body if not isinstance(node, ast.If | ast.FunctionDef)], [])


def test_every_module_has_a_floor() -> None:
    assert {floor(name) for name in TREES if "." in name} == set(FLOORS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *LOOSE}


def test_a_file_name_is_found_once() -> None:
    """But for models, which have a file in each room that knows them by name."""
    names = Counter(path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
    assert {name for name, count in names.items() if count > 1} <= MODEL_NAMES


def test_files_are_not_long() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in long.items() if lines >= LONGEST_FILE} == {}


def test_imports_only_go_down() -> None:
    upward = [
        f"{module} imports {target}"
        for module, tree in TREES.items()
        if module != "hub_client"
        for target in ours(tree) - {"hub_client"}
        if FLOORS.index(floor(target)) < FLOORS.index(floor(module))
    ]
    assert upward == []


def height(room: str, part: str) -> int:
    return next((number for number, parts in enumerate(INSIDE[room]) if part in parts), len(INSIDE[room]))


@pytest.mark.parametrize("room", INSIDE)
def test_imports_within_a_room_only_go_down(room: str) -> None:
    """Or stay in one part, or among what lies below all parts."""
    wrong = []
    for module, target in ((name, target) for name, tree in TREES.items() for target in ours(tree)):
        ends = [name.split(".")[2] for name in (module, target) if name.startswith(f"hub_client.{room}.")]
        if len(ends) < 2 or ends[0] == ends[1]:
            continue
        above, below = (height(room, part) for part in ends)
        if above > below or above == below < len(INSIDE[room]):
            wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_nothing_is_imported_from_the_top() -> None:
    """Its public names load the floors above most modules; the version has a module of its own."""
    taken = {
        f"{module}: {alias.name}"
        for module, tree in TREES.items()
        for node in imports(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "hub_client"
        for alias in node.names
        if f"hub_client.{alias.name}" not in TREES
    }
    assert taken == set()


def test_no_circles() -> None:
    TopologicalSorter({name: ours(at_import_time(tree)) - {name} for name, tree in TREES.items()}).prepare()


def test_imports_are_absolute() -> None:
    relative = [name for name, tree in TREES.items() for node in imports(tree) if getattr(node, "level", 0)]
    assert relative == []


KNOW_KINDS = (
    "hub_client.models.architectures",
    "hub_client.interop",
    "hub_client.compat",
    "hub_client.manifest.configs",
)
"""What may name a kind of architecture: its config, its network, and what reads and writes other packages' models."""


def kinds_compared(tree: ast.AST) -> set[str]:
    """The kinds whose names a module compares with, or has as keys of a table."""
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare | ast.Dict | ast.Set)]
    return {
        str(value.value)
        for node in compared
        for value in ast.walk(node)
        if isinstance(value, ast.Constant) and value.value in CONFIGS
    }


def test_a_kind_is_known_by_its_config_alone() -> None:
    """Elsewhere a fact is asked of the config, and a capability of the network."""
    others = {name: tree for name, tree in TREES.items() if not name.startswith(KNOW_KINDS)}
    files = {name for name in TREES if name.startswith("hub_client.models.architectures.")}
    assert {name: found for name, tree in others.items() if (found := ours(tree) & files)} == {}
    assert {name: found for name, tree in others.items() if (found := kinds_compared(tree))} == {}


def unpickles(node: ast.AST) -> bool:
    """Whether a node loads, or names something that loads, objects that run code."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any(name.split(".")[0] in PICKLES for name in targets(node))
    if isinstance(node, ast.Attribute):
        return node.attr in READERS
    if not isinstance(node, ast.Call):
        return False
    given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    unsafe_load = ast.unparse(node.func) == "torch.load" and given.get("weights_only") is not True
    return unsafe_load or given.get("allow_pickle", False) is not False


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "pandas.read_pickle(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=wanted)",
    ],
)
def test_the_pickle_rule_notices(code: str) -> None:
    assert any(unpickles(node) for node in ast.walk(ast.parse(code)))


def test_no_pickles_outside_interop() -> None:
    found = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        if not module.startswith("hub_client.interop")
        for node in ast.walk(tree)
        if unpickles(node)
    ]
    assert found == []


def reached(start: str) -> set[str]:
    """Our modules that a module imports, at once or when it runs, and what these import."""
    found, waiting = set(), {start}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= (ours(TREES[module]) & TREES.keys()) - found - {"hub_client"}
    return found


def test_nothing_that_pull_reaches_unpickles() -> None:
    networks = {row.partition(":")[0] for row in ARCHITECTURES.values()}
    modules = set().union(*map(reached, ["hub_client.hub.client", *networks]))
    assert {"hub_client.release.folder", "hub_client.models.model", "hub_client.models.architectures._vae"} <= modules
    assert not {module for module in modules if module.startswith("hub_client.interop")}
    assert not [module for module in modules if any(map(unpickles, ast.walk(TREES[module])))]


PULLED = """
import sys
import hub_client
hub_client.pull  # what it imports may unpickle: the libraries do as they like before anything of a stranger's is read
asked = []
sys.addaudithook(lambda event, arguments: asked.append(arguments) if event == "pickle.find_class" else None)
model = hub_client.pull("pbmc-scpoli", hub="bundled")
assert model.manifest.name == "pbmc-scpoli"
print([name for name in sys.modules if name.startswith("hub_client.interop")], asked)
"""


@pytest.mark.slow
def test_a_pull_unpickles_nothing() -> None:
    """Python tells of every class and function that an unpickler looks up, whoever runs it."""
    done = subprocess.run([warm.python(), "-c", PULLED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] []"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a function's body has, its docstring aside."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    return (function.body[-1].end_lineno or 0) - function.body[int(documented)].lineno + 1


def test_functions_fit_a_screen() -> None:
    long = [
        f"{module}.{node.name}: {lines} lines"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := code_lines(node)) > LONGEST_FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("module", ["hub_client", "hub_client.cli", "hub_client.errors", "hub_client.manifest"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint(
        {"torch", "scvi", "scanpy", "anndata", "lightning", "pandas", "numpy", "zarr"}
    )
