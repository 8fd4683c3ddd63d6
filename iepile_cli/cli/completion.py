"""The answer to a shell when the user presses Tab.

The scripts of ``completion_scripts`` call the program with the words of the command line; Typer's
completion finds what fits. Typer's own scripts cut words wrongly and load rich, which alone takes
half the time that a key press leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
    from typer._click.shell_completion import ShellComplete

    class Finder(ShellComplete):
        name = "iepile"
        source_template = ""

        def source_vars(self) -> dict[str, str]:
            return {}

        def get_completion_args(self) -> tuple[list[str], str]:
            return [], ""

        def format_completion(self, item: object) -> str:
            return ""

    *before, current = words or [""]
    if splits_at_equals:
        before = [word for word in before if word != "="]
        current = "" if current == "=" else current
    found = Finder(typer.main.get_command(app), {}, "iepile", VARIABLE)
    items = found.get_completions(before, current)
    name, equals, _ = current.partition("=")
    prefix = f"{name}=" if equals and name.startswith("-") else ""
    return [
        (prefix + item.value, _first_sentence(item.help or ""))
        for item in items
        if item.type == "plain"
    ]


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")
