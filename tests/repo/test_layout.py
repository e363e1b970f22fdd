"""Rules of the folder layout that no tool checks by itself."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("common", "edge", "cloud", "relay", "training", "simulation", "benchmarks", "cli")
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|Users)/[a-z][\w-]*/|(?<![\w.])/(?:root|work)/[\w.]")
TEXT_SUFFIXES = {
    ".py",
    ".pyi",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".jsonl",
    ".proto",
    ".sh",
    ".cfg",
    "",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_namespace_has_no_init(root: Path, folder: str) -> None:
    """A file `paceline/__init__.py` in one folder would hide the other folders' halves of the namespace."""
    assert (root / folder / "paceline").is_dir()
    assert not (root / folder / "paceline" / "__init__.py").exists()
    assert not (root / folder / "__init__.py").exists()


def test_proto_holds_only_protocol_files(root: Path) -> None:
    """`proto/` is no package: an `__init__.py` there would shadow other people's `proto`."""
    assert {path.suffix for path in (root / "proto").rglob("*") if path.is_file()} == {".proto"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_package_has_an_init(root: Path, folder: str) -> None:
    """Below the namespace every folder with modules is a regular package."""
    modules = (root / folder / "paceline").rglob("*.py")
    missing = {path.parent for path in modules if not (path.parent / "__init__.py").exists()}

    assert missing - {root / folder / "paceline"} == set()


def test_no_tracked_file_names_a_machine_s_path(tracked: list[Path], root: Path) -> None:
    """No file speaks of one developer's folders."""
    found = [
        f"{path.relative_to(root)}:{number}"
        for path in tracked
        if path.suffix in TEXT_SUFFIXES and path.stat().st_size < 1 << 20
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATHS.search(line) and "MACHINE_PATHS" not in line
    ]

    assert found == []


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    """The models take at most 32 MB together; nothing else is anywhere near."""
    sizes = {path: path.stat().st_size for path in tracked}
    models = sum(size for path, size in sizes.items() if "models" in path.parts)

    assert models <= 32 * 10**6
    assert [path for path, size in sizes.items() if size > 10**6 and "models" not in path.parts] == []


def test_every_module_says_what_it_is(modules: list[Path], root: Path) -> None:
    """Every module begins with a docstring."""
    silent = [
        str(path.relative_to(root))
        for path in modules
        if path.read_text() and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert silent == []


def test_every_public_function_and_class_says_what_it_does(modules: list[Path], root: Path) -> None:
    """What other modules may use has a docstring."""
    silent = [
        f"{path.relative_to(root)}:{node.lineno} {node.name}"
        for path in modules
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]

    # Each class there is described in the tree that opens the module.
    assert [one for one in silent if "common/errors.py" not in one] == []


def test_no_module_is_long(modules: list[Path], root: Path) -> None:
    """A module of more than 450 lines is two things."""
    lengths = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in modules}

    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_long(modules: list[Path], root: Path) -> None:
    """A function of more than 60 lines, signature and docstring aside, can be said in smaller steps."""
    lengths = {
        f"{path.relative_to(root)}:{node.lineno} {node.name}": node.end_lineno - _first_line(node) + 1
        for path in modules
        for node in _functions(path)
    }

    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, methods and nested ones included."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Where a function's own steps begin: after the signature, which of a command is its options, and docstring."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return body[0].lineno


def test_every_test_states_a_fact(tracked: list[Path], root: Path) -> None:
    """Every test has a docstring of one sentence or more."""
    tests = (path for path in tracked if path.suffix == ".py" and path.relative_to(root).parts[0] == "tests")
    silent = [
        f"{path.relative_to(root)}:{node.lineno} {node.name}"
        for path in tests
        for node in _functions(path)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    assert silent == []


def test_every_contract_s_modules_exist(root: Path) -> None:
    """Import rules name modules that are there: one about a renamed module would hold forever."""
    rules = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    names = {name for rule in rules for key in ("modules", "source_modules") for name in rule.get(key, [])}

    missing = [
        name
        for name in names
        if not any(
            (root / folder / name.replace(".", "/")).is_dir()
            or (root / folder / f"{name.replace('.', '/')}.py").is_file()
            for folder in FOLDERS
        )
    ]
    assert missing == []
