"""Training options as TOML: configuration files, a run's own, and the published recipes.

Recipes are configuration files in the package; plugins add theirs with
``registry.add("recipe", name, Recipe(name, path))``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.config import read_toml
from iepile_cli.errors import DataError, UsageError
from iepile_cli.fields import option_fields
from iepile_cli.formatting import plural, readable_size
from iepile_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from iepile_cli.registry import Registry

_FOLDER = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Needed:
    """Bytes that a training run takes, and those that are there: on each GPU, else in the machine.

    ``in_4_bits`` is what it would take on 4-bit weights, 0 where that is not asked or no way.
    """

    bytes: int
    there: int
    gpus: int
    in_4_bits: int = 0

    @property
    def place(self) -> str:
        """What there is, for people."""
        if not self.gpus:
            return f"{readable_size(self.there)} free, no GPU"
        return f"{plural(self.gpus, 'GPU')} of {readable_size(self.there)}"

    @property
    def obstacle(self) -> str:
        """Why it cannot run here; empty if it can."""
        if self.bytes <= self.there:
            return ""
        said = f"needs about {readable_size(self.bytes)} of memory: {self.place}"
        if 0 < self.in_4_bits <= self.there:
            said += f" (with --bits 4 about {readable_size(self.in_4_bits)})"
        return said


@dataclass(frozen=True)
class Recipe:
    """A recipe's name, and the TOML file of its training options."""

    name: str
    path: Path

    @property
    def summary(self) -> str:
        """What it is for: its file's first comment."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("#").strip()

    @property
    def table(self) -> dict[str, Any]:
        """Its training options; raises ``DataError``."""
        return read_table(self.path)

    def memory(self, parameters: int) -> Needed:
        """The memory it takes with a model of so many weights, and what there is here.

        ``plan`` counts exactly, once model and data are there. Raises ``DataError``.
        """
        from iepile_cli.backends.memory import nvidia_gpus
        from iepile_cli.training.batch import rough_memory
        from iepile_cli.training.device import Device
        from iepile_cli.training.distributed import shares

        options, gpus = options_from(self.table), nvidia_gpus()
        sharded = bool(options.deepspeed or options.fsdp)
        if gpus:
            usual = "bf16" if options.dtype == "auto" else options.dtype
            device, free = Device("cuda", usual), min(gpu.memory for gpu in gpus)
        else:
            # In bf16 a CPU holds the weights, too.
            device = Device("cpu", "fp32" if options.dtype in ("auto", "fp16") else options.dtype)
            free = device.free_memory()
        held = shares(options, len(gpus) if sharded and gpus else 1)
        needed = rough_memory(parameters, options, device, held)
        in_4_bits = 0
        if options.method == "lora" and options.bits > 4 and needed > free:
            in_4_bits = rough_memory(parameters, replace(options, bits=4), device, held)
        return Needed(needed, free, len(gpus), in_4_bits)


def register(registry: Registry) -> None:
    """Register the built-in recipes."""
    for path in sorted(_FOLDER.glob("*.toml")):
        recipe = Recipe(path.stem, path)
        registry.add("recipe", recipe.name, recipe, summary=recipe.summary)


# ------------------------------------------------------------------------------------------ TOML


def read_table(path: Path) -> dict[str, Any]:
    """Read a configuration or recipe file as fields of ``TrainOptions``.

    Keys are option names, ``-`` or ``_`` alike. Raises ``DataError`` that names the file.
    """
    try:
        return typed(read_toml(path))
    except UsageError as error:
        raise DataError(error.message, path=path, hint=error.hint) from None


def typed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``TrainOptions`` from a table; raises ``UsageError`` for what is not one."""
    known = {item.name: item for item in option_fields(TrainOptions)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"no training option is called {key!r}", hint="see iepile train -h")
        item = known[name]
        kind = type(item.choices[0]) if item.choices else item.kind
        values[name] = _value(name, value, kind, many=item.many)
    return values


def _value(name: str, value: Any, kind: type, *, many: bool) -> Any:
    if many:
        given = [value] if isinstance(value, str) else value
        if isinstance(given, (list, tuple)) and all(isinstance(part, str) for part in given):
            return tuple(given)
    elif isinstance(value, bool) or kind is bool:
        if kind is bool and isinstance(value, bool):
            return value
    elif (kind is float and isinstance(value, (int, float))) or isinstance(value, kind):
        return value
    elif name in ("batch_size", "val_size") and isinstance(value, int):
        return str(value)
    raise UsageError(f"{name}: {kind.__name__} is expected, not {value!r}")


def options_from(*tables: Mapping[str, Any]) -> TrainOptions:
    """Options from tables of fields, later ones over earlier ones."""
    options = TrainOptions()
    for table in tables:
        options = replace(options, **typed(table))
    return options


def as_toml(options: TrainOptions) -> str:
    """The options as a configuration file that ``--config`` reads back."""
    lines = ["# The configuration of this run: iepile train --config train.toml -o FOLDER"]
    for name, value in asdict(options).items():
        if value is None or (isinstance(value, tuple) and not value):
            continue
        shown = list(value) if isinstance(value, tuple) else value
        # TOML's strings, numbers, booleans and lists of strings are written as in JSON.
        lines.append(f"{name} = {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
