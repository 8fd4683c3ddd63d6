"""What a conversion came to: counts, and what was wrong, with places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from iepile_cli.conversion.record_gold import KEPT, LEFT_OUT, Problem
from iepile_cli.errors import DataError
from iepile_cli.formatting import plural

# So many places of each kind of problem are named; all are counted.
EXAMPLES = 3


@dataclass
class Counts:
    """Counts of some records: how many, their rows, those skipped, and problems by kind.

    ``dev_rows`` of the rows went to the dev set, ``left_out`` records were not meant to be used.
    """

    records: int = 0
    rows: int = 0
    dev_rows: int = 0
    skipped: int = 0
    left_out: int = 0
    problem_counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=dict)

    def note(self, problem: Problem) -> None:
        """Count a problem; the first ones of its kind are kept."""
        self.problem_counts[problem.kind] += 1
        kept = self.examples.setdefault(problem.kind, [])
        if len(kept) < EXAMPLES:
            kept.append(problem)
        if problem.kind in LEFT_OUT:
            self.left_out += 1
        elif problem.kind not in KEPT:
            self.skipped += 1

    def first(self) -> Problem | None:
        """The problem that stands first in the file, of those kept as examples."""
        kept = [
            problem
            for kind, problems in self.examples.items()
            if kind not in LEFT_OUT
            for problem in problems
        ]
        return min(kept, default=None)

    def add(self, other: Counts) -> None:
        """Take in the counts of later records."""
        self.records += other.records
        self.rows += other.rows
        self.dev_rows += other.dev_rows
        self.skipped += other.skipped
        self.left_out += other.left_out
        self.problem_counts += other.problem_counts
        for kind, problems in other.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept += problems[: EXAMPLES - len(kept)]


@dataclass
class Report(Counts):
    """The counts of one file: ``name`` as users know it, and what was done with it.

    ``title`` is a shorter name within a corpus. ``empty_dropped`` rows were left out for
    ``--max-empty-ratio``; ``notes`` are other remarks; ``error`` is why the file could
    not be converted at all.
    """

    name: str = ""
    title: str = ""
    task_name: str = ""
    split: str = ""
    language: str = ""
    empty_dropped: int = 0
    notes: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def partial(self) -> bool:
        """Whether something is missing from the output."""
        return bool(self.error or self.skipped)

    def refuse(self, counts: Counts) -> None:
        """Raise ``DataError`` for the first problem in ``counts``, if there is one."""
        problem = counts.first()
        if problem is not None:
            raise DataError(
                f"{problem.kind}: {problem.what}",
                path=self.name,
                line=problem.line,
                hint="without --strict the rest would be converted",
            )

    def summary(self) -> str:
        """What came out, in a line."""
        if self.error:
            return f"{self.name}: failed: {self.error}"
        parts = [plural(self.records, "record")]
        if self.split:
            parts.append(plural(self.rows - self.dev_rows, f"{self.split} row"))
        if self.dev_rows:
            parts.append(f"{self.dev_rows:,} dev rows")
        if self.empty_dropped:
            parts.append(f"{self.empty_dropped:,} empty rows left out")
        if self.left_out:
            parts.append(f"{self.left_out:,} left out")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped")
        return f"{self.name}: {', '.join((*parts, *self.notes))}"

    def problems(self) -> Iterator[str]:
        """What was wrong, a line for each kind, those that cost records first."""
        for kind, count in sorted(self.problem_counts.items(), key=lambda one: one[0] in KEPT):
            fate = "kept" if kind in KEPT else "left out" if kind in LEFT_OUT else "skipped"
            places = "; ".join(_places(self.name, self.examples[kind]))
            more = "; ..." if count > len(self.examples[kind]) else ""
            yield f"  {fate}: {kind} ({count:,}): {places}{more}"


def _places(name: str, problems: Iterable[Problem]) -> Iterator[str]:
    for problem in problems:
        what = problem.what if len(problem.what) <= 80 else problem.what[:77] + "..."
        yield f"{name}:{problem.line} {' '.join(what.split())}".rstrip()
