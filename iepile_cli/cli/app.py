"""The program: its subcommands, and how each run of it ends.

``run`` is the one place where an error becomes a line on stderr and an exit code.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from iepile_cli import __version__
from iepile_cli.cli import commands, completion, console, options
from iepile_cli.cli.defaults import defaults_by_command
from iepile_cli.config import config_file, read_config
from iepile_cli.errors import IEPileError

INTERRUPTED = 130

# Each subcommand: its module in ``iepile_cli.cli``, its function there, and what it does.
COMMANDS = {
    "extract": ("extract", "extract", "Extract what a schema names from texts."),
    "view": ("view", "view", "Make a page of results, or count what was found."),
    "convert": ("convert", "convert", "Build training and test data from annotated texts."),
    "train": ("train", "train", "Fine-tune a model on converted data."),
    "eval": ("eval", "evaluate", "Score predictions."),
    "distill": ("distill", "distill", "Train a small model on the answers of a large one."),
    "export": ("export", "export", "Turn a trained model into GGUF, merged weights or Ollama."),
    "download": ("download", "download", "Fetch models, adapters and corpora."),
    "list": ("list", "list_", "Show models, templates, backends and recipes."),
    "serve": ("serve", "serve", "Show or run the command that serves a model."),
    "doctor": ("doctor", "doctor", "Check what works here, and how to install the rest."),
}


class _Program(commands.Group):
    """The program, whose help needs no subcommand to be loaded."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each subcommand does."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (*_, about) in COMMANDS.items()])


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"iepile {__version__}")
        raise typer.Exit


def _install_completion(asked: bool) -> None:
    if asked:
        from iepile_cli.cli import completion_scripts as scripts

        shell = scripts.current_shell()
        path = scripts.install(shell)
        console.note(f"completion for {shell}: {path}; it works in the next shell you open")
        raise typer.Exit


def _show_completion(asked: bool) -> None:
    if asked:
        from iepile_cli.cli import completion_scripts as scripts

        typer.echo(scripts.script(scripts.current_shell()), nl=False)
        raise typer.Exit


def _options(
    context: typer.Context,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            help="Install completion for the shell this is called from.",
            callback=_install_completion,
            is_eager=True,
        ),
    ] = False,
    show_completion: Annotated[
        bool,
        typer.Option(
            "--show-completion",
            help="Show the completion script of that shell.",
            callback=_show_completion,
            is_eager=True,
        ),
    ] = False,
) -> None:
    given = read_config()
    defaults = defaults_by_command(given, context.command) if given else {"": {}}
    context.default_map = defaults
    values = {"quiet": quiet, "verbose": verbose}
    for name in values:
        # The group is parsed before the file is read.
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT":
            values[name] = defaults[""].get(name, False)
    options.set_verbosity(context, values)


def _app(names: Iterable[str]) -> typer.Typer:
    """The command line with the named subcommands."""
    made = typer.Typer(
        name="iepile",
        cls=_Program,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=False,
        context_settings=commands.help_settings(),
        help="Schema-based information extraction: name what you want, point at text, get exactly "
        "that, as valid JSON that says where in the text each item stands.",
    )
    made.callback()(_options)
    for name in names:
        module, function, about = COMMANDS[name]
        held = import_module(f"iepile_cli.cli.{module}")
        called = getattr(held, function)
        made.command(name, cls=commands.Command, short_help=about, epilog=held.EXAMPLES)(called)
    return made


@cache
def _whole_app() -> typer.Typer:
    return _app(COMMANDS)


def __getattr__(name: str) -> Any:
    if name == "app":
        return _whole_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _app_for(words: list[str]) -> typer.Typer:
    """The command line with what these words need of it.

    Loading every subcommand and describing its options to Typer takes as long as all else before
    a subcommand begins. A configuration may name the options of any.
    """
    named = next((word for word in words if not word.startswith("-")), "")
    if not named:
        return _app([])
    if named not in COMMANDS or os.environ.get("IEPILE_CONFIG") or config_file().is_file():
        return _whole_app()
    return _app([named])


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    _open_closed_streams()
    try:
        with _ending_as_interrupted():
            code = _call(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except IEPileError as error:
        console.print_error(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        return _abandon_stdout()
    except SystemExit as error:
        # Typer makes an exit of a closed pipe.
        if isinstance(error.__context__, BrokenPipeError):
            return _abandon_stdout()
        raise
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        console.print_error(f"{named}{error.strerror or error}")
        return 1
    except Exception as error:
        # Typer's own usage errors; their class depends on Typer's version.
        if hasattr(error, "format_message"):
            return _wrong_usage(error)
        return _unexpected(error)
    # Newer versions of Typer make an exit code of Ctrl-C; older ones raise.
    if code == INTERRUPTED:
        console.print_error("interrupted")
    return code


@contextmanager
def _ending_as_interrupted() -> Iterator[None]:
    """Make SIGTERM and the end of the terminal what Ctrl-C is: nothing half done is left behind."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else [])]
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # What is ignored already, as with nohup, stays so.
        before = {n: old for n in numbers if (old := signal.getsignal(n)) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _call(words: list[str]) -> int:
    shell = os.environ.get(completion.VARIABLE)
    if shell:
        given = os.environ.get(completion.WORDS)
        words = words if given is None else given.split("\n")
        named = next((word for word in words[:-1] if word in COMMANDS), "")
        completion.answer(_app([named]) if named else _whole_app(), shell, words)
        return 0
    code = _app_for(words)(args=words, prog_name="iepile", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _wrong_usage(error: Any) -> int:
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{message}\n")
    elif message:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "iepile"
        message = _where_given(error, context) + message.rstrip(".").replace("Value error, ", "")
        console.print_error(message, _close_choice(message) or f"see {command} --help")
    return int(getattr(error, "exit_code", 2))


def _where_given(error: Any, context: Any) -> str:
    """The file or the variable that a refused value comes from, where nobody typed it."""
    option = getattr(error, "param", None)
    source = context.get_parameter_source(option.name) if context and option else None
    places = {"DEFAULT_MAP": config_file(), "ENVIRONMENT": getattr(option, "envvar", "")}
    place = places.get(source.name) if source else None
    return f"{place}: " if place else ""


def _close_choice(message: str) -> str:
    """The choice that a refused value is close to, as a question; ``""`` when none is."""
    refused = re.search(r"'([^']*)' is not one of (.*)", message)
    if not refused:
        return ""
    import difflib

    close = difflib.get_close_matches(refused[1], re.findall(r"'([^']*)'", refused[2]), n=1)
    return f"did you mean {close[0]}?" if close else ""


def _unexpected(error: Exception) -> int:
    """One line about a bug, and where it is with ``-v``."""
    if console.verbosity.verbose:
        traceback.print_exception(error)
    where = "" if console.verbosity.verbose else "; -v shows where it is"
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    console.print_error(f"unexpected error: {said}", hint=f"this is a bug, please report it{where}")
    return 1


def _abandon_stdout() -> int:
    """End quietly, as whoever read our output has enough.

    The interpreter would complain when it flushes stdout at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _open_closed_streams() -> None:
    """Give a program that was started without stdout or stderr something to write to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
