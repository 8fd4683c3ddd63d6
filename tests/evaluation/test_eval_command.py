"""`iepile eval` as people run it: outputs, exit codes, the HTML report in a real browser."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import zstandard
from evaluation_rows import ner, row, run, write

ROOT = Path(__file__).parents[2]
GOLD = ner(("Ann", "PER"), ("Rome", "LOC"))
HOSTILE = "</pre></p><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&<b>"


def process(*arguments: str, stdin: bytes = b"", **environment: str) -> Any:
    """Run the command line as its own process."""
    return subprocess.run(
        [sys.executable, "-m", "iepile_cli", "eval", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    rows = [
        row({"PER": ["Ann"], "LOC": ["Rome"]}, GOLD, text="Ann in Rome"),
        row({"PER": ["Rome"], "LOC": []}, GOLD, text="Ann was in Rome", source="T"),
        row("oops", GOLD, text="Ann is in Rome", source="T"),
    ]
    return write(tmp_path / "predictions.jsonl", rows)


def test_folders_of_the_reports_are_made(predictions: str, tmp_path: Path) -> None:
    reports = [tmp_path / "new" / "a" / "scores.json", tmp_path / "other" / "page.html"]
    done = run(predictions, "--json", str(reports[0]), "--html", str(reports[1]))
    assert done.returncode == 0
    assert all(report.stat().st_size for report in reports)


def test_table_for_programs(predictions: str) -> None:
    done = run(predictions, "--by", "source", "--by", "type")
    assert done.returncode == 0
    header, *lines = done.stdout.decode().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    found = {(r["source"], r["type"], r["average"]): (r["F1"], r["gold"]) for r in rows}
    assert found["*", "*", "micro"] == ("44.44", "6")
    assert found["T", "*", "micro"] == ("0.00", "4")
    assert found["*", "PER", "micro"] == ("40.00", "3")
    assert found["S", "LOC", "micro"] == ("100.00", "1")
    assert found["*", "*", "macro"] == ("45.00", "")
    assert done.stderr.decode() == "NER: 3 documents, 3 answers, 1 malformed\n"


def test_json_report(predictions: str, tmp_path: Path) -> None:
    done = run(predictions, "--json", "-", "--by", "type")
    report = json.loads(done.stdout)
    part = report["tasks"]["NER"]
    assert part["documents"] == 3
    assert part["malformed"] == 1
    micro = part["units"]["entity"]["micro"]
    assert [micro[key] for key in ("P", "R", "F1")] == [66.67, 33.33, 44.44]
    assert [micro[key] for key in ("gold", "predicted", "correct")] == [6, 3, 2]
    assert set(part["types"]) == {"PER", "LOC"}
    assert micro["interval_95"]["F1"][0] <= 44.44 <= micro["interval_95"]["F1"][1]
    target = tmp_path / "report.json"
    assert run(predictions, "--json", str(target), "--by", "type").returncode == 0
    assert json.loads(target.read_text(encoding="utf-8")) == report
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("form", ["stdin", "gz", "zst"])
def test_other_ways_in(form: str, predictions: str, tmp_path: Path) -> None:
    data = Path(predictions).read_bytes()
    packed = tmp_path / "packed"
    if form == "stdin":
        done = process("-", stdin=data)
    else:
        packed.write_bytes(
            gzip.compress(data) if form == "gz" else zstandard.ZstdCompressor().compress(data)
        )
        done = run(str(packed))
    assert done.stdout == run(predictions).stdout
    assert done.returncode == 0


def test_fail_under(predictions: str) -> None:
    assert run(predictions, "--fail-under", "44").returncode == 0
    done = run(predictions, "--fail-under", "45")
    assert done.returncode == 1
    assert "iepile: under 45: NER entity F1 44.44" in done.stderr.decode()
    assert done.stdout


def test_missing_gold_is_exit_code_3_and_the_rest_is_scored(tmp_path: Path) -> None:
    rows = [row("{}", None, text="no gold"), row({"PER": ["Ann"]}, GOLD)]
    done = run(write(tmp_path / "p.jsonl", rows))
    assert done.returncode == 3
    assert "1 document without gold" in done.stderr.decode()
    assert "micro\t100.00\t50.00" in done.stdout.decode()


ERRORS: list[tuple[list[Any], list[str], int, str]] = [
    ([], [], 1, "is empty"),
    (["oops"], [], 1, ":1: no record that can be scored"),
    ([b"\x00\x01\xff" * 50], [], 1, "no record that can be scored"),
    ([row("{}", None)], [], 1, "no gold in 1 document"),
    ([row(None, GOLD)], [], 1, "no record has an 'output' (run extract on it first)"),
    ([row("{}", GOLD)], ["--mode", "loose"], 2, "'strict', 'boundary', 'partial', 'type'"),
    ([row("{}", GOLD)], ["--match", "bag"], 2, "'multiset', 'set'"),
    ([row("{}", GOLD)], ["--by", "colour"], 2, "'source', 'type'"),
    ([row("{}", GOLD)], ["--task", "XYZ"], 2, "no task is called 'XYZ'"),
    ([row("{}", GOLD)], ["--task", "RE"], 1, "no record of task RE"),
    ([row("{}", [], task="KG")], ["--upstream-compatible"], 2, "cannot score KG"),
    ([row("{}", GOLD)], ["--upstream-compatible", "--repair"], 2, "cannot be combined"),
    (
        [row("{}", GOLD)],
        ["--html", "/dev/null/a/b.html"],
        2,
        "/dev/null/a/b.html: cannot be written",
    ),
    ([row("{}", GOLD)], ["--baseline", "/nowhere.jsonl"], 2, "no such file"),
    ([row("{}", GOLD)], ["--resamples", "1"], 2, "--resamples takes 0"),
    ([b"\x1f\x8b broken"], [], 1, "its compression is damaged"),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_are_one_line(case: int, tmp_path: Path) -> None:
    rows, arguments, code, message = ERRORS[case]
    done = run(write(tmp_path / "p.jsonl", rows), *arguments)
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert message in said
    assert said.count("\n") == 1
    assert done.stdout == b""


def test_report_does_not_overwrite_what_it_reads(predictions: str) -> None:
    done = run(predictions, "--json", predictions)
    assert done.returncode == 2
    assert "would overwrite" in done.stderr.decode()


def test_one_file_does_not_hold_two_reports(predictions: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = run(predictions, "--json", str(target), "--html", str(target))
    assert (done.returncode, target.exists()) == (2, False)
    assert b"two reports" in done.stderr


@pytest.mark.parametrize("option", ["--html", "--confusions"])
def test_only_json_goes_to_stdout(option: str, predictions: str) -> None:
    done = run(predictions, option, "-")
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("bar", ["-1", "101", "nan"])
def test_bar_is_in_percent(bar: str, predictions: str) -> None:
    assert run(predictions, "--fail-under", bar).returncode == 2


def test_gold_of_odd_kinds_is_reported_as_upstream_counts_it(tmp_path: Path) -> None:
    gold = [
        {"entity": "Ann", "entity_type": None},
        {"entity": None, "entity_type": 3},
        {"entity": ["Ann"], "entity_type": ["PER"]},
        *GOLD,
    ]
    path = write(tmp_path / "p.jsonl", [row({"PER": ["Ann"], "None": ["Ann"]}, gold)])
    page, table = tmp_path / "r.html", tmp_path / "c.json"
    done = run(path, "--upstream-compatible", "--html", str(page), "--confusions", str(table))
    assert done.returncode == 0
    # The type None is not the type "None".
    assert json.loads(done.stdout)["total"] == {
        "总样本数": 1,
        "错误数": 0,
        "P": 50,
        "R": 20,
        "F1": 28.57,
    }
    assert "<article>" in page.read_text(encoding="utf-8")
    assert "S" in json.loads(table.read_text(encoding="utf-8"))


def test_confusions_are_what_hard_negatives_reads(predictions: str, tmp_path: Path) -> None:
    target = tmp_path / "confusions.json"
    assert run(predictions, "--confusions", str(target)).returncode == 0
    assert json.loads(target.read_text()) == {
        "S": {"task": "NER", "confusions": {}},
        "T": {"task": "NER", "confusions": {"LOC": {"PER": 1}}},
    }


def test_baseline_is_told_in_a_line(predictions: str) -> None:
    done = run(predictions, "--baseline", predictions)
    assert "= +0.00 (95 % +0.00 to +0.00), p = 1.0000, 3 documents" in done.stderr.decode()


def test_upstream_numbers_on_stdout(predictions: str) -> None:
    numbers = json.loads(run(predictions, "--upstream-compatible", "--by", "source").stdout)
    assert list(numbers) == ["total", "S", "T"]
    assert numbers["total"] == {"总样本数": 3, "错误数": 1, "P": 66.67, "R": 33.33, "F1": 44.44}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_no_names(encoding: str, tmp_path: Path) -> None:
    kind = "\ud800\t\x1b[31m\n类\U0001f600"
    source = kind[1:]
    rows = [row({kind: ["Ann"]}, ner(("Ann", kind)), source=source)]
    path = write(tmp_path / "p.jsonl", rows)
    for more in ([], ["--json", "-"], ["--json", "-", "--upstream-compatible"]):
        options = [path, "--by", "source", "--by", "type", *more]
        done = process(*options, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
        assert b"\x1b" not in done.stdout
        if "--upstream-compatible" in more:
            assert list(json.loads(done.stdout.decode(encoding))) == ["total", source]
        elif more:
            report = json.loads(done.stdout.decode(encoding))["tasks"]["NER"]
            assert (list(report["types"]), list(report["sources"])) == ([kind], [source])
        else:
            assert {line.count(b"\t") for line in done.stdout.splitlines()} == {13}
    for option in ("--html", "--json", "--confusions"):
        assert run(path, option, str(tmp_path / "out")).returncode == 0


def test_quiet_says_nothing_on_stderr(predictions: str) -> None:
    done = process(predictions, IEPILE_QUIET="1")
    assert (done.returncode, done.stderr) == (0, b"")


# --------------------------------------------------------------------------------------- HTML


class Outline(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.marks: dict[str, list[str]] = {}
        self._mark = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "mark":
            self._mark = dict(attrs).get("class") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "mark":
            self._mark = ""

    def handle_data(self, data: str) -> None:
        if self._mark:
            self.marks.setdefault(self._mark, []).append(data)


def report(path: str, target: Path, *more: str) -> str:
    assert run(path, "--html", str(target), *more).returncode == 0
    return target.read_text(encoding="utf-8")


def test_report_marks_every_error(predictions: str, tmp_path: Path) -> None:
    page = Outline()
    page.feed(report(predictions, tmp_path / "r.html"))
    # The second document; of the third nothing was read. The first is right and not shown.
    assert page.marks["missed"][1:] == ["Ann", "Ann", "Rome"]
    assert page.marks["missed spurious"][1:] == ["Rome"]
    assert page.tags.count("article") == 2
    assert {"svg", "table", "details"} <= set(page.tags)


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    rows = [
        row(
            {HOSTILE: [HOSTILE], "LOC": ["Rome"]},
            ner((HOSTILE, "PER"), ("Rome", HOSTILE)),
            text=f"{HOSTILE} in Rome {HOSTILE}",
            source=HOSTILE,
            id=HOSTILE,
        ),
        row(HOSTILE, ner(("Ann", HOSTILE)), text=f"Ann \ud800 {HOSTILE}", source=HOSTILE),
    ]
    return write(tmp_path / "hostile.jsonl", rows)


def test_hostile_text_stays_text(hostile: str, tmp_path: Path) -> None:
    text = report(hostile, tmp_path / "r.html")
    page = Outline()
    page.feed(text)
    assert not {"script", "img", "iframe", "link"} & set(page.tags)
    assert "<script" not in text
    assert "<img" not in text
    assert all(not name.startswith("on") for name, _ in page.attributes)
    loaded = [value for name, value in page.attributes if name in ("src", "href", "data", "action")]
    assert loaded == []
    assert re.search(r"(?:https?:)?//|url\(|@import", text) is None


def test_at_most_so_many_documents(predictions: str, tmp_path: Path) -> None:
    text = report(predictions, tmp_path / "r.html", "--html-errors", "1")
    assert text.count("<article>") == 1
    assert "the first 1 of 2 documents with errors" in text


def test_types_that_are_never_gold_have_their_column(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row({"PLACE": ["Rome"]}, ner(("Rome", "LOC")))])
    matrix = report(path, tmp_path / "r.html").split('class="matrix"')[1].split("</table>")[0]
    rows = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", line) for line in matrix.split("<tr>")[1:]]
    names = [re.sub("<.*?>", "", name) for name in rows[0][1:]]
    assert names == ["LOC", "PLACE", "missed"]
    assert rows[1] == ["LOC", "", "1", ""]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def test_reader_that_stops_early_is_no_error(predictions: str) -> None:
    command = f"{sys.executable} -m iepile_cli eval {predictions} --by type | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.startswith(b"task\t")
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_report_in_a_browser(hostile: str, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    report(hostile, page)
    picture = tmp_path / "shot.png"

    def browse(*arguments: str) -> str:
        done = subprocess.run(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
                *arguments,
                page.as_uri(),
            ],
            capture_output=True,
            check=True,
            timeout=120,
        )
        return done.stdout.decode("utf-8", "replace")

    document = browse("--dump-dom")
    assert "<title>Evaluation of" in document
    assert "owned" not in document.split("</title>")[0]
    outline = Outline()
    outline.feed(document)
    assert "script" not in outline.tags
    assert outline.tags.count("article") == 2
    browse(f"--screenshot={picture}", "--window-size=1000,1500")
    assert picture.stat().st_size > 10_000


def test_marks_stand_on_whole_words(tmp_path: Path) -> None:
    text = "A case of an atom in a cat 在中国人中"
    gold = ner(("a", "X"), ("cat", "X"), ("an", "X"), ("ase", "X"), ("中国", "X"))
    page = report(write(tmp_path / "p.jsonl", [row({}, gold, text=text)]), tmp_path / "r.html")
    shown = re.sub(r"<sub.*?</sub>", "", page.split('<p class="text">')[1].split("</p>")[0])
    shown = re.sub(r"<mark[^>]*>(.*?)</mark>", r"[\1]", shown)
    assert shown == "A c[ase] of [an] atom in [a] [cat] 在[中国]人中"


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_report_fits_a_narrow_window(hostile: str, predictions: str, tmp_path: Path) -> None:
    long = row({"W" * 300: ["Ann"]}, ner(("Ann", "a long type " * 9)), source="S" * 300)
    names = (write(tmp_path / "long.jsonl", [long]), hostile, predictions)
    for number, path in enumerate(names):
        text = report(path, tmp_path / "r.html")
        # The report forbids scripts to itself; a copy without that measures itself.
        page = tmp_path / f"{number}.html"
        page.write_text(
            re.sub(r"<meta http-equiv[^>]*>", "", text).replace(
                "</body>",
                "<script>document.title=JSON.stringify([document.documentElement.scrollWidth,"
                "innerWidth,...[...document.querySelectorAll('table:not(.matrix) td:first-child')]"
                ".slice(0,2).map(c=>c.offsetHeight)])</script></body>",
            ),
            encoding="utf-8",
        )
        done = subprocess.run(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--window-size=400,1500",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            check=True,
            timeout=120,
        )
        title = re.search(r"<title>\[(.*?)\]</title>", done.stdout.decode("utf-8", "replace"))
        assert title
        width, window, *heights = map(int, title[1].split(","))
        assert width <= window <= 500
        assert len(heights) == 2
        assert max(heights) < 80
