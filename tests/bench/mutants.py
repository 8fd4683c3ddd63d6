"""Which small changes of a module its own tests notice.

    python tests/bench/mutants.py iepile_cli/task/shape.py tests/task [--sample 60]

Each mutant is one change of the module's syntax tree: a comparison turned, an operand swapped, a
constant changed, a condition negated, a statement taken out. The tests run on each in a process
of their own; what they all pass is printed with its line. Nothing of the tree is changed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Each changed form of a node, and what was done."""
    made: Any = copy.deepcopy(node)
    match made:
        case ast.Compare(ops=[op, *rest]) if type(op) in _COMPARED:
            made.ops = [_COMPARED[type(op)](), *rest]
            yield "comparison", made
        case ast.BoolOp():
            made.op = ast.Or() if isinstance(made.op, ast.And) else ast.And()
            yield "and/or", made
        case ast.BinOp() if type(made.op) in _COMPUTED:
            made.op = _COMPUTED[type(made.op)]()
            yield "operator", made
        case ast.UnaryOp(op=ast.Not()):
            yield "not", made.operand
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", made.operand
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(value=str() as value):
            yield "constant", ast.Constant(value + "X" if value else "X")
        case ast.If() | ast.While() | ast.IfExp():
            made.test = ast.UnaryOp(ast.Not(), made.test)
            yield "condition", made
        case ast.Continue():
            yield "continue", ast.Break()
        case ast.Break():
            yield "break", ast.Continue()
        case ast.Return(value=value) if value is not None:
            yield "return", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign():
            yield "statement", ast.Pass()


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Each mutant of a module: its line, what was done, and its tree."""
    skipped = set(map(id, _unchanged(tree)))
    places = [
        (parent, field, index, child)
        for parent in ast.walk(tree)
        for field, value in ast.iter_fields(parent)
        for index, child in enumerate(value if isinstance(value, list) else [value])
        if isinstance(child, ast.AST) and id(child) not in skipped
    ]
    for parent, field, index, child in places:
        held = getattr(parent, field)
        for what, changed in variants(child):
            if isinstance(held, list):
                held[index] = changed
            else:
                setattr(parent, field, changed)
            yield getattr(child, "lineno", 0), what, ast.fix_missing_locations(copy.deepcopy(tree))
            if isinstance(held, list):
                held[index] = child
            else:
                setattr(parent, field, held)


def _unchanged(tree: ast.Module) -> Iterator[ast.AST]:
    """What says nothing about behaviour: docstrings, annotations, imports, messages of errors."""
    for node in ast.walk(tree):
        inner: list[ast.AST | None] = []
        match node:
            case ast.Expr(value=ast.Constant()):
                inner = [node]
            case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.Assert() | ast.JoinedStr():
                inner = [node]
            case ast.AnnAssign() | ast.arg():
                inner = [node.annotation]
            case ast.FunctionDef():
                inner = [node.returns, *node.decorator_list]
            case ast.ClassDef():
                inner = [*node.decorator_list]
        for part in inner:
            if part is not None:
                yield from ast.walk(part)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a changed tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._tree, str(self._path), "exec"), module.__dict__)


def passed(path: Path, tree: ast.Module, tests: Sequence[str], limit: float) -> bool:
    """Whether tests pass on a changed module; one that takes too long does not."""
    child = os.fork()
    if child:
        until = time.monotonic() + limit
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    name = ".".join(path.with_suffix("").parts)
    sys.meta_path.insert(0, _Mutated(name, path, tree))
    import pytest

    options = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    code = pytest.main(["-x", "-q", "-p", "no:xdist", *options, *tests])
    os._exit(int(code))


def main() -> None:
    """Try the mutants of a module, and print the survivors and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # Loaded once for all: the processes are forks of this one.
    import hypothesis  # noqa: F401
    import numpy as np  # noqa: F401
    import pytest  # noqa: F401

    lines = given.module.read_text(encoding="utf-8").splitlines()
    tree = ast.parse("\n".join(lines))
    every = list(mutants(tree))
    if given.sample:
        every = random.Random(given.seed).sample(every, min(given.sample, len(every)))
    begun = time.monotonic()
    if not passed(given.module, tree, given.tests, 600):
        sys.exit("the tests fail on the module as it is")
    limit = 10 + 5 * (time.monotonic() - begun)
    survivors = []
    for line, what, changed in every:
        if passed(given.module, changed, given.tests, limit):
            survivors.append(line)
            print(f"{given.module}:{line}: {what}: {lines[line - 1].strip()}", flush=True)
    noticed = len(every) - len(survivors)
    print(f"{given.module}: {noticed} of {len(every)} noticed ({noticed / len(every):.1%})")


if __name__ == "__main__":
    main()
