"""The HTML report: one file that loads nothing, with no script in it.

Everything that came from a file is escaped, and a content security policy forbids the page to
load or run anything even if that should fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation import charts, marks
from iepile_cli.evaluation.report import confusion_table, many, remarks
from iepile_cli.evaluation.scores import Score, TaskScores, UnitScores, macro

if TYPE_CHECKING:
    from iepile_cli.evaluation.document import Document
    from iepile_cli.evaluation.evaluate import Evaluation

_BROKEN_SHOWN = 2000

STYLE = """
:root{--ink:#1c2430;--soft:#5d6b7c;--line:#dfe4ea;--paper:#fff;--shade:#f5f7f9;--bar:#3b6ea5;
--good:#2e7d32;--bad:#c62828;--warn:#b26a00}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9aa7b5;--line:#37414d;
--paper:#171c22;--shade:#20272f;--bar:#6ea3dc;--good:#81c784;--bad:#ef8a8a;--warn:#ffb74d}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:980px;padding:24px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 8px}
h3{font-size:16px;margin:24px 0 6px}
.note{color:var(--soft);margin:4px 0;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;min-width:10em;overflow-wrap:anywhere}
th{font-weight:600;white-space:nowrap}td.span{color:var(--soft);white-space:nowrap}
.wide{overflow-x:auto}
.matrix td,.matrix th{padding:2px 6px;border:1px solid var(--line);min-width:34px;
text-align:center}
.matrix th[scope=col]{vertical-align:bottom;padding:6px 4px}
.matrix th span{writing-mode:vertical-rl;text-orientation:sideways;transform:rotate(180deg);
display:inline-block;max-height:210px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
font-weight:500}
.matrix th[scope=row],.matrix .corner{text-align:right;font-weight:500;white-space:nowrap;
min-width:0;max-width:min(230px,35vw);overflow:hidden;text-overflow:ellipsis}
.matrix .corner{color:var(--soft);vertical-align:bottom;white-space:normal}
svg{width:100%;min-width:600px;display:block;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}svg .axis{fill:var(--soft)}
.grid{stroke:var(--line)}.track{fill:var(--shade)}.bar{fill:var(--bar)}
.whisker{stroke:var(--ink);fill:none;opacity:.75}
article{border:1px solid var(--line);border-radius:6px;margin:12px 0;padding:10px 14px}
article header{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
article p.text{margin:6px 0;line-height:1.9;overflow-wrap:anywhere;white-space:pre-wrap}
mark{background:none;color:inherit;border-radius:3px;padding:1px 2px}
mark.correct{box-shadow:inset 0 -2px var(--good)}
mark.partial{background:rgba(255,167,38,.3)}
mark.missed{outline:2px dashed var(--warn);outline-offset:-1px}
mark.spurious{background:rgba(229,57,53,.25)}
sub{font-size:11px;padding:0 3px;vertical-align:baseline;display:inline-block;line-height:1.2;
max-width:100%}
sub.missed,li.missed b{color:var(--warn)}sub.spurious,li.spurious b{color:var(--bad)}
sub.partial,li.partial b{color:var(--warn)}
ul{margin:6px 0 2px;padding-left:20px}li{overflow-wrap:anywhere}
@media(max-width:600px){body{padding:12px}th,td{padding:3px 5px}
th:first-child,td:first-child{min-width:7em}}
pre{background:var(--shade);padding:8px;overflow:auto;white-space:pre-wrap;
overflow-wrap:anywhere;margin:6px 0}
"""


def page(evaluation: Evaluation, most: int) -> Iterator[str]:
    """The report in pieces, written as they come; ``most`` documents with errors are shown."""
    name = escape(evaluation.name)
    plan = evaluation.plan
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Evaluation of {name}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Evaluation</h1><p class='note'>{name} · matching {plan.mode}, {plan.match}</p>\n"
    )
    for line in remarks(evaluation):
        yield f"<p class='note'>{escape(line)}</p>\n"
    for task, scores in evaluation.scores.items():
        yield f"<h2>{escape(task)}</h2>\n"
        yield from _scores(scores)
        yield from _confusions(evaluation, task)
    yield from _errors(evaluation, most)
    yield "</body></html>\n"


def _scores(scores: TaskScores) -> Iterator[str]:
    for unit in scores.units:
        yield f"<h3>Scores: {escape(unit.name)}</h3>\n"
        yield _table(_summary(unit, scores))
        if unit.types:
            yield f"<h3>F1 per type: {escape(unit.name)}</h3>\n"
            yield f"<div class='wide'>{charts.bars(unit.types)}</div>\n"
            shown = sorted(unit.types.items(), key=lambda pair: (-pair[1].gold, pair[0]))
            yield f"<details><summary>{many(len(shown), 'type')} in numbers</summary>"
            yield _table((kind, score) for kind, score in shown) + "</details>\n"


def _summary(unit: UnitScores, scores: TaskScores) -> Iterator[tuple[str, Score | dict[str, Any]]]:
    yield "all (micro)", unit.micro
    yield "mean of types (macro)", unit.macro
    if len(scores.source_documents) > 1:
        for source, score in sorted(unit.sources.items()):
            yield source or "(no source)", score
            yield "— mean of its types", macro(unit.source_types.get(source, {}))


def _table(rows: Iterator[tuple[str, Score | dict[str, Any]]]) -> str:
    heads = ("", "P", "R", "F1", "95 %", "gold", "predicted", "correct", "not in text")
    parts = ["<div class='wide'><table><tr>", *(f"<th>{head}</th>" for head in heads), "</tr>"]
    for name, score in rows:
        as_json: dict[str, Any] = score.as_json() if isinstance(score, Score) else score
        low_high = as_json.get("interval_95", {}).get("F1")
        span = f"{low_high[0]:.1f}–{low_high[1]:.1f}" if low_high else ""
        counts = [as_json.get(key) for key in ("gold", "predicted", "correct", "hallucinated")]
        parts += [
            f"<tr><td>{escape(name)}</td>",
            *(f"<td>{as_json[key]:.2f}</td>" for key in ("P", "R", "F1")),
            f"<td class='span'>{span}</td>",
            *(f"<td>{'' if count is None else f'{count:,}'}</td>" for count in counts),
            "</tr>",
        ]
    return "".join([*parts, "</table></div>\n"])


def _confusions(evaluation: Evaluation, task: str) -> Iterator[str]:
    total: dict[str, dict[str, int]] = {}
    for (name, _), of_gold in confusion_table(evaluation.tally).items():
        for gold, predicted in of_gold.items() if name == task else ():
            into = total.setdefault(gold, {})
            for kind, count in predicted.items():
                into[kind] = into.get(kind, 0) + count
    if total:
        yield (
            "<h3>Confusion between types</h3><p class='note'>Same mentions, by type. Missed:"
            " nothing was predicted for them; spurious: nothing is there.</p>"
            f"{charts.matrix(total)}\n"
        )


def _errors(evaluation: Evaluation, most: int) -> Iterator[str]:
    count = evaluation.wrong_count()
    yield "<h2>Errors</h2>\n"
    if not count:
        yield "<p>No document has an error.</p>\n"
        return
    first = f"the first {most:,} of " if count > most else ""
    yield (
        f"<p class='note'>Showing {first}{count:,} documents with errors."
        " <mark class='correct'>correct</mark> <mark class='missed'>missed</mark>"
        " <mark class='spurious'>spurious</mark>"
        " <mark class='missed spurious'>wrong type</mark></p>\n"
    )
    for document in evaluation.wrong_documents(most):
        yield _article(document, evaluation)


def _article(document: Document, evaluation: Evaluation) -> str:
    entries = marks.judged(document, evaluation.plan)
    wrong = [entry for entry in entries if entry.verdict != marks.CORRECT]
    text = document.text or ""
    task, source, number, _ = document.key
    name = " · ".join(part for part in (task, source, number[:16]) if part)
    parts = [f"<article><header>{escape(name)}</header>"]
    if text:
        shown = marks.marked(text, marks.marks(document, entries))
        parts.append(f"<p class='text'>{shown}</p>")
    parts.append(f"<ul>{''.join(_listed(document, wrong[: marks.MOST_ERRORS]))}</ul>")
    for broken in document.broken:
        parts.append(
            "<details><summary>malformed answer</summary>"
            f"<pre>{escape(broken[:_BROKEN_SHOWN])}</pre></details>"
        )
    return "".join([*parts, "</article>\n"])


def _listed(document: Document, wrong: list[marks.Judged]) -> Iterator[str]:
    """One line for each error; a missed and a spurious fact with one mention are a wrong type."""
    missed: dict[tuple[int, tuple[str, ...]], list[marks.Judged]] = {}
    for entry in wrong:
        if entry.verdict == marks.MISSED:
            key = (entry.unit, tuple(marks.mentions_of(document, entry)))
            missed.setdefault(key, []).append(entry)
    lines = []
    for entry in wrong:
        mentions = tuple(marks.mentions_of(document, entry))
        others = missed.get((entry.unit, mentions), []) if any(mentions) else []
        if entry.verdict == marks.SPURIOUS and others:
            right = escape(marks.label_of(document, others.pop(0)))
            lines.append(("spurious", "wrong type", entry, f", should be {right}"))
        elif entry.verdict != marks.MISSED:
            lines.append((entry.verdict, entry.verdict, entry, ""))
    lines += [
        (entry.verdict, entry.verdict, entry, "")
        for entries in missed.values()
        for entry in entries
    ]
    for verdict, word, entry, more in lines:
        mentions = tuple(mention for mention in marks.mentions_of(document, entry) if mention)
        shown = ": " + " → ".join(map(escape, mentions)) if mentions else ""
        absent = document.text and any(mention not in document.text for mention in mentions)
        yield (
            f"<li class='{verdict}'><b>{word}</b> {escape(marks.label_of(document, entry))}{shown}"
            f"{more}{' (not in the text)' if absent else ''}</li>"
        )
