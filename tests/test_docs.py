"""The documentation does what it says: transcripts are run, commands are parsed, links lead on.

``<!-- transcript -->`` before a ``console`` block has its commands run in a folder with the
examples, and what they write compared (``...`` stands for anything); those of all ``<!-- walk -->``
blocks of a page are run one after the other in one folder. ``tests/refresh_pages.py`` writes both
anew. ``<!-- runs -->`` has the commands of a block run. Every other command of the program, those
that need a network, a GPU or minutes, is parsed: its options and choices exist. ``pycon`` blocks
are run as doctests.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from iepile_cli.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    "iepile_cli/models/smollm2-iepile-lora/README.md",
    "iepile_cli/training/recipes/embedded/README.md",
]
_BLOCK = re.compile(
    r"(?P<mark><!-- [^>]*-->\n)?^(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(iepile [^`]+)`")
_INDENTED = re.compile(r"^    (?:\$ )?((?:srun|torchrun|iepile) .*)$", re.MULTILINE)


_SCORE = re.compile(r"\b0\.\d+")
ESTIMATE = re.compile(r"^[\d,]+ \w+: about .* left\n", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    mark: str
    text: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        content = (ROOT / page).read_text(encoding="utf-8")
        for match in _BLOCK.finditer(content):
            line = content.count("\n", 0, match.start("text"))
            mark = (match["mark"] or "").strip("<!- >\n")
            yield Block(page, line, match["language"], mark, match["text"])


def commands() -> Iterator[tuple[str, str]]:
    """Every command of the program that a page shows, with where it stands."""
    for block in blocks():
        text = block.text.replace("\\\n", " ")
        if block.language in ("sh", "console", "bash", ""):
            for line in text.splitlines():
                shown = line.removeprefix("$ ").strip()
                if line.startswith("$ ") or block.language != "console":
                    for part in _calls(shown):
                        yield f"{block.page}:{block.line}", part
    for page in PAGES:
        content = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
        for match in (*_INLINE.finditer(content), *_INDENTED.finditer(content)):
            line = content.count("\n", 0, match.start())
            for part in _calls(match[1].rstrip("\\")):
                yield f"{page}:~{line}", part


def _calls(line: str) -> Iterator[str]:
    """The calls of the program in a line of shell."""
    for part in re.split(r"\s(?:\||&&|;)\s", line.split("  # ")[0]):
        words = part.split()
        if "iepile" in words[:1]:
            yield re.split(r"\s[<>]", part)[0]


@cache
def program() -> Any:
    return typer.main.get_command(app)


# Words that stand for something, and forms that are not whole commands.
_NOT_WHOLE = re.compile(r"…|\.\.\.|\$\(|\[OPTIONS\]|\"\$")


@pytest.mark.parametrize(("where", "line"), sorted(set(commands())))
def test_every_command_is_one_that_the_program_takes(where: str, line: str) -> None:
    if _NOT_WHOLE.search(line):
        pytest.skip("a part of a command")
    _, *words = shlex.split(line)
    said = refusal(words)
    # What stands within a sentence may leave out what a command must have.
    partial = "Missing" in said or "requires an argument" in said
    assert not said or ("~" in where and partial), said


def refusal(words: list[str]) -> str:
    """Why the program does not take these words; it is not run."""
    group = program()
    try:
        with group.make_context("iepile", list(words)) as context:
            rest = [*context._protected_args, *context.args]
            name, command, arguments = group.resolve_command(context, rest)
            if arguments or name in ("extract", "serve"):
                command.make_context(name, arguments, parent=context)
    except typer.Exit:
        pass
    except Exception as error:
        shown = getattr(error, "format_message", None)
        return str(shown() if shown else repr(error))
    return ""


RECORDS = [
    {"text": "Ann met Bob in Rome.", "entity": [{"entity": "Ann", "entity_type": "person"}]},
    {"text": "Oslo is cold.", "entity": [{"entity": "Oslo", "entity_type": "place"}]},
]
RELATION = {"head": "Ann", "relation": "lives in", "tail": "Rome"}
SPAN = {"type": "person", "text": "Ann", "start": 0, "end": 3}
RESULT = {"source": "a.txt", "task": "NER", "answer": {"person": ["Ann"]}, "items": [SPAN]}


def write_what_pages_speak_of(folder: Path) -> None:
    """The files that the pages' commands name."""
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    related = json.dumps({"text": "Ann lives in Rome.", "relation": [RELATION]}) + "\n"
    instruction = json.dumps({"instruction": "x", "schema": ["person"], "input": "Ann met Bob."})
    row = {
        "task": "NER",
        "source": "made",
        "instruction": instruction,
        "label": json.dumps([{"entity": "Ann", "entity_type": "person"}]),
        "output": json.dumps({"person": ["Ann"]}),
    }
    contents = {
        "news.txt": (ROOT / "examples" / "news.txt").read_text(encoding="utf-8"),
        "reports/one.txt": "Rebels attacked the town on Monday.",
        "news.bio": (ROOT / "examples" / "letters.bio").read_text(encoding="utf-8"),
        "train.json": lines,
        "test.json": lines,
        "schema.json": '["person", "place"]\n[]\n{}\n',
        "IE-en/RE/NYT11/test.json": related,
        "IE-en/RE/NYT11/schema.json": '[]\n["lives in"]\n{}\n',
        "IEPile/IE-en/NER/made/train.json": lines,
        "IEPile/IE-en/NER/made/schema.json": '["person", "place"]\n[]\n{}\n',
        **{f"{name}.jsonl": json.dumps(row) + "\n" for name in ("predictions", "new", "old")},
        **{f"{name}.jsonl": json.dumps(RESULT) + "\n" for name in ("results", "gold")},
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell in a folder with the examples."""
    return shell_in(tmp_path)


def shell_in(place: Path) -> dict[str, str]:
    """Make a folder with the examples, and an environment that calls the program ``iepile``."""
    folder = place / "here"
    folder.mkdir()
    shutil.copytree(ROOT / "examples", folder / "examples")
    write_what_pages_speak_of(folder)
    (place / "bin").mkdir()
    for name, words in (("iepile", "-m iepile_cli "), ("python3", "")):
        link = place / "bin" / name
        link.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        link.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{link.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "PWD": str(folder),
    }


class Step(NamedTuple):
    """A command of a transcript, as it is shown, and what it is to write."""

    shown: str
    expected: str

    @property
    def command(self) -> str:
        # A command goes on after a backslash.
        return self.shown.replace("\\\n", "")


def steps(text: str) -> Iterator[Step]:
    """The commands of a transcript."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        shown = re.match(r"(?:.*\\\n)*.*\n", part)
        assert shown
        yield Step(shown.group()[:-1], part[shown.end() :])


def written_by(step: Step, shell: dict[str, str]) -> str:
    """What a command writes, to stdout and to stderr."""
    return subprocess.run(
        ["bash", "-c", step.command],
        env=shell,
        cwd=shell["PWD"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def agrees(step: Step, written: str) -> bool:
    """Whether a command wrote what it is to write.

    Scores differ from processor to processor, and only slow ones are told how long it takes.
    """
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    shown, wanted = (_SCORE.sub("0.#", ESTIMATE.sub("", text)) for text in (written, step.expected))
    return doctest.OutputChecker().check_output(wanted, shown, flags)


TRANSCRIPTS = [block for block in blocks() if block.mark == "transcript"]
WALKS = {
    page: [block for block in blocks() if block.page == page and block.mark == "walk"]
    for page in PAGES
}


@pytest.mark.model
@pytest.mark.skipif(sys.platform == "win32", reason="the transcripts are those of a Unix shell")
@pytest.mark.parametrize("block", TRANSCRIPTS, ids=lambda block: f"{block.page}:{block.line}")
def test_transcripts_are_true(block: Block, shell: dict[str, str]) -> None:
    for step in steps(block.text):
        written = written_by(step, shell)
        assert agrees(step, written), written


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.skipif(sys.platform == "win32", reason="the transcripts are those of a Unix shell")
@pytest.mark.parametrize("page", [page for page in PAGES if WALKS[page]])
def test_walks_are_true(page: str, shell: dict[str, str]) -> None:
    for block in WALKS[page]:
        for step in steps(block.text):
            written = written_by(step, shell)
            assert agrees(step, written), f"line {block.line}: {step.command}\n{written}"


RUNNING = [block for block in blocks() if block.mark == "runs"]


@pytest.mark.model
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of a Unix shell")
@pytest.mark.parametrize("block", RUNNING, ids=lambda block: f"{block.page}:{block.line}")
def test_commands_run(block: Block, shell: dict[str, str]) -> None:
    lines = block.text.replace("\\\n", " ").splitlines()
    commands = [
        line.removeprefix("$ ") for line in lines if block.language != "console" or line[:2] == "$ "
    ]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        env=shell,
        cwd=shell["PWD"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert commands
    assert done.returncode == 0, done.stderr


def test_there_are_transcripts() -> None:
    assert any(block.page == "README.md" for block in TRANSCRIPTS)


@pytest.mark.model
@pytest.mark.parametrize("page", sorted({b.page for b in blocks() if b.language == "pycon"}))
def test_python_on_a_page_is_true(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(b.text for b in blocks() if b.page == page and b.language == "pycon")
    test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    content = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    content = re.sub(r"`[^`\n]*`", "", content)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", content):
        assert ((ROOT / page).parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", content):
        path = (ROOT / page).parent / target if target else ROOT / page
        heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}
