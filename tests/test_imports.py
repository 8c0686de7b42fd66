"""The arrows between the rooms of the house point one way: cli → verbs → evaluation → inference → … → errors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "speech_emotion_jax"

# From the ground up. A module may import what lies below it and, in its own wing, its neighbours.
FLOORS = (
    ("errors",),
    ("runtime",),
    ("registry", "audio", "text"),
    ("config",),
    ("models",),
    ("convert",),
    ("checkpoints",),
    ("whisper",),
    ("timeline",),
    ("inference", "corpus"),
    ("evaluation", "functional", "demo", "inputs"),
    ("training",),
    ("planning", "benchmarking", "parity", "exporting"),
    ("selfcheck",),
    ("cli",),
    ("__main__",),
)
# Wings whose modules are all public. Of the others only what their __init__ names is.
OPEN_WINGS = {"runtime", "cli"}
OPEN_PACKAGES = {f"{PACKAGE}.models.kernels"}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """{name: file} of all modules; the converter is imported as speech_emotion_jax.convert."""
    found = {}
    for folder, package in ((ROOT / PACKAGE, PACKAGE), (ROOT / "convert", f"{PACKAGE}.convert")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """(module, whether at the top of the file) of everything that a module imports, relative names resolved.

    `from package import name` counts as package.name where that is a module. Imports for type checkers don't count.
    """
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield (submodule if submodule in MODULES else base), top
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            inside = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def room(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.").split(".")[0]


OURS = {name: {target for target, _ in imports(name) if target in MODULES} for name in MODULES}


def test_the_parser_sees_the_imports():
    assert f"{PACKAGE}.inference" in OURS[f"{PACKAGE}.cli.predict"]  # inside a function
    assert f"{PACKAGE}.convert.hub" in OURS[f"{PACKAGE}.checkpoints.request"]  # named by `from ..convert import hub`
    assert f"{PACKAGE}.errors" in OURS[f"{PACKAGE}.convert.engine"]  # from beyond the package's own folder
    assert not OURS[f"{PACKAGE}.registry"] - {f"{PACKAGE}.errors"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {PACKAGE}))
def test_arrows_point_down(name: str):
    assert room(name) in FLOOR, f"{name} has no floor in this test; add its room to FLOORS"
    upward = {
        target
        for target in OURS[name]
        if target == PACKAGE or (room(target) != room(name) and FLOOR[room(target)] >= FLOOR[room(name)])
    }
    assert not upward


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {PACKAGE}))
def test_wings_are_entered_by_their_front_door(name: str):
    """What another wing's __init__ does not hand on is private to that wing."""
    inner = {
        target
        for target in OURS[name]
        if room(target) != room(name)
        and target.count(".") > 1
        and room(target) not in OPEN_WINGS
        and target.rpartition(".")[0] not in OPEN_PACKAGES
        and target not in OPEN_PACKAGES
        and (target, name) != (f"{PACKAGE}.convert.hub", f"{PACKAGE}.checkpoints.request")
    }
    assert not inner


def test_the_package_itself_imports_nothing():
    assert {target for target, _ in imports(PACKAGE)} == {"importlib", "typing"}


def test_there_are_no_circles():
    finished: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in finished:
            for target in OURS[name]:
                walk(target, (*path, name))
            finished.add(name)

    for name in MODULES:
        walk(name, ())


def test_torch_is_imported_where_the_original_runs_and_only_when_needed():
    users = {name: top for name in MODULES for target, top in imports(name) if target.split(".")[0] == "torch"}
    originals = {f"{PACKAGE}.parity.original{part}" for part in ("", "_files", "_whisper")}
    readers = dict.fromkeys(
        (f"{PACKAGE}.{name}" for name in ("convert.sources", "benchmarking.torch_side", "selfcheck.speed")), False
    )
    assert users == dict.fromkeys(originals, True) | readers
    at_the_top = {name for name in MODULES for target, top in imports(name) if target in originals and top}
    assert at_the_top <= originals


def test_there_is_no_junk_drawer():
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [name for name in MODULES if drawers & set(name.split("."))]
