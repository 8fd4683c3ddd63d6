"""What a shell is answered when the user presses Tab.

The scripts of ``completion_scripts`` call the program with the words of the command line. Typer
can do this too, but then parses them with all that takes, and needs twice the time that a key
press leaves; looking the words up in the commands is enough.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer

VARIABLE = "_IEPILE_COMPLETE"
# PowerShell drops empty arguments, so it gives the words here, one a line.
WORDS = "_IEPILE_COMPLETE_WORDS"


def answer(app: typer.Typer, shell: str, words: Sequence[str]) -> None:
    """Write the completions of the last word for a shell, one a line; none leaves it to files."""
    lines = []
    for value, text in completions(app, words, splits_at_equals=shell == "bash"):
        shown = " ".join(text.split())
        lines.append(value if shell == "bash" or not shown else f"{value}\t{shown}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def completions(
    app: typer.Typer, words: Sequence[str], *, splits_at_equals: bool = False
) -> list[tuple[str, str]]:
    """Completions of the last of the words after the program's name, as (word, description).

    With ``splits_at_equals`` the shell gives ``--option=value`` as three words and wants the value
    alone, as bash does.
    """
    *before, current = words or [""]
    if splits_at_equals and before and (current == "=" or before[-1] == "="):
        option = before[-1] if current == "=" else before[-2] if len(before) > 1 else ""
        current = f"{option}={'' if current == '=' else current}"
        found = completions(app, [*before[: -1 if words[-1] == "=" else -2], current])
        return [(value.partition("=")[2], text) for value, text in found]
    line = _Line(typer.main.get_command(_only(app, before)))
    for word in before:
        line.take(word)
    return list(line.complete(current))


def _only(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """The app with no more commands than the one that is named, whose options alone are looked up.

    To read the options of all takes half the time that a key press leaves.
    """
    named = [one for one in app.registered_commands if one.name in words[:1]]
    if not named:
        return app
    alone = copy.copy(app)
    alone.registered_commands = named
    return alone


class _Line:
    """A command line that is being typed: the command it has come to, and what was given to it."""

    def __init__(self, command: Any) -> None:
        self._enter(command)

    def _enter(self, command: Any) -> None:
        self._command = command
        self._waiting: Any = None
        self._given: set[str] = set()
        self._arguments = 0
        self._only_arguments = False

    def take(self, word: str) -> None:
        """Read one whole word."""
        if self._waiting is not None:
            self._waiting = None
        elif word == "--" and not self._only_arguments:
            self._only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not self._only_arguments:
            name, equals, _ = word.partition("=")
            option = self._option(name)
            if option is not None:
                self._given.add(option.name)
                self._waiting = None if equals or _is_flag(option) else option
        elif word in self._subcommands():
            self._enter(self._subcommands()[word])
        else:
            self._arguments += 1

    def complete(self, word: str) -> Iterator[tuple[str, str]]:
        """Completions of a word that is being typed."""
        if self._waiting is not None:
            yield from self._values(self._waiting, word)
        elif word.startswith("-") and not self._only_arguments:
            name, equals, value = word.partition("=")
            option = self._option(name) if equals else None
            if option is not None:
                found = self._values(option, value)
                yield from ((f"{name}={value}", text) for value, text in found)
            elif not equals:
                yield from self._options(word)
        elif self._subcommands():
            for name, command in self._subcommands().items():
                if name.startswith(word) and not command.hidden:
                    yield name, command.get_short_help_str(80)
        else:
            places = [p for p in self._command.params if p.param_type_name == "argument"]
            if places:
                yield from self._values(places[min(self._arguments, len(places) - 1)], word)

    def _subcommands(self) -> dict[str, Any]:
        found: dict[str, Any] = getattr(self._command, "commands", {})
        return found

    def _option(self, name: str) -> Any:
        for parameter in self._command.params:
            if name in (*parameter.opts, *parameter.secondary_opts):
                return parameter
        return None

    def _options(self, word: str) -> Iterator[tuple[str, str]]:
        for option in (*self._command.params, _Help):
            if option.param_type_name != "option" or option.hidden:
                continue
            if option.name in self._given and not option.multiple:
                continue
            names = sorted((*option.opts, *option.secondary_opts), key=len, reverse=True)
            # The long name says more; short ones are for those who know them.
            for name in names if word == "-" else [n for n in names if n.startswith("--")]:
                if name.startswith(word):
                    yield name, _first_sentence(option.help or "")

    def _values(self, parameter: Any, word: str) -> Iterator[tuple[str, str]]:
        context = typer.Context(self._command)
        for item in parameter.shell_complete(context, word):
            if item.type == "plain":
                yield item.value, item.help or ""


class _Help:
    """The option that every command has; it is made only when a command line is parsed."""

    name = "help"
    param_type_name = "option"
    opts = ("--help", "-h")
    secondary_opts = ()
    hidden = multiple = False
    help = "Show this message and exit."


def _is_flag(option: Any) -> bool:
    return bool(option.is_flag or option.count)


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")
