"""Commands for Typer: help in groups, and values converted without loading pydantic."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup

from iepile_cli.cli import console
from iepile_cli.formatting import wrap

# The last group of help: what every command has.
GENERAL = "General"

_METAVARS: dict[Any, str] = {str: "TEXT", int: "N", float: "X", Path: "FILE"}
# Limits of numbers that go without saying.
_IDLE_LIMIT = re.compile(r"(; x>=0|  \[x>=0\]|x>=0; )")


class Command(TyperCommand):
    """A subcommand whose help shows its options in groups, in plain text."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for parameter in self.params:
            if parameter.param_type_name == "option" and parameter.metavar is None:
                descriptor = parameter.type_descriptor  # type: ignore[attr-defined]
                kind: Any = descriptor.annotation
                parameter.metavar = _METAVARS.get(get_args(kind)[0] if get_args(kind) else kind)
                if descriptor.choices:
                    values = (str(getattr(one, "value", one)) for one in descriptor.choices)
                    parameter.metavar = f"<{'|'.join(values)}>"

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options that most people need, then each group."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        first = list(getattr(self.callback, "first", ()))
        options = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            names, text = _without_idle_negation(parameter, record)
            record = (names, _IDLE_LIMIT.sub("", text))
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((record[0].partition(" <")[0], record[1]))
            else:
                options[parameter.name] = (parameter, record)
        sections["Options"] += [options.pop(name)[1] for name in first if name in options]
        for parameter, record in options.values():
            default = GENERAL if parameter.name == "help" else "Options"
            group = getattr(parameter, "rich_help_panel", None) or default
            sections.setdefault(group, []).append(record)
        general = sections.pop(GENERAL, [])
        for title, records in (*sections.items(), (GENERAL, general)):
            if records:
                with formatter.section(title):
                    _write_list(formatter, records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with the values converted here."""
        _convert_here(self, ctx)
        return super().parse_args(ctx, args)


def help_settings() -> dict[str, Any]:
    """How help is shown: by -h too, as wide as the terminal, but 20 to 100 columns."""
    width = min(max(console.width() - 1, 20), 100)
    return {"help_option_names": ["-h", "--help"], "terminal_width": width}


def _write_list(formatter: Any, records: Iterable[tuple[str, str]]) -> None:
    """Write names and what they mean in two columns, with words kept whole."""
    column = 28 if formatter.width >= 72 else 22 if formatter.width >= 50 else 8
    for name, text in records:
        lines = wrap(text, formatter.width - column)
        if len(name) > column - 4:
            formatter.write("".join(f"  {line}\n" for line in _fitted(name, formatter.width)))
        elif lines:
            formatter.write(f"  {name:{column - 2}}{lines.pop(0)}\n")
        for line in lines:
            formatter.write(f"{'':{column}}{line}\n")


def _fitted(name: str, width: int) -> list[str]:
    """An option and its values in lines that fit, cut after the bars between the values."""
    lines = [""]
    for piece in re.split(r"(?<=[| ])", name):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width - 2:
            lines.append("    ")
        lines[-1] += piece
    return lines


class Group(TyperGroup):
    """The program itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with the values converted here."""
        _convert_here(self, ctx)
        return super().parse_args(ctx, args)


def _without_idle_negation(parameter: Any, record: tuple[str, str]) -> tuple[str, str]:
    """A flag that is off by default is shown without the form that switches it off."""
    if getattr(parameter, "secondary_opts", ()) and not parameter.default:
        return record[0].partition(" / --no-")[0].rstrip("; "), record[1]
    return record


# ------------------------------------------------------------------------- values of parameters


def _convert_here(command: Any, context: Any) -> None:
    for parameter in command.get_params(context):
        if context.resilient_parsing:
            # Completion wants no value converted.
            parameter.process_value = lambda context, value: value
        else:
            parameter._runtime_param = _Values(parameter.type_descriptor)


# What C libraries, and Python's own counts, hold.
_INTEGERS = 1 << 63


class _Values:
    """Converts a parameter's values: good ones here, and Typer refuses all others.

    Typer converts with pydantic; loading it takes as long as all else before a command begins.
    """

    def __init__(self, descriptor: Any) -> None:
        self.descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the parameter's annotation has it; raises what Typer raises."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        converted = _converted(value, self.descriptor.annotation, self.descriptor.parameter_info)
        given = value if isinstance(value, (list, tuple)) else [value]
        if any("\0" in str(one) for one in given):
            # A shell can pass none, a configuration file can.
            raise BadParameter("holds a NUL character", ctx=ctx, param=param)
        if isinstance(converted, int) and abs(converted) >= _INTEGERS:
            raise BadParameter("is too large a number", ctx=ctx, param=param)
        if converted is not None:
            return converted
        from typer._coercion import build_runtime_param

        return build_runtime_param(self.descriptor).coerce(value, param=param, ctx=ctx)


def _converted(value: Any, kind: Any, about: Any) -> Any:
    """A value of the annotated kind; None for what is not good, or not known here."""
    if get_origin(kind) is list:
        if not isinstance(value, (list, tuple)):
            return None
        items = [_converted(one, get_args(kind)[0], about) for one in value]
        return None if None in items else items
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is Path:
        readable = isinstance(value, (str, Path)) and (
            os.access(value, os.R_OK) or not os.path.lexists(value)
        )
        return Path(value) if readable else None
    if kind in (int, float):
        return _number(value, kind, about.min, about.max)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return value if isinstance(value, kind) else kind._value2member_map_.get(value)
    return None


def _number(value: Any, kind: Any, least: float | None, most: float | None) -> Any:
    try:
        number = kind(value) if isinstance(value, (str, int, kind)) else None
    except ValueError:
        return None
    # Not "number < least": NaN is neither below nor above.
    if number is None or (least is not None and not number >= least):
        return None
    return number if most is None or number <= most else None
