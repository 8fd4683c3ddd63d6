"""Runs the command line inside the test's process."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from iepile_cli.cli import app


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Give exit code, stdout and stderr of ``iepile`` with some arguments."""

    def call(*arguments: object) -> Result:
        code = app.run([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Result(code, out.decode(), err.decode())

    return call
