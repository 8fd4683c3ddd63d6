"""Completion: what the program answers, and three real shells."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from terminal import Terminal

from iepile_cli.cli import completion_scripts
from iepile_cli.cli.app import app, run
from iepile_cli.cli.completion import VARIABLE, WORDS, completions
from iepile_cli.errors import UsageError
from iepile_cli.registry import registry
from iepile_cli.task.table import TASKS

ROOT = Path(__file__).parents[2]
# How much slower than a usual machine this one may be.
SLOWNESS = float(os.environ.get("IEPILE_TEST_SLOWNESS", "1.5"))
SHELLS = ("bash", "zsh", "fish")


def names(*words: str) -> list[str]:
    return [name for name, _ in completions(app, words)]


def test_subcommands() -> None:
    assert "extract" in names("")
    assert names("ext") == ["extract"]
    assert names("-q", "ext") == ["extract"]
    assert names("nothing", "") == names("")


def test_options_and_their_descriptions() -> None:
    found = dict(completions(app, ["extract", "--t"]))
    assert {"--task", "--template"} <= set(found)
    assert found["--template"].startswith("The chat template")
    assert "--help" in names("extract", "--")
    assert {"--help", "-h", "--quiet", "-q"} <= set(names("-"))
    assert "-q" not in names("--")
    assert names("extract", "--no-con") == ["--no-constrain"]


def test_given_options_are_not_offered_again_unless_they_may_be() -> None:
    offered = names("extract", "--model", "x", "--lines", "--schema", "a", "--")
    assert "--schema" in offered
    assert not {"--model", "--lines"} & set(offered)


def test_values() -> None:
    assert names("extract", "--task", "") == [task.name for task in TASKS.values()]
    assert names("extract", "-t", "e") == ["ee", "eet", "eea"]
    assert names("extract", "--template", "llama3") == ["llama3", "llama3_zh"]
    assert names("extract", "--template=llama3") == ["--template=llama3", "--template=llama3_zh"]
    assert names("extract", "--backend", "") == registry().names("backend")
    models = names("extract", "--model", "")
    assert "smollm2" in models
    assert models == [
        entry.name
        for entry in registry().entries("model")
        if entry.target.kind not in {"adapter", "data"}
    ]
    assert names("extract", "--adapter", "llama2-13b") == ["llama2-13b-iepile-lora"]
    assert names("extract", "-f", "json") == ["json", "jsonl"]
    assert {"oneke", "iepile", "llama2-13b-iepile-lora"} <= set(names("download", ""))
    assert names("list", "mo") == ["models"]


@pytest.mark.parametrize(
    ("command", "option", "some"),
    [
        ("train", "--recipe", {"oneke-lora", "smollm2-lora"}),
        ("train", "--method", {"lora", "full", "freeze"}),
        ("train", "--scheduler", {"cosine", "linear"}),
        ("train", "--bits", {"4", "8", "16"}),
        ("export", "--to", {"merged", "gguf-adapter", "gguf", "ollama"}),
        ("extract", "--server", {"vllm", "ollama", "openai"}),
        ("serve", "--server", {"vllm", "ollama"}),
        ("extract", "--lang", {"en", "zh"}),
        ("convert", "--to", {"rows", "records", "schema"}),
        ("convert", "--from", {"auto", "bio", "brat"}),
        ("convert", "--triggers", {"train", "always", "never"}),
        ("eval", "--mode", {"strict", "boundary", "partial", "type"}),
        ("eval", "--match", {"multiset", "set"}),
        ("eval", "--by", {"source", "type"}),
        ("extract", "--format", {"table", "json", "jsonl", "csv"}),
        ("extract", "--bits", {"4", "32"}),
    ],
)
def test_closed_sets(command: str, option: str, some: set[str]) -> None:
    offered = names(command, option, "")
    assert some <= set(offered)
    assert names(command, f"{option}={offered[-1]}") == [f"{option}={offered[-1]}"]
    assert run([command, option, "nothing-like-it"]) == 2


def test_every_option_with_a_fixed_set_of_values_says_so_in_help() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            choices = parameter.type_descriptor.choices
            if choices and parameter.param_type_name == "option":
                shown = parameter.get_help_record(typer.Context(command))[0]
                assert all(str(getattr(one, "value", one)) in shown for one in choices), name


def test_what_is_left_to_files() -> None:
    assert names("extract", "") == []
    assert names("extract", "some", "fi") == []
    assert names("extract", "--output", "") == []
    assert names("extract", "--model", "./mod") == []
    assert names("extract", "--", "--t") == []


def test_bash_cuts_words_at_the_equals_sign() -> None:
    for words in (["extract", "--template", "=", "llama3"], ["extract", "--template", "="]):
        found = [name for name, _ in completions(app, words, splits_at_equals=True)]
        assert {"llama3", "llama3_zh"} <= set(found)
        assert not [name for name in found if "=" in name]


@pytest.mark.parametrize(
    "words", [[], ["="], ["--x", "=", "y"], ["extract", "--nothing"], ["\ud800", "--"], ["-", "-"]]
)
def test_odd_words_are_no_error(words: list[str]) -> None:
    completions(app, words)
    completions(app, words, splits_at_equals=True)


def test_a_broken_catalogue_of_the_user_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("= broken", encoding="utf-8")
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "iepile_cli", "extract", "--model", ""],
        env={**os.environ, VARIABLE: "zsh", "IEPILE_CONFIG": str(tmp_path / "config.toml")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def ask(shell: str, *words: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "iepile_cli", *words],
        env={**os.environ, VARIABLE: shell, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_lines_for_each_shell() -> None:
    assert "--task\n" in ask("bash", "extract", "--")
    for shell in ("zsh", "fish", "powershell"):
        assert "--task\tNER, RE," in ask(shell, "extract", "--")
    assert ask("bash", "extract", "--template", "=", "llama3") == "llama3\nllama3_zh\n"
    # PowerShell would drop the empty last word, so the words come in a variable.
    given = ask("powershell", **{WORDS: "extract\n--template\nllama3"})
    assert given == "llama3\tLlama 3 Instruct\nllama3_zh\tLlama 3 tuned for Chinese\n"
    assert "extract" in ask("powershell", **{WORDS: ""})


def test_answers_come_before_the_key_is_forgotten() -> None:
    # Processor time, not the clock: other work on the machine must not fail the test. The best of
    # a few, as the first run also compiles.
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "smollm2" in ask("zsh", "extract", "--model", "")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.2 * SLOWNESS, times


def test_no_heavy_module_is_loaded_for_an_answer() -> None:
    code = (
        "import os, sys; from iepile_cli.cli.app import run; run(['extract', '--model', '']);"
        "heavy = {'rich', 'jinja2', 'numpy', 'llama_cpp', 'torch', 'pydantic', 'yaml'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: "zsh"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_each_script_calls_the_program_by_its_variables() -> None:
    names = completion_scripts.FILES.values()
    assert {path.name for path in completion_scripts.FOLDER.iterdir()} == set(names)
    shipped = Path(__file__).parents[2] / "completions"
    assert {path.name for path in shipped.iterdir()} == set(names)
    for shell, name in completion_scripts.FILES.items():
        assert VARIABLE in completion_scripts.script(shell)
        assert (shipped / name).read_text("utf-8") == completion_scripts.script(shell)
    assert WORDS in completion_scripts.script("powershell")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_right_in_form(shell: str) -> None:
    script = completion_scripts.FOLDER / completion_scripts.FILES[shell]
    done = subprocess.run(
        [shell_path(shell), "-n", str(script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_of_powershell_is_right_in_form() -> None:
    script = completion_scripts.FOLDER / completion_scripts.FILES["powershell"]
    program = shutil.which("pwsh") or shutil.which("powershell")
    if program:
        parse = f"[scriptblock]::Create((Get-Content -Raw '{script}'))"
        subprocess.run([program, "-NoProfile", "-Command", parse], check=True, capture_output=True)
    lexers = pytest.importorskip("pygments.lexers")
    tokens = list(lexers.get_lexer_by_name("powershell").get_tokens(script.read_text()))
    assert not [value for kind, value in tokens if "Error" in str(kind)]
    for opening, closing in ("()", "{}", "[]"):
        code = [value for kind, value in tokens if "String" not in str(kind)]
        counts = [sum(value.count(mark) for value in code) for mark in (opening, closing)]
        assert counts[0] == counts[1] > 0


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home and a PATH on which the program is called ``iepile``."""
    program = tmp_path / "bin" / "iepile"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m iepile_cli "$@"\n')
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return {
        "HOME": str(home),
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }


