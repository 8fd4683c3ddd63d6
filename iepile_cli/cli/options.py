"""Options of subcommands, made from dataclasses.

A subcommand's function takes a dataclass as it takes any other parameter; ``@command`` gives the
subcommand an option for each of its fields and the function the dataclass filled in::

    @command(first=("model", "output"))
    def train(training: TrainOptions, dry_run: Annotated[bool, typer.Option()] = False): ...
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from iepile_cli.cli import complete, console
from iepile_cli.cli.commands import GENERAL
from iepile_cli.fields import Field, option, option_fields

# No option has this name; `context` is one.
_CONTEXT = "typer_context"

# ------------------------------------------------------------------ from dataclasses to options


def command(
    *, first: Sequence[str] = (), without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a subcommand's: its dataclass parameters become options, -q and -v too.

    ``first`` names the parameters that help shows before all groups, ``without`` the fields of its
    dataclasses that are no options of this subcommand.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        groups: dict[str, Any] = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if dataclasses.is_dataclass(parameter.annotation)
        }
        wanting = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.annotation is typer.Context
        ]
        parameters = _expanded(signature, groups, without)

        @functools.wraps(function)
        def call(**values: Any) -> None:
            context = values.pop(_CONTEXT)
            set_verbosity(context, {name: values.pop(name) for name in ("quiet", "verbose")})
            built = {name: _build(of, values) for name, of in groups.items()}
            own = {name: values[name] for name in signature.parameters if name in values}
            function(**own, **built, **dict.fromkeys(wanting, context))

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {item.name: item.annotation for item in parameters}
        call.first = tuple(first)  # type: ignore[attr-defined]
        return call

    return decorate


def _expanded(
    signature: inspect.Signature, groups: Mapping[str, Any], without: Sequence[str]
) -> list[inspect.Parameter]:
    """The parameters of a command: its own, one for each field, and those that all have."""
    made: dict[str, inspect.Parameter] = {}
    for name, parameter in signature.parameters.items():
        if name in groups:
            for item in option_fields(groups[name]):
                if item.name not in without:
                    made.setdefault(item.name, _parameter(item))
        elif parameter.annotation is not typer.Context:
            made[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    by_name = inspect.Parameter.KEYWORD_ONLY
    for name, annotation in (("quiet", Quiet), ("verbose", Verbose)):
        made[name] = inspect.Parameter(name, by_name, annotation=annotation, default=False)
    return [*made.values(), inspect.Parameter(_CONTEXT, by_name, annotation=typer.Context)]


def _parameter(item: Field) -> inspect.Parameter:
    about, kind = item.option, _kind(item)
    flags = item.flags
    if kind is bool:
        flags = (f"{flags[0]}/--no-{flags[0][2:]}", *flags[1:])
    empty = item.default is None or item.default == () or item.default == ""
    default = None if empty else list(item.default) if item.many else item.default
    shown = about.show_default
    if shown is None:
        shown = bool(item.default) and item.default is not dataclasses.MISSING
    made = typer.Option(
        *flags,
        help=about.help,
        envvar=about.env,
        min=about.least,
        max=about.most,
        metavar=about.metavar,
        hidden=about.hidden,
        show_default=shown,
        rich_help_panel=about.group or None,
        autocompletion=complete.BY_KIND.get(about.completes),
    )
    required = item.default is dataclasses.MISSING
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[list[kind] | None if item.many else kind | None, made],  # type: ignore[valid-type]
    )


def _kind(item: Field) -> Any:
    if item.choices and item.many:
        # Typer takes no list of literals.
        return enum.Enum("Choice", {str(one): one for one in item.choices}, type=str)
    return Literal[item.choices] if item.choices else item.kind


def _build(of: type, values: Mapping[str, Any]) -> Any:
    """A dataclass from the values of a command; what is empty keeps the field's default."""
    given = {}
    for item in option_fields(of):
        value = values.get(item.name)
        if isinstance(value, list):
            value = tuple(one.value if isinstance(one, enum.Enum) else one for one in value)
        if value is not None:
            given[item.name] = value
    return of(**given)


def given_values(context: typer.Context, of: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a dataclass that were given: by the configuration file, and otherwise.

    Otherwise is by the command line or the environment.
    """
    by_file: dict[str, Any] = {}
    by_hand: dict[str, Any] = {}
    built = _build(of, context.params)
    for item in option_fields(of):
        source = context.get_parameter_source(item.name)
        if source is not None and source.name != "DEFAULT":
            given = by_file if source.name == "DEFAULT_MAP" else by_hand
            given[item.name] = getattr(built, item.name)
    return by_file, by_hand


# ----------------------------------------------------------------------- -q and -v, on each level

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        envvar="IEPILE_QUIET",
        show_envvar=False,
        rich_help_panel=GENERAL,
        help="Show only errors.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        envvar="IEPILE_VERBOSE",
        show_envvar=False,
        rich_help_panel=GENERAL,
        help="Show details.",
    ),
]


def set_verbosity(context: typer.Context, given: Mapping[str, bool]) -> None:
    """Set quiet and verbose; the command line decides wherever it says so, before or after."""
    for name, value in given.items():
        before = context.parent.get_parameter_source(name) if context.parent else None
        source = context.get_parameter_source(name)
        by_hand = before is not None and before.name == "COMMANDLINE"
        if (source is not None and source.name == "COMMANDLINE") or not by_hand:
            setattr(console.verbosity, name, value)


# ------------------------------------------------------------- options that commands share


@dataclass(frozen=True)
class SchemaOptions:
    """What is extracted."""

    schema: tuple[str, ...] = option(
        (),
        flags=("-s",),
        help="What to extract: an expression, or a JSON or YAML file; may be repeated.",
    )
    task: str | None = option(
        None,
        flags=("-t",),
        completes="task",
        help="NER, RE, SPO, EE, EET, EEA or KG. Default: by the schema's form.",
    )


@dataclass(frozen=True)
class ModelOptions:
    """Which model is used, with which adapters."""

    model: str | None = option(
        None,
        group="Model",
        flags=("-m",),
        env="IEPILE_MODEL",
        completes="model",
        help="A name from `iepile list models`, a path or a hub id. Default: the embedded model.",
    )
    adapter: tuple[str, ...] = option(
        (),
        group="Model",
        flags=("-a",),
        completes="adapter",
        help="An adapter to apply to the model; may be repeated.",
    )


@dataclass(frozen=True)
class BackendOptions:
    """What runs the model, and with which prompts."""

    backend: str | None = option(
        None,
        group="Model",
        flags=("-b",),
        env="IEPILE_BACKEND",
        completes="backend",
        help="What runs the model: see `iepile list backends`. Default: what fits the model.",
    )
    template: str | None = option(
        None,
        group="Model",
        env="IEPILE_TEMPLATE",
        completes="template",
        help="The chat template: see `iepile list templates`. Default: what fits the model.",
    )
