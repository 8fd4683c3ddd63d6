"""Options made from a dataclass: types, choices, limits, help, configuration, completion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from iepile_cli.cli import commands, console, options
from iepile_cli.cli.app import run
from iepile_cli.cli.completion import completions
from iepile_cli.errors import UsageError
from iepile_cli.fields import check_fields, option, option_fields


@dataclass(frozen=True)
class Baking:
    """What a test's command is told."""

    flour: str = option("", help="Which flour.", flags=("-f",))
    heat: Literal["low", "high"] = option("low", help="How hot.", group="Oven")
    trays: Literal[1, 2, 4] = option(1, help="How many trays.", group="Oven")
    minutes: int = option(20, help="How long.", group="Oven", least=1, most=90)
    share: float | None = option(None, help="Of the dough.", least=0, most=1)
    fan: bool = option(True, help="Fan on.", group="Oven")
    glaze: bool = option(False, help="Glaze it.")
    on: tuple[Literal["seeds", "salt"], ...] = option((), help="Toppings.", flags=("--with",))
    notes: tuple[str, ...] = option((), help="Notes.")
    book: Path | None = option(None, help="Recipe book.")
    inside: int = 7


@pytest.fixture
def bake() -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """A program with one command, and what the command was called with."""
    seen: list[tuple[Any, ...]] = []

    @options.command(first=("flour", "place"))
    def command(
        context: typer.Context,
        baking: Baking,
        place: Annotated[str, typer.Option(help="Where.", rich_help_panel="Oven")] = "home",
    ) -> None:
        """Bake."""
        seen.append((baking, place, options.given_values(context, Baking)))

    app = typer.Typer(
        cls=commands.Group, rich_markup_mode=None, add_completion=False, name="iepile"
    )
    app.callback()(lambda: None)
    app.command("bake", cls=commands.Command)(command)
    return app, seen


def test_defaults_are_those_of_the_dataclass(bake: Any) -> None:
    app, seen = bake
    app(["bake"], standalone_mode=False)
    assert seen == [(Baking(), "home", ({}, {}))]


