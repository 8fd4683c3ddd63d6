"""The command line: arguments in, text out, no logic.

``main`` is the one place where an error becomes a line on stderr and an exit code.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from iepile_cli import __version__
from iepile_cli.cli import console, settings
from iepile_cli.cli.extract import EXAMPLES, extract
from iepile_cli.errors import IEPileError

app = typer.Typer(
    name="iepile",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Schema-based information extraction: name what you want, point at text, get exactly "
    "that, as valid JSON that says where in the text each item stands.",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"iepile {__version__}")
        raise typer.Exit


@app.callback()
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
) -> None:
    console.Voice.quiet, console.Voice.verbose = quiet, verbose
    config = settings.read_config()
    if config:
        commands: dict[str, Any] = getattr(context.command, "commands", {})
        options = {
            name: {parameter.name for parameter in command.params}
            for name, command in commands.items()
        }
        context.default_map = settings.defaults_by_command(config, options)


app.command("extract", epilog=EXAMPLES)(extract)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, or 1 failure, 2 usage, 3 partly failed, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    try:
        code = app(args=arguments, prog_name="iepile", standalone_mode=False)
        sys.stdout.flush()
    except IEPileError as error:
        console.complain(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough: end quietly, and keep the interpreter from
        # complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        console.complain("interrupted")
        return 130
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        console.complain(f"{named}{error.strerror or error}")
        return 1
    except Exception as error:
        # Typer's own usage errors; their class depends on Typer's version.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        context = getattr(error, "ctx", None)
        if message:
            command = context.command_path if context else "iepile"
            console.complain(message.rstrip("."), f"see {command} --help")
        return int(getattr(error, "exit_code", 2))
    return code if isinstance(code, int) else 0
