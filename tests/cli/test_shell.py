"""The shell of the command line: help, errors, configuration, pipes."""

from __future__ import annotations

import inspect
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from terminal import Terminal

import iepile_cli
from iepile_cli.cli import console
from iepile_cli.cli.app import app, run
from iepile_cli.config import config_file, read_config
from iepile_cli.errors import DataError, UsageError

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "iepile_cli"]
# How much slower than a usual machine this one may be.
SLOWNESS = float(os.environ.get("IEPILE_TEST_SLOWNESS", "1.5"))
COMMANDS = sorted(command.name or "" for command in app.registered_commands if not command.hidden)


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_comes_at_once() -> None:
    # Processor time, not the clock: other work on the machine must not fail the test.
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert call("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3 * SLOWNESS, times


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["--version"]])
def test_no_heavy_module_is_loaded_for_help(arguments: list[str]) -> None:
    code = (
        "import sys; from iepile_cli.cli.app import run; assert run(sys.argv[1:]) == 0;"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'llama_cpp', 'llguidance', 'rich',"
        " 'huggingface_hub', 'jinja2', 'yaml', 'orjson', 'zstandard'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_a_short_form_and_keeps_examples_on_their_lines(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for form in ("-h", "--help"):
        assert run([command, form] if command else [form]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        texts.append(out)
    assert texts[0] == texts[1]
    epilog = next((c.epilog or "" for c in app.registered_commands if c.name == command), "")
    examples = [line.strip() for line in epilog.splitlines() if line.startswith("  iepile")]
    assert (command == "") == (examples == [])
    assert {*examples} <= {line.strip() for line in texts[0].splitlines()}


@pytest.mark.parametrize("columns", [40, 60, 120])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_the_terminal(
    command: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run([command, "--help"] if command else ["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    end = lines.index("  Examples:") if "  Examples:" in lines else len(lines)
    assert [line for line in lines[:end] if len(line) > columns] == []


def test_the_version() -> None:
    assert call("--version").stdout == f"iepile {iepile_cli.__version__}\n"


def test_without_a_command_there_is_help_on_stderr() -> None:
    done = call()
    assert done.returncode in {0, 2}
    assert (done.stdout + done.stderr).startswith("Usage: iepile [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "named", "way_out"),
    [
        (["frob"], "frob", "iepile --help"),
        (["--frob"], "--frob", "iepile --help"),
        (["extract", "--frob"], "--frob", "iepile extract --help"),
        (["extract", "--limit", "some"], "--limit", "iepile extract --help"),
        (["extract", "--limit", "-3"], "--limit", "iepile extract --help"),
        (["extract", "--model"], "--model", "--help"),
        (["list"], "kind", "iepile list --help"),
        (["list", "spoons"], "spoons", "iepile list --help"),
        (["extract", "pyproject.toml"], "--schema", "try --schema"),
        (["extract", "-s", "a", "--template", "qwe", "pyproject.toml"], "'qwe'", "qwen"),
        (["extract", "-s", "a", "--backend", "lama", "pyproject.toml"], "'lama'", "llama-cpp"),
    ],
)
def test_wrong_usage_is_one_line_and_two(
    arguments: list[str],
    named: str,
    way_out: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("iepile: ")
    assert err.count("\n") == 1
    assert named.casefold() in err.casefold()
    assert way_out in err


@pytest.mark.parametrize("words", [["list", "templates"], ["list", "templates", "-v"]])
def test_a_bug_is_one_line_and_a_traceback_only_when_asked(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import iepile_cli.cli.list

    def broken(*given: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(iepile_cli.cli.list, "listed", broken)
    assert run(words) == 1
    err = capsys.readouterr().err
    assert ("Traceback" in err) == ("-v" in words)
    assert err.splitlines()[-1].startswith("iepile: unexpected error: KeyError: 'lost' (")


def test_a_reader_that_has_enough_ends_the_program_quietly() -> None:
    process = subprocess.Popen(
        [*PROGRAM, "list", "templates"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    command = f'"{sys.executable}" -m iepile_cli list templates {closed}'
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line() -> None:
    command = f'"{sys.executable}" -m iepile_cli list templates > /dev/full'
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "iepile: No space left on device\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a configuration file that is then used."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("IEPILE_CONFIG", str(path))
        return path

    return write


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``extract`` is called with; it does nothing else."""
    seen: dict[str, Any] = {}

    def record(**values: Any) -> None:
        seen.clear()
        seen.update(values)

    command = next(c for c in app.registered_commands if c.name == "extract")
    wrapped = command.callback
    assert wrapped is not None
    record.__annotations__ = get_type_hints(wrapped, include_extras=True)
    record.__signature__ = inspect.signature(wrapped, eval_str=True)  # type: ignore[attr-defined]
    monkeypatch.setattr(command, "callback", record)
    return seen


def test_the_command_line_comes_before_the_environment_before_the_file(
    config: Callable[[str], Path], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config('model = "of file"\nbackend = "of file"\ntemplate = "of file"')
    monkeypatch.setenv("IEPILE_MODEL", "of environment")
    monkeypatch.setenv("IEPILE_BACKEND", "of environment")
    assert run(["extract", "--model", "of line"]) == 0
    assert (given["model"], given["backend"], given["template"]) == (
        "of line",
        "of environment",
        "of file",
    )


def test_a_commands_own_table_comes_before_what_is_for_all(
    config: Callable[[str], Path], given: dict[str, Any]
) -> None:
    for text in (
        'limit = 1\n[extract]\nlimit = 2\nall-occurrences = true\nformat = "json"',
        '[extract]\nlimit = 2\nall_occurrences = true\nformat = "json"',
    ):
        config(text)
        assert run(["extract"]) == 0
        assert (given["limit"], given["all_occurrences"], given["format"]) == (2, True, "json")


def test_an_option_that_may_be_repeated_takes_a_value_or_a_list(
    config: Callable[[str], Path], given: dict[str, Any]
) -> None:
    config('schema = "person"\nadapter = ["a", "b"]\nconstrain = false')
    assert run(["extract"]) == 0
    assert given["schema"] == ["person"]
    assert given["adapter"] == ["a", "b"]
    assert given["constrain"] is False


def test_quiet_and_verbose_may_stand_in_the_file(
    config: Callable[[str], Path], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("quiet", "verbose"):
        monkeypatch.setattr(console.verbosity, name, False)
    config("quiet = true")
    assert run(["extract"]) == 0
    assert console.verbosity.quiet
    monkeypatch.setenv("IEPILE_QUIET", "0")
    assert run(["extract"]) == 0
    assert not console.verbosity.quiet
    assert run(["-v", "extract"]) == 0
    assert console.verbosity.verbose


def test_help_of_a_command_comes_with_an_empty_file(config: Callable[[str], Path]) -> None:
    config("")
    assert run(["extract", "--help"]) == 0


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("model = ", 1, "config.toml: not TOML"),
        ('modle = "x"', 2, "no option is called 'modle'"),
        ("[extract]\nlimits = 3", 2, "no option is called 'extract.limits'"),
        ("[frob]\nmodel = 3", 2, "no option is called 'frob'"),
        ("extract = 3", 2, "extract must be a table"),
        ("version = true", 2, "no option is called 'version'"),
        ("model = {a = 1}", 2, "model is a table"),
        ("limit = [1]", 2, "limit is a list"),
        ('limit = "some"', 2, "--limit"),
    ],
)
def test_a_broken_file_is_one_line(
    config: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int,
    reason: str,
) -> None:
    config(text)
    assert run(["extract", "-s", "a", "x.txt"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err


def test_files_that_are_not_text_or_not_there(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = config("")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not TOML"):
        read_config()
    path.write_bytes(b"\xef\xbb\xbfmodel = 'x'")
    assert read_config() == {"model": "x"}
    monkeypatch.setenv("IEPILE_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"none\.toml.*not there"):
        read_config()
    monkeypatch.delenv("IEPILE_CONFIG")
    assert read_config() == {}


def test_the_file_in_the_users_folder_is_read(given: dict[str, Any]) -> None:
    path = config_file()
    assert path.is_relative_to(os.environ["HOME"])
    path.parent.mkdir(parents=True)
    path.write_text('model = "mine"', encoding="utf-8")
    assert run(["extract"]) == 0
    assert given["model"] == "mine"


@pytest.mark.parametrize("columns", [40, 100])
@pytest.mark.parametrize("kind", ["templates", "backends", "models"])
def test_listings_fit_the_terminal(kind: str, columns: int) -> None:
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    # It would override the terminal's width.
    environment.pop("COLUMNS", None)
    with Terminal([*PROGRAM, "list", kind], environment, columns=columns) as terminal:
        text, code = terminal.rest()
    assert code == 0
    names = [line.split("\t")[0] for line in call("list", kind).stdout.splitlines()]
    assert all(re.search(rf"^ ?{re.escape(name)}\b", text, re.MULTILINE) for name in names)
    assert max(map(len, text.splitlines())) <= columns


def test_listings_say_what_is_missing_and_what_is_there() -> None:
    models = {
        line.split("\t")[0]: line.split("\t") for line in call("list", "models").stdout.splitlines()
    }
    assert models["smollm2"][1:4] == ["built-in", "yes", ""]
    assert models["oneke"][2:4] == ["no", "not here: iepile download oneke"]
    assert models["oneke"][5:10] == ["base", "26.5 GB", "32.1 GB", "cc-by-nc-sa-4.0", "zh en"]
    assert all(len(fields) == 12 for fields in models.values())
    # What can be used here comes first, corpora apart at the end.
    order = [("data" in fields[5:6], fields[2] != "yes") for fields in models.values()]
    assert order == sorted(order)
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    with Terminal([*PROGRAM, "list", "models"], environment, columns=120) as terminal:
        text, _ = terminal.rest()
    lines = text.splitlines()
    assert lines[0].split() == [
        *("model", "runs", "here", "size", "memory", "fits", "licence", "languages", "about")
    ]
    assert re.match(r"smollm2 +yes +[\d.]+ [kMG]B +[\d.]+ [kMG]B +yes +apache-2\.0 +en ", lines[1])
    blank = lines.index("")
    assert lines[blank + 1].split() == ["corpus", "is", "here", "size", *lines[0].split()[6:]]
    assert lines[blank + 2].startswith("iepile ")


def test_a_word_close_to_a_choice_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "model"]) == 2
    assert capsys.readouterr().err == (
        "iepile: Invalid value for 'kind': 'model' is not one of 'templates', 'backends', "
        "'models', 'recipes' (did you mean models?)\n"
    )
    assert run(["list", "spoons"]) == 2
    assert "see iepile list --help" in capsys.readouterr().err


def test_colours_can_be_switched_off() -> None:
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    with Terminal([*PROGRAM, "list", "backends"], environment) as terminal:
        terminal.rest()
        assert b"\x1b[3" not in terminal._seen
