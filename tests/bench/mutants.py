"""Which small changes of a module, or of all modules of a folder, its tests notice.

    python tests/bench/mutants.py iepile_cli/task/shape.py tests/task [--sample 60]

Each mutant is one change of the module's syntax tree: a comparison turned, an operator swapped, a
constant changed, a condition negated, a statement taken out. The tests are collected once. On each
mutant of a function those run that enter it, the quickest first, in a fork that has the changed
code; what they pass, and what stands in no function, is tried again in a process that loads the
changed module. What survives both is printed with its line. Nothing of the tree is changed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import gc
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, TypeAlias

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
        case ast.Return(value=None | ast.Constant(value=None | False)):
            # None in its place would change nothing, or as good as nothing.
            return
        case ast.Return():
            yield "return", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign():
            yield "statement", ast.Pass()


# The name of a function and its first line, decorators included.
Place: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Mutant:
    """A changed module: where it was changed and how, its code, and the function around."""

    path: Path
    line: int
    what: str
    code: CodeType
    function: Place | None


def changes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Make every change, one by one, in the tree itself: the line, and what was done to it."""
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
            ast.fix_missing_locations(tree)
            yield getattr(child, "lineno", 0), what
            if isinstance(held, list):
                held[index] = child
            else:
                setattr(parent, field, held)


def mutants(paths: Sequence[Path], sample: int, seed: int) -> Iterator[Mutant]:
    """So many mutants of modules, chosen at random; 0: all."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    numbers = [(path, n) for path in paths for n, _ in enumerate(changes(trees[path]))]
    if sample:
        numbers = random.Random(seed).sample(numbers, min(sample, len(numbers)))
    chosen = set(numbers)
    for path, tree in trees.items():
        for number, (line, what) in enumerate(changes(tree)):
            if (path, number) in chosen:
                code = compile(tree, str(path), "exec")
                yield Mutant(path, line, what, code, function_around(tree, line))


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
    """Loads a changed module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = ".".join(mutant.path.with_suffix("").parts).removesuffix(".__init__")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._mutant.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._mutant.code, module.__dict__)


def succeeds(run: Callable[[], object], limit: float) -> bool:
    """Whether a function, in a process of its own, gives a false value in so many seconds."""
    child = os.fork()
    if not child:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 1
        try:
            code = int(bool(run()))
        finally:
            os._exit(code)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def run_pytest(folder: str, tests: Sequence[str], *plugins: object) -> int:
    """Run tests, or what plugins do in their place."""
    import pytest

    options = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    options += ["-x", "-q", "-p", "no:xdist", f"--basetemp={folder}/tests"]
    return int(pytest.main([*options, *tests], plugins=plugins))


def run_on(mutant: Mutant, folder: str, tests: Sequence[str]) -> int:
    """Run tests on a changed module, which this process has not loaded yet."""
    sys.meta_path.insert(0, _Mutated(mutant))
    return run_pytest(folder, tests)


