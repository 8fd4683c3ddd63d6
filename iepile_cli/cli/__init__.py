"""The command line: arguments in, text out, no logic.

``main`` is the one place where an error becomes a line on stderr and an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from iepile_cli import __version__
from iepile_cli.cli import completion, console, settings
from iepile_cli.errors import IEPileError

INTERRUPTED = 130

# Each subcommand: the module of this package that holds it, and its function there.
COMMANDS = {
    "convert": ("convert", "convert"),
    "download": ("download", "download"),
    "eval": ("eval", "evaluate"),
    "export": ("export", "export"),
    "extract": ("extract", "extract"),
    "list": ("list", "list_"),
    "serve": ("serve", "serve"),
    "train": ("train", "train"),
}


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

        typer.echo(scripts.SCRIPTS[scripts.current_shell()], nl=False)
        raise typer.Exit


def _options(
    context: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", envvar="IEPILE_QUIET", help="Say only errors.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", envvar="IEPILE_VERBOSE", help="Say more.")
    ] = False,
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
    config = settings.read_config()
    defaults = settings.defaults_by_command(config, context.command) if config else {"": {}}
    context.default_map = defaults
    for name, given in (("quiet", quiet), ("verbose", verbose)):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT":
            given = bool(defaults[""].get(name, given))
        setattr(console.Voice, name, given)


def _app(names: Iterable[str]) -> typer.Typer:
    """The command line with the named subcommands."""
    made = typer.Typer(
        name="iepile",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Schema-based information extraction: name what you want, point at text, get exactly "
        "that, as valid JSON that says where in the text each item stands.",
    )
    made.callback()(_options)
    for name in names:
        module, function = COMMANDS[name]
        held = import_module(f"iepile_cli.cli.{module}")
        made.command(name, epilog=held.EXAMPLES)(getattr(held, function))
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
    if named not in COMMANDS or os.environ.get("IEPILE_CONFIG") or settings.config_path().is_file():
        return _whole_app()
    return _app([named])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, or 1 failure, 2 usage, 3 partly failed, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    _open_closed_streams()
    try:
        code = _call(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except IEPileError as error:
        console.complain(error.message, error.hint)
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
        console.complain(f"{named}{error.strerror or error}")
        return 1
    except Exception as error:
        # Typer's own usage errors; their class depends on Typer's version.
        if not hasattr(error, "format_message"):
            raise
        return _wrong_usage(error)
    # Newer versions of Typer make an exit code of Ctrl-C; older ones raise.
    if code == INTERRUPTED:
        console.complain("interrupted")
    return code


def _call(words: list[str]) -> int:
    shell = os.environ.get(completion.VARIABLE)
    if shell:
        given = os.environ.get(completion.WORDS)
        completion.answer(_whole_app(), shell, words if given is None else given.split("\n"))
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
        console.complain(message.rstrip("."), f"see {command} --help")
    return int(getattr(error, "exit_code", 2))


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
