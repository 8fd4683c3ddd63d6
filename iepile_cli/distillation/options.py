"""What a distillation can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from iepile_cli.errors import UsageError
from iepile_cli.fields import check_fields, option

Step: TypeAlias = Literal["teach", "select", "convert", "train", "evaluate", "export"]
STEPS: tuple[Step, ...] = get_args(Step)
_SELECTION, _STUDENT = "Selection", "Student"


@dataclass(frozen=True)
class DistillOptions:
    """Which answers of the teacher are trained on, by which student, and how it is measured.

    ``certainty`` is the score (0..1) that every item of a text must have for the text to be
    trained on; ``held_out`` the share of the texts that are held out, drawn by their content.
    Raises ``UsageError`` for values that cannot be.
    """

    output: str = option("", flags=("-o",), help="Folder for the student and intermediate files.")
    teacher: str | None = option(
        None,
        help="The model that answers: a name, a path, or its name at --base-url. Default: the "
        "embedded model.",
        completes="model",
    )
    teacher_adapter: tuple[str, ...] = option(
        (), help="An adapter of the teacher; may be repeated.", completes="adapter"
    )
    certainty: float = option(
        0.5,
        group=_SELECTION,
        least=0,
        most=1,
        help="Learn only from texts whose items all score at least this much. Answers without "
        "scores count as certain.",
    )
    held_out: float = option(
        0.1, group=_SELECTION, least=0, help="Share of the texts held out to compare both on."
    )
    gold: str | None = option(
        None,
        group=_SELECTION,
        help="Annotated data, in any form that convert reads, to score both on instead.",
    )
    neg_ratio: float = option(
        1.0, group=_SELECTION, help="Chance for each absent type to be asked, as in iepile convert."
    )
    student: str = option(
        "",
        group=_STUDENT,
        help="The model to train. Default: the embedded model, starting from its adapter.",
        completes="model",
    )
    student_adapter: str = option(
        "", group=_STUDENT, help="The adapter to start from; none: a new one.", completes="adapter"
    )
    recipe: str = option("", group=_STUDENT, help="A recipe of iepile train.", completes="recipe")
    train_config: str = option(
        "", group=_STUDENT, help="Options of iepile train, as a TOML file; before --recipe."
    )
    epochs: float = option(
        0.0, group=_STUDENT, least=0, help="Epochs of training; 0: the default of iepile train."
    )
    max_steps: int = option(0, group=_STUDENT, least=0, help="Stop training after so many steps.")
    export: Literal["gguf", "gguf-adapter", "merged", "ollama", "none"] = option(
        "gguf", group=_STUDENT, help="Format of the exported student."
    )
    quantise: str = option("q8_0", group=_STUDENT, help="Type of the weights of a GGUF student.")
    seed: int = option(42, group=_SELECTION, least=0, help="Random seed.")
    until: Step = option("export", help="Stop after this step; a later run continues.")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.output:
            raise UsageError("no folder for the student", hint="name one with -o")
        if not self.held_out < 1:
            raise UsageError(f"--held-out {self.held_out:g} is not a share", hint="below 1")
        if not self.held_out and self.gold is None:
            raise UsageError(
                "nothing to compare teacher and student on", hint="--held-out 0.1, or --gold FILE"
            )

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of this run."""
        wanted = STEPS[: STEPS.index(self.until) + 1]
        return tuple(one for one in wanted if one != "export" or self.export != "none")
