"""The rules of the house: which room imports which, and where tasks are known by name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iepile_cli.task.table import TASKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "iepile_cli"


def test_rooms_import_downward_only() -> None:
    pytest.importorskip("importlinter")
    lint = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        yield name, ast.parse(path.read_text(encoding="utf-8"))


# Words of other programs' files that happen to be names of tasks.
_OTHER_MEANINGS = {("conversion/readers/spacy.py", "ner")}


def test_no_code_outside_task_knows_a_task_by_name() -> None:
    names = {name.casefold() for name in TASKS}
    found = [
        f"{module}:{node.lineno}: {node.value!r}"
        for module, tree in modules()
        if not module.startswith("task/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.casefold() in names
        and (module, node.value) not in _OTHER_MEANINGS
    ]
    assert found == []


def test_tasks_load_nothing_but_the_standard_library() -> None:
    allowed = {*sys.stdlib_module_names, "iepile_cli"}
    found = [
        f"{module}:{node.lineno}: {name}"
        for module, tree in modules()
        if module.startswith("task/")
        for node in tree.body
        for name in imported(node)
        if name.partition(".")[0] not in allowed
    ]
    assert found == []


def imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_library_code_neither_prints_nor_exits() -> None:
    found = [
        f"{module}:{node.lineno}: {ast.unparse(node.func)}"
        for module, tree in modules()
        if not module.startswith("cli/") and module != "__main__.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "sys.exit", "exit", "quit", "typer.echo"}
    ]
    assert found == []


def test_modules_load_one_another_in_no_circle() -> None:
    trees = {
        ".".join(("iepile_cli", *Path(name).with_suffix("").parts)).removesuffix(".__init__"): tree
        for name, tree in modules()
    }
    loaded = {
        name: {one for node in tree.body for one in names_loaded(node)} & trees.keys() - {name}
        for name, tree in trees.items()
    }
    # A circle is what is left when modules that load nothing more are taken away again and again.
    while free := {name for name, others in loaded.items() if not others & loaded.keys()}:
        for name in free:
            del loaded[name]
    # What only loads a circle is no part of it.
    while outer := loaded.keys() - {one for others in loaded.values() for one in others}:
        for name in outer:
            del loaded[name]
    assert sorted(loaded) == []


def names_loaded(node: ast.stmt) -> list[str]:
    names = imported(node)
    if isinstance(node, ast.ImportFrom):
        names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names
