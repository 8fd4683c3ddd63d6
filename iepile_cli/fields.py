"""What a field of an options dataclass tells the command line, and the check of its values.

A default, its help text and the values it may have are written once, in the dataclass that uses
them::

    @dataclass(frozen=True)
    class TrainOptions:
        scheduler: Literal["cosine", "linear"] = option("cosine", help="Learning-rate schedule.")
        lora_r: int = option(16, help="Rank of a new adapter.", group="LoRA", least=1)

``cli/options.py`` makes the options of a subcommand from the fields; ``check_fields`` holds a
caller of the Python API to the same limits.
"""

from __future__ import annotations

import dataclasses
import functools
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from iepile_cli.errors import UsageError

_KEY = "option"


@dataclasses.dataclass(frozen=True)
class Option:
    """How a field is an option of the command line.

    ``flags`` are short names beside ``--field-name``; with a long one among them they are all of
    its names. ``least`` and ``most`` limit numbers. ``completes`` names what completion offers:
    ``model``, ``adapter``, ``backend``, ``template``, ``task``, ``recipe`` or ``data``; the values
    of a ``Literal`` are offered anyway. ``show_default`` None shows a default that is not empty;
    a text stands for it.
    """

    help: str
    group: str = ""
    flags: tuple[str, ...] = ()
    env: str | None = None
    least: float | None = None
    most: float | None = None
    metavar: str | None = None
    completes: str = ""
    show_default: bool | str | None = None
    hidden: bool = False


def option(default: Any = dataclasses.MISSING, **about: Any) -> Any:
    """A dataclass field that is also an option; ``about`` as for ``Option``."""
    return dataclasses.field(default=default, metadata={_KEY: Option(**about)})


@dataclasses.dataclass(frozen=True)
class Field:
    """A field with its option and its type.

    ``kind`` is the type of one value, without ``None`` and without the tuple around it; ``many``
    says that the field is a tuple of them. ``choices`` are the values of a ``Literal``; ``flags``
    are all names on the command line, the long one first.
    """

    name: str
    option: Option
    default: Any
    kind: Any
    many: bool
    choices: tuple[Any, ...]
    flags: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The name under which messages speak of it."""
        return next(flag for flag in self.flags if flag.startswith("--"))


@functools.cache
def option_fields(of: Any) -> tuple[Field, ...]:
    """The fields of a dataclass that are options, in their order."""
    types = get_type_hints(of)
    found = []
    for item in dataclasses.fields(of):
        about = item.metadata.get(_KEY)
        if about is None:
            continue
        kind = _without_none(types[item.name])
        many = get_origin(kind) is tuple
        kind = get_args(kind)[0] if many else kind
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        long = any(flag.startswith("--") for flag in about.flags)
        flags = about.flags if long else ("--" + item.name.replace("_", "-"), *about.flags)
        found.append(Field(item.name, about, item.default, kind, many, choices, flags))
    return tuple(found)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    (only,) = (part for part in get_args(kind) if part is not NoneType)
    return only


def check_fields(options: Any) -> None:
    """Raise ``UsageError`` for a value of a dataclass that its field does not allow."""
    for item in option_fields(options.__class__):
        value = getattr(options, item.name)
        values = value if item.many else () if value is None else (value,)
        for one in values:
            _check(item, one)


def _check(item: Field, value: Any) -> None:
    # `in` alone would take True for 1.
    if item.choices and not any(value == one and type(value) is type(one) for one in item.choices):
        raise UsageError(
            f"{item.flag} {value} is not known",
            hint=f"one of {', '.join(map(str, item.choices))}",
        )
    least, most = item.option.least, item.option.most
    if least is not None and not value >= least:
        raise UsageError(f"{item.flag} {value} is too low", hint=f"at least {least:g}")
    if most is not None and not value <= most:
        raise UsageError(f"{item.flag} {value} is too high", hint=f"at most {most:g}")
