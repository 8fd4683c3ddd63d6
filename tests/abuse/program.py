"""The program as its users meet it: called in this process or run, and what it promises them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.cli.app import run

# done, failed, wrong usage, some inputs failed, interrupted
CODES = frozenset({0, 1, 2, 3, 130})
# What a terminal obeys: C0 and C1 controls but line feeds and tabs, and what turns the direction.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Done:
    """How a call ended, and what it wrote."""

    code: int
    out: bytes
    err: str


class _Stream(io.TextIOWrapper):
    """A standard stream that is no terminal and has no descriptor."""

    def isatty(self) -> bool:
        return False


def call(*words: str | Path, stdin: bytes = b"") -> Done:
    """Call the program in this process."""
    out, err = io.BytesIO(), io.BytesIO()
    before = sys.stdin
    sys.stdin = _Stream(io.BufferedReader(io.BytesIO(stdin)), encoding="utf-8")  # type: ignore[type-var]
    try:
        with (
            _Stream(out, encoding="utf-8", errors="strict") as shown,
            _Stream(err, encoding="utf-8", errors="backslashreplace") as said,
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(said),
        ):
            try:
                code = run([str(word) for word in words])
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            shown.flush()
            said.flush()
            return Done(code, out.getvalue(), err.getvalue().decode())
    finally:
        sys.stdin = before


def execute(words: Sequence[str | Path], environment: Mapping[str, str], **how: Any) -> Done:
    """Run the program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "iepile_cli", *map(str, words)],
        env=dict(environment),
        capture_output=how.pop("capture_output", True),
        check=False,
        **how,
    )
    return Done(
        done.returncode, done.stdout or b"", (done.stderr or b"").decode("utf-8", "replace")
    )


def check_manners(done: Done, *, codes: frozenset[int] = CODES) -> None:
    """Whatever was put in: a documented exit code, a line for an error, no bug, nothing obeyed."""
    assert done.code in codes, done
    assert "Traceback" not in done.err, done.err
    assert "unexpected error" not in done.err, done.err
    assert not CONTROLS.search(done.err), repr(done.err)
    lines = done.err.split("\n")
    assert lines.pop() == ""
    if done.code:
        assert lines, done
        assert lines[-1].startswith("iepile: "), done.err
        # The command itself fails in one line; before it may stand one for each input.
        assert len([line for line in lines if line == lines[-1]]) == 1, done.err


def rows(data: bytes, *, safe: bool = True) -> list[dict[str, Any]]:
    """The objects of JSON Lines, read strictly; ``safe`` ones have line feeds only between them."""
    if not data:
        return []
    assert data.endswith(b"\n")
    text = data.decode("utf-8")
    assert not safe or len(text.splitlines()) == text.count("\n")
    return [json.loads(line, parse_constant=_no_constant) for line in text.split("\n")[:-1]]


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def spans(value: Any) -> list[dict[str, Any]]:
    """Every object with a text and a place, however deep."""
    if isinstance(value, dict):
        found = [value] if "start" in value else []
        return found + [span for inner in value.values() for span in spans(inner)]
    if isinstance(value, list):
        return [span for inner in value for span in spans(inner)]
    return []


def strings(value: Any) -> list[str]:
    """The strings of an answer that are not keys of a schema: mentions."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in strings(part)]


def check_result(row: Mapping[str, Any], text: str, keys: Sequence[str]) -> None:
    """One result, read without the program's own code: its keys, and every place."""
    assert list(row["answer"]) == list(keys)
    for span in spans(row["items"]):
        assert text[span["start"] : span["end"]] == span["text"] != "", (span, text)
        assert span["score"] is None or 0 <= span["score"] <= 1
    for item in row["items"]:
        assert item["type"] in keys
    for mention in strings(row["answer"]):
        assert mention in text or mention == "NAN", (mention, text)
