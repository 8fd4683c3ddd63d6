"""``iepile download``: models, adapters and corpora from the hubs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iepile_cli.cli import complete, console, options
from iepile_cli.cli.fetching import fetch
from iepile_cli.errors import DownloadError, IEPileError, PartialFailure, UsageError
from iepile_cli.fields import option
from iepile_cli.formatting import one_line, plural, readable_size

if TYPE_CHECKING:
    from iepile_cli.hub import Plan


EXAMPLES = """
Examples:

\b
  iepile download oneke
  iepile download llama3-8b-iepile-lora llama3-8b-instruct --token-env HF_TOKEN
  iepile download Qwen/Qwen2.5-7B-Instruct-GGUF --include '*q4_k_m*.gguf'
  iepile download iepile --source https://hf-mirror.com
  iepile download --remove oneke
"""


@dataclass(frozen=True)
class DownloadOptions:
    """Where downloads come from, which files are taken, and where they go."""

    source: str = option(
        "",
        metavar="hf|modelscope|URL",
        help="Where from: Hugging Face, ModelScope, or the address of a mirror of the former. "
        "By default Hugging Face (HF_ENDPOINT is respected).",
    )
    revision: str = option("", help="A branch, tag or commit, instead of the newest.")
    include: tuple[str, ...] = option(
        (),
        metavar="PATTERN",
        help="Take the files that match, and no others, whatever they are. May be repeated.",
    )
    directory: Path | None = option(
        None,
        flags=("--dir",),
        metavar="DIR",
        help="Put NAME into this folder, not among the models.",
    )
    token_env: str = option(
        "",
        metavar="VAR",
        help="The environment variable that holds the hub's token. By default the token of "
        "HF_TOKEN or of a login with the hub's own tool.",
    )
    dry_run: bool = option(
        False, help="Only list the files and their sizes in bytes; fetch and remove nothing."
    )
    remove: bool = option(False, help="Delete what was downloaded under these names.")


@options.command()
def download(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Names of the catalogue, or hub ids: owner/name, datasets/owner/name.",
            autocompletion=complete.BY_KIND["download"],
        ),
    ],
    chosen: DownloadOptions,
) -> None:
    """Download models, adapters and corpora; go on where an earlier download stopped.

    Only weights that cannot run code, settings, tokenizers and JSON are taken, unless --include
    says otherwise. Each file is checked against the size and hash that the hub gives.
    """
    from iepile_cli.hub import plan_download

    variable = chosen.token_env
    token = os.environ.get(variable) if variable else None
    if variable and not token:
        raise UsageError(f"--token-env: the environment variable {variable} is not set")
    failures: list[IEPileError] = []
    for name in names:
        try:
            if chosen.remove:
                _remove(name, chosen.directory, chosen.dry_run)
                continue
            plan = plan_download(
                name,
                source=chosen.source,
                revision=chosen.revision,
                include=chosen.include,
                directory=chosen.directory,
                token=token,
            )
            _list_files(plan) if chosen.dry_run else fetch(plan)
        except IEPileError as error:
            if len(names) == 1:
                raise
            console.print_error(f"{name}: {error.message}", error.hint)
            failures.append(error)
    if failures:
        raise _outcome(failures, len(names))


def _outcome(failures: list[IEPileError], tried: int) -> IEPileError:
    if len(failures) < tried:
        return PartialFailure(f"{len(failures)} of {tried} failed; the others are done")
    wrong_usage = all(isinstance(error, UsageError) for error in failures)
    return (UsageError if wrong_usage else DownloadError)(f"none of {tried} could be done")


def _list_files(plan: Plan) -> None:
    for remark in plan.remarks:
        console.note(remark)
    if plan.listing is None:
        return
    for file in plan.files:
        _list_file(file.size, file.path)
    files = plural(len(plan.files), "file")
    console.note(f"{files}, {readable_size(plan.size)}, to {plan.folder}")


def _list_file(size: int | None, path: str) -> None:
    console.put(f"{'' if size is None else size}\t{one_line(path)}\n")


def _remove(name: str, directory: Path | None, dry_run: bool) -> None:
    from iepile_cli.hub import removable, remove

    if not dry_run:
        console.note(f"{name}: removed, {readable_size(remove(name, directory))} freed")
        return
    folder, files = removable(name, directory)
    sizes = [path.stat().st_size for path in files]
    for size, path in zip(sizes, files, strict=True):
        _list_file(size, path.relative_to(folder).as_posix())
    console.note(f"{plural(len(files), 'file')}, {readable_size(sum(sizes))}, would go: {folder}")
