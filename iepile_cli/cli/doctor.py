"""``iepile doctor``: what works here, and the line that installs what does not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iepile_cli import __version__
from iepile_cli.cli import console, options
from iepile_cli.errors import IEPileError
from iepile_cli.fields import option
from iepile_cli.formatting import Styled, plural, readable_size

if TYPE_CHECKING:
    from iepile_cli.backends.memory import Gpu

EXAMPLES = """
Exit code 0 when `iepile extract` works with the embedded model, 1 when it does not. When piped,
each line holds a check, yes, no or -, what was found, and what to do, separated by tabs.

Examples:

\b
  iepile doctor
  iepile doctor --json
"""
# Without these, `extract` does not work.
_NEEDED = ("llama.cpp", "embedded model")
_SHOWN_MODELS = 8


@dataclass(frozen=True)
class Check:
    """One check: ``ok`` is None for what need not be there; ``install`` has a line for each way.

    ``way_out`` says what else can be done.
    """

    name: str
    ok: bool | None
    found: str
    way_out: str = ""
    install: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DoctorOptions:
    """How what was found is shown."""

    as_json: bool = option(False, flags=("--json",), help="Write a JSON object.")


@options.command()
def doctor(how: DoctorOptions) -> None:
    """Check what works here: backends, extras, memory, models, folders, and what to install."""
    found = list(checks())
    works = all(check.ok for check in found if check.name in _NEEDED)
    if how.as_json:
        records = [asdict(check) for check in found]
        typer.echo(json.dumps({"extract": works, "checks": records}, ensure_ascii=False, indent=2))
    else:
        _show(found, works)
    raise typer.Exit(0 if works else 1)


def checks() -> Iterator[Check]:
    """Every check in its order; none loads torch, and none raises."""
    for name, check in _CHECKS:
        try:
            made = check()
            yield from [made] if isinstance(made, Check) else made
        # What is looked at is foreign, and broken installations are what this is for.
        except Exception as error:
            said = error.message if isinstance(error, IEPileError) else repr(error)
            hint = error.hint if isinstance(error, IEPileError) else ""
            yield Check(name, False, said, hint)


# ------------------------------------------------------------------------------------ the checks


def _program() -> Check:
    import platform

    from iepile_cli.installation import installed_with

    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    where = f"{installed_with()}, {sys.prefix}"
    return Check("iepile", True, f"{__version__}; {python}; {where}")


def _llamacpp() -> Check:
    from iepile_cli.backends.llamacpp import LLAMA_CPP

    probe = LLAMA_CPP.probe()
    if not probe.ok:
        return Check("llama.cpp", False, *probe.reason.partition(": ")[::2])
    gpu, _, way_out = LLAMA_CPP.describe()["gpu"].partition(", ")
    version = probe.details["llama-cpp-python"]
    device = "uses a GPU" if gpu == "yes" else "computes on the CPU"
    # Of a build for the CPU there is something to say only where there is a GPU.
    return Check("llama.cpp", True, f"{version}, {device}", way_out if _gpus() else "")


def _embedded() -> Check:
    from iepile_cli.backends.gguf_merging import has_merged_form, merged_file
    from iepile_cli.models import DEFAULT_MODEL, resolve_model

    found = resolve_model(DEFAULT_MODEL)
    names = " with ".join([DEFAULT_MODEL, *(path.parent.name for path in found.adapters)])
    if not has_merged_form(found):
        return Check("embedded model", True, names)
    merged = merged_file(found.path, found.adapters)
    state = f"merged in {merged.parent}" if merged.is_file() else "merged on first use"
    return Check("embedded model", True, f"{names}, {state}")


def _backends() -> Iterator[Check]:
    from iepile_cli.backends.openai import OPENAI
    from iepile_cli.backends.transformers import TRANSFORMERS
    from iepile_cli.installation import version

    for name, backend, library in (
        ("transformers", TRANSFORMERS, "torch"),
        ("openai", OPENAI, "openai"),
    ):
        probe = backend.probe()
        built = version(library) or ""
        found = f"{library} {built}" if probe.ok else probe.reason.partition(";")[0]
        way_out = ""
        if probe.ok and library == "torch" and built.endswith("+cpu") and _gpus():
            way_out = "this torch is built for the CPU: https://pytorch.org/get-started/locally"
        yield Check(name, probe.ok or None, found, way_out)


def _extras() -> Iterator[Check]:
    from iepile_cli.installation import extras, install_lines

    for extra in extras():
        there = [f"{one.name} {one.version}" for one in extra.libraries if one.version]
        if not extra.missing:
            yield Check(f"extra {extra.name}", True, ", ".join(there))
            continue
        found = f"without {', '.join(extra.missing)}"
        yield Check(f"extra {extra.name}", None, found, install=install_lines(extra.name))


def _machine() -> Iterator[Check]:
    import psutil

    from iepile_cli.backends.llamacpp import LLAMA_CPP
    from iepile_cli.backends.memory import fits_here, readable_memory
    from iepile_cli.parallel import processors
    from iepile_cli.registry import registry

    entries = {name: registry().get("model", name) for name in registry().names("model")}
    fitting = [name for name, one in entries.items() if fits_here(one.memory()) in ("yes", "GPU")]
    room = f"room for {', '.join(fitting)}" if fitting else "no room for a model of the catalogue"
    yield Check("memory", bool(fitting), f"{readable_memory()}; {room}")
    cores = psutil.cpu_count(logical=False)
    used = f"{plural(processors(), 'processor')} to use" + (f" of {cores} cores" if cores else "")
    features = LLAMA_CPP.describe()["uses"] if LLAMA_CPP.probe().ok else ""
    yield Check("processor", True, "; ".join(filter(None, (used, features))))
    shown = "; ".join(
        f"{gpu.name}, {readable_size(gpu.free)} of {readable_size(gpu.memory)} free"
        for gpu in _gpus()
    )
    yield Check("GPU", True if shown else None, shown or "no NVIDIA GPU found, not needed")


def _gpus() -> tuple[Gpu, ...]:
    from iepile_cli.backends.memory import nvidia_gpus

    return nvidia_gpus()


def _models() -> Check:
    from iepile_cli.cli.list import listed_installed
    from iepile_cli.registry import registry

    rows = [row for row in listed_installed(registry()) if row.details.get("kind") != "data"]
    names = [row.name + ("" if row.ready else " (cannot run here)") for row in rows]
    more = f" and {len(names) - _SHOWN_MODELS} more" if names[_SHOWN_MODELS:] else ""
    way_out = "iepile list models shows more" if len(names) <= 2 else ""
    return Check("models here", bool(names), ", ".join(names[:_SHOWN_MODELS]) + more, way_out)


def _folders() -> Iterator[Check]:
    from iepile_cli.config import cache_folder, config_file, models_folder

    for name, folder, variable in (
        ("cache", cache_folder(), "IEPILE_CACHE"),
        ("downloads", models_folder(), "IEPILE_MODELS"),
        ("configuration", config_file().parent, "IEPILE_CONFIG"),
    ):
        writable = _is_writable(folder)
        way_out = "" if writable else f"cannot be written: {variable} names another place"
        yield Check(f"folder of {name}", writable, str(folder), way_out)


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _configuration() -> Check:
    from iepile_cli.config import config_file, user_catalogue_file

    named = [str(path) for path in (config_file(), user_catalogue_file()) if path.is_file()]
    # One that cannot be read has ended the program before.
    return Check("configuration", True if named else None, ", ".join(named) or "none, not needed")


def _completion() -> Check:
    from iepile_cli.cli.completion_scripts import current_shell, script_path

    try:
        shell = current_shell()
        path = script_path(shell)
    except IEPileError as error:
        return Check("completion", None, error.message, error.hint)
    if path.is_file():
        return Check("completion", True, f"{shell}: {path}")
    return Check("completion", None, f"not installed for {shell}", "iepile --install-completion")


def _network() -> Check:
    return Check("network", None, "needed only by iepile download, and for servers that you name")


_CHECKS: tuple[tuple[str, Callable[[], Check | Iterator[Check]]], ...] = (
    ("iepile", _program),
    ("llama.cpp", _llamacpp),
    ("embedded model", _embedded),
    ("backends", _backends),
    ("extras", _extras),
    ("machine", _machine),
    ("models here", _models),
    ("folders", _folders),
    ("configuration", _configuration),
    ("completion", _completion),
    ("network", _network),
)

# ------------------------------------------------------------------------------------- as text


def _show(found: list[Check], works: bool) -> None:
    from iepile_cli.installation import installed_with

    states = {True: ("yes", "green"), False: ("no", "red"), None: ("-", "dim")}
    if not sys.stdout.isatty():
        way = installed_with()
        rows = [
            (check.name, states[check.ok][0], check.found, check.install.get(way, check.way_out))
            for check in found
        ]
        console.table((), rows)
        return
    shown = [
        (
            Styled(check.name, "bold"),
            Styled(*states[check.ok]),
            "\n".join(filter(None, (check.found, check.way_out))),
        )
        for check in found
    ]
    console.table(("", "", ""), shown)
    lines = ["", f"iepile extract {'works' if works else 'does not work'} here."]
    for check in found:
        if check.install:
            lines += ["", f"To install the {check.name}, one of"]
            lines += [f"  {line}" for line in check.install.values()]
    console.put("\n".join([*lines, ""]))