def function_around(tree: ast.Module, line: int) -> Place | None:
    """The outermost function or method that holds a line."""
    scopes: list[ast.AST] = [tree]
    while scopes:
        for node in ast.iter_child_nodes(scopes.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
                if first <= line <= (node.end_lineno or first):
                    return node.name, first
            elif isinstance(node, ast.ClassDef):
                scopes.append(node)
    return None


def codes(code: CodeType) -> dict[Place, CodeType | None]:
    """The code of every function of a module; None where several share a line and a name."""
    found: dict[Place, CodeType | None] = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            own = {(inner.co_name, inner.co_firstlineno): inner}
            for place, each in {**codes(inner), **own}.items():
                found[place] = None if place in found else each
    return found


def patch(mutant: Mutant) -> None:
    """Give the loaded functions of a module the code of a changed tree, and empty all caches."""
    changed = codes(mutant.code)
    name = str(mutant.path.resolve())
    for value in gc.get_objects():
        if isinstance(value, functools._lru_cache_wrapper):
            value.cache_clear()
        elif isinstance(value, FunctionType) and value.__code__.co_filename == name:
            code = changed.get((value.__code__.co_name, value.__code__.co_firstlineno))
            if code and code.co_freevars == value.__code__.co_freevars:
                value.__code__ = code


class Session:
    """In place of a run of pytest: which tests enter what, and the mutants of functions.

    ``survivors`` is filled by ``pytest_runtestloop``: the numbers of mutants to try again, and
    the tests that matter for each: all for what stands in no function, none for a function that
    no test enters.
    """

    def __init__(self, every: Sequence[Mutant]) -> None:
        self._every = every
        self._files = {str(mutant.path.resolve()): str(mutant.path) for mutant in every}
        # The tests by file, name and first line of the functions that they enter.
        self._entered: dict[tuple[str, str, int], set[str]] = {}
        self._seconds: dict[str, float] = {}
        self.survivors: list[tuple[int, list[str]]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """End at the first failure."""
        if report.failed:
            os._exit(1)
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_runtestloop(self, session: Any) -> bool:
        """All tests on the module as it is, then those that count on each mutant."""
        items = {item.nodeid: item for item in session.items}
        with tempfile.NamedTemporaryFile() as kept:

            def trace() -> None:
                self._trace(list(items.values()))
                entered = [(place, list(tests)) for place, tests in self._entered.items()]
                Path(kept.name).write_text(json.dumps([self._seconds, entered]))

            if not succeeds(trace, 1200):
                os._exit(1)
            seconds, entered = json.loads(Path(kept.name).read_text())
        enters: dict[tuple[str, ...], list[str]] = {tuple(place): names for place, names in entered}
        for number, mutant in enumerate(self._every):
            place: Any = (str(mutant.path), *(mutant.function or ()))
            names = sorted(enters.get(place, []), key=seconds.__getitem__)
            limit = 10 + 5 * sum(seconds[name] for name in names)
            chosen = [items[name] for name in names]
            if not mutant.function:
                self.survivors.append((number, list(items)))
            elif not chosen or succeeds(lambda: self._run_on(mutant, chosen), limit):  # noqa: B023
                self.survivors.append((number, names))
        return True

    def _run_on(self, mutant: Mutant, items: Sequence[Any]) -> None:
        patch(mutant)
        for item, after in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)

    def _trace(self, items: Sequence[Any]) -> None:
        """Run tests, and keep which of them enter which function."""
        now = ""

        def enter(frame: FrameType, event: str, argument: object) -> None:
            code = frame.f_code
            if file := self._files.get(code.co_filename):
                place = (file, code.co_name, code.co_firstlineno)
                self._entered.setdefault(place, set()).add(now)

        threading.settrace(enter)
        sys.settrace(enter)
        for item, after in zip(items, [*items[1:], None], strict=True):
            now = item.nodeid
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        sys.settrace(None)


def surviving(every: Sequence[Mutant], tests: Sequence[str]) -> Iterator[Mutant]:
    """The mutants that no test notices.

    Raises:
        SystemExit: The tests fail on the modules as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "survivors.json"

        def first() -> None:
            session = Session(every)
            run_pytest(folder, tests, session)
            kept.write_text(json.dumps(session.survivors))

        if not succeeds(first, 36_000):
            sys.exit("the tests fail on the modules as they are")
        for number, names in json.loads(kept.read_text()):
            mutant = every[number]
            if not names or succeeds(lambda: run_on(mutant, folder, names), 600):  # noqa: B023
                yield mutant


def main() -> None:
    """Try the mutants of a module, and print the survivors and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path, help="a module, or a folder of them")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # Loaded once for all: the processes are forks of this one.
    import hypothesis
    import numpy as np  # noqa: F401
    import pytest  # noqa: F401

    # That a test fails is enough: no smaller example is looked for.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases)
    hypothesis.settings.load_profile("mutants")
    paths = sorted(given.module.rglob("*.py")) if given.module.is_dir() else [given.module]
    every = list(mutants(paths, given.sample, given.seed))
    survivors = 0
    for mutant in surviving(every, given.tests):
        survivors += 1
        text = mutant.path.read_text(encoding="utf-8").splitlines()[mutant.line - 1]
        print(f"{mutant.path}:{mutant.line}: {mutant.what}: {text.strip()}", flush=True)
    noticed = len(every) - survivors
    print(f"{given.module}: {noticed} of {len(every)} noticed ({noticed / len(every):.1%})")


if __name__ == "__main__":
    main()