def shell_path(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


COMMANDS = {
    "bash": ["bash", "-i"],
    "zsh": ["zsh", "-i"],
    "fish": ["fish", "-i"],
}


def prepare(shell: str, home: Path) -> None:
    """A plain prompt, and no questions to a new user."""
    if shell == "bash":
        (home / ".bashrc").write_text("PS1='ready> '\n# no newline at the end")
    elif shell == "zsh":
        (home / ".zshrc").write_text("PS1='ready> '\nunsetopt PROMPT_SP\n")
    else:
        (home / ".config" / "fish").mkdir(parents=True)
        # Without this folder fish reads all manual pages in the background, for minutes.
        (home / ".local" / "share" / "fish" / "generated_completions").mkdir(parents=True)
        (home / ".config" / "fish" / "config.fish").write_text(
            "set -g fish_greeting\nset -g fish_autosuggestion_enabled 0\n"
            "function fish_prompt\n echo 'ready> '\nend\n"
        )


@pytest.mark.parametrize("shell", SHELLS)
def test_installed_completion_works_in_a_real_shell(
    shell: str, environment: dict[str, str]
) -> None:
    shell_path(shell)
    prepare(shell, Path(environment["HOME"]))
    for _ in range(2):
        with Terminal(COMMANDS[shell], environment) as terminal:
            terminal.wait_for("ready> ")
            terminal.press("iepile --install-completion; exit\r")
            assert f"completion for {shell}" in terminal.rest()[0]
    lines = [
        line
        for path in Path(environment["HOME"]).glob(".*rc")
        for line in path.read_text().splitlines()
        if "_iepile" in line or "iepile'" in line or "compinit" in line
    ]
    assert len(lines) == (0 if shell == "fish" else 1)
    with Terminal(COMMANDS[shell], environment) as terminal:
        terminal.wait_for("ready> ")
        terminal.press("iepile ext\t")
        terminal.wait_for("iepile extract ")
        terminal.press("--templ\t")
        terminal.wait_for("--template ")
        terminal.press("chatglm\t\t")
        terminal.wait_for("chatglm2(.|\n)*chatglm3")
        terminal.press("3 --no-cons\t")
        terminal.wait_for("--no-constrain ")


@pytest.mark.parametrize("shell", SHELLS)
def test_files_are_completed_where_the_program_has_nothing_to_say(
    shell: str, environment: dict[str, str], tmp_path: Path
) -> None:
    shell_path(shell)
    home = Path(environment["HOME"])
    prepare(shell, home)
    (home / "newspaper.txt").write_text("text")
    script = completion_scripts.FOLDER / completion_scripts.FILES[shell]
    load = f"autoload -Uz compinit; compinit -u; . {script}" if shell == "zsh" else f". {script}"
    with Terminal(COMMANDS[shell], environment) as terminal:
        terminal.wait_for("ready> ")
        terminal.press(f"cd; {load}; echo loa''ded\r")
        terminal.wait_for("loaded")
        terminal.press("iepile extract --model smollm2 newsp\t")
        terminal.wait_for(r"newspaper\.txt")


def test_bash_completes_behind_an_equals_sign(environment: dict[str, str]) -> None:
    shell_path("bash")
    script = completion_scripts.FOLDER / "iepile.bash"
    check = (
        f". {script}; COMP_WORDS=(iepile extract --template = chatglm); COMP_CWORD=4; _iepile;"
        "echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", check], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "chatglm2 chatglm3\n"


def test_fish_shows_descriptions(environment: dict[str, str]) -> None:
    shell_path("fish")
    script = completion_scripts.FOLDER / "iepile.fish"
    done = subprocess.run(
        ["fish", "-c", f"source {script}; complete -C 'iepile extract --templ'"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("--template\tThe chat template")


def test_another_shell_is_told_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion_scripts, "_detected", lambda: "tcsh")
    with pytest.raises(UsageError, match="tcsh"):
        completion_scripts.current_shell()
    monkeypatch.setattr(completion_scripts, "_detected", lambda: "pwsh")
    assert completion_scripts.current_shell() == "powershell"
    with pytest.raises(UsageError, match="PowerShell") as caught:
        completion_scripts.install("powershell")
    assert "$PROFILE" in caught.value.hint
    monkeypatch.setattr(completion_scripts, "_detected", lambda: "")
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert completion_scripts.current_shell() == "fish"