def test_values_have_the_types_of_the_fields(bake: Any) -> None:
    app, seen = bake
    words = "-f rye --heat high --trays 4 --minutes 30 --share 0.5 --no-fan --glaze --with salt"
    words += " --with seeds --notes a --notes b --book b.txt --place out"
    app(["bake", *words.split()], standalone_mode=False)
    expected = Baking(
        "rye", "high", 4, 30, 0.5, False, True, ("salt", "seeds"), ("a", "b"), Path("b.txt")
    )
    assert seen[0][:2] == (expected, "out")
    by_hand = seen[0][2][1]
    assert by_hand == {
        key: value for key, value in vars(expected).items() if key not in ("inside",)
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--heat warm", "--heat"),
        ("--trays 3", "--trays"),
        ("--with sugar", "--with"),
        ("--minutes 0", "--minutes"),
        ("--minutes 91", "--minutes"),
        ("--share 2", "--share"),
        ("--inside 3", "--inside"),
    ],
)
def test_other_values_are_refused(bake: Any, words: str, named: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        bake[0](["bake", *words.split()], standalone_mode=False)
    assert named in caught.value.format_message()


def test_the_same_limits_hold_in_python() -> None:
    check_fields(Baking(heat="high", on=("salt",), share=0.5))
    for wrong, said in (
        ({"heat": "warm"}, "--heat warm is not known"),
        ({"trays": True}, "--trays True"),
        ({"minutes": 0}, "--minutes 0 is too low"),
        ({"share": 1.5}, "--share 1.5 is too high"),
        ({"on": ("salt", "sugar")}, "--with sugar is not known"),
    ):
        with pytest.raises(UsageError, match=said):
            check_fields(Baking(**wrong))  # type: ignore[arg-type]


def test_help_is_in_groups_with_what_most_need_first(
    bake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bake[0](["bake", "--help"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert [head for head in heads if head.endswith(":")] == ["Options:", "Oven:", "General:"]
    at = {line.split()[0]: number for number, line in enumerate(lines) if line.startswith("  -")}
    assert lines.index("Options:") + 1 == at["-f,"]
    assert at["-f,"] + 1 == at["--place"]
    assert lines.index("Oven:") + 1 == at["--heat"]
    text = " ".join(" ".join(lines).split())
    assert "--heat <low|high> How hot. [default: low]" in text
    assert "--fan / --no-fan" in text
    assert "--no-glaze" not in text
    assert "--minutes N How long. [default: 20; 1<=x<=90]" in text
    assert "<str>" not in text


def test_closed_sets_are_completed(bake: Any) -> None:
    def names(*words: str) -> list[str]:
        return [name for name, _ in completions(bake[0], ["bake", *words])]

    assert names("--heat", "") == ["low", "high"]
    assert names("--trays", "") == ["1", "2", "4"]
    assert names("--with", "s") == ["seeds", "salt"]
    assert names("--heat=h") == ["--heat=high"]


def test_only_fields_with_an_option_are_options() -> None:
    assert [item.flag for item in option_fields(Baking)][-3:] == ["--with", "--notes", "--book"]


@pytest.fixture
def _as_before() -> Any:
    before = vars(console.verbosity).copy()
    yield
    vars(console.verbosity).update(before)


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(
    ("text", "environment", "words", "quiet"),
    [
        ('quiet = "false"', "", [], False),
        ('quiet = "true"', "", [], True),
        ("quiet = 0", "", [], False),
        ('quiet = "no"', "", [], False),
        ("quiet = true", "false", [], False),
        ("quiet = false", "true", [], True),
        ("[list]\nquiet = true", "", [], True),
        ("quiet = true\n[list]\nquiet = false", "", [], False),
        ("[list]\nquiet = true", "0", [], False),
        ("quiet = false", "0", ["-q"], True),
    ],
)
def test_quiet_is_what_the_nearest_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    environment: str,
    words: list[str],
    quiet: bool,
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    monkeypatch.setenv("IEPILE_CONFIG", str(path))
    monkeypatch.setenv("IEPILE_QUIET", environment)
    for line in ([*words, "list", "templates"], ["list", "templates", *words]):
        assert run(line) == 0
        assert console.verbosity.quiet is quiet


@pytest.mark.usefixtures("_as_before")
def test_quiet_that_is_neither_true_nor_false_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('quiet = "perhaps"')
    monkeypatch.setenv("IEPILE_CONFIG", str(path))
    assert run(["list", "templates"]) == 2
    assert "quiet is 'perhaps' (write true or false)" in capsys.readouterr().err


@pytest.mark.usefixtures("_as_before")
def test_a_refused_value_that_nobody_typed_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[convert]\nseed = "many"')
    monkeypatch.setenv("IEPILE_CONFIG", str(path))
    assert run(["convert", "a.json"]) == 2
    assert f"iepile: {path}: Invalid value for '--seed'" in capsys.readouterr().err
    assert run(["convert", "a.json", "--seed", "few"]) == 2
    assert "iepile: Invalid value for '--seed'" in capsys.readouterr().err
    monkeypatch.setenv("IEPILE_QUIET", "perhaps")
    assert run(["list", "templates"]) == 2
    assert "iepile: IEPILE_QUIET: Invalid value for '--quiet'" in capsys.readouterr().err


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("words", [["-v", "list", "templates"], ["list", "templates", "-v"]])
def test_verbose_stands_before_or_after_the_subcommand(words: list[str]) -> None:
    assert run(words) == 0
    assert console.verbosity.verbose
    assert run(["list", "templates"]) == 0
    assert not console.verbosity.verbose


@pytest.mark.parametrize(
    ("command", "shown", "not_shown"),
    [
        ("view", "--open ", "--no-open"),
        ("convert", "--resume ", "no-resume"),
        ("convert", "--replicas", "--parquet"),
        ("distill", "--lines", "--shard"),
        ("list", "templates, backends, models or recipes", "What to list"),
    ],
)
def test_help_shows_only_what_applies(
    command: str, shown: str, not_shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run([command, "--help"])
    listed = capsys.readouterr().out
    assert shown in listed
    assert not_shown not in listed
