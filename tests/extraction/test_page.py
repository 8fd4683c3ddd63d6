"""The page of results: one file, data that stays data, nothing loaded. Browsers: see below."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.extraction.page import page_of
from iepile_cli.extraction.summary import SummaryOptions
from iepile_cli.pages import is_page, json_text
from iepile_cli.pages.rendering import FOLDER

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<!-- <script> ]]> {{ 7*7 }} {% raw %} ${7*7} &lt;b&gt; \u2028\u2029\x00\x1b[31m\u202egnp\ud800"
)


def entity(text: str, at: int, kind: str = "person", **more: Any) -> dict[str, Any]:
    return {"type": kind, "text": text, "start": at, "end": at + len(text), **more}


def result(source: str, *items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"source": source, "task": "NER", "lang": "en", "items": list(items), **more}


def hostile_result() -> dict[str, Any]:
    items = [entity(HOSTILE, 0, HOSTILE, score=0.5), entity("__proto__", len(HOSTILE), "__proto__")]
    return result(HOSTILE, *items, id=HOSTILE)


def page(*documents: tuple[dict[str, Any], str | None], **options: Any) -> str:
    made = page_of(((found, text, "") for found, text in documents), **options)
    return b"".join(made).decode("utf-8")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the content of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[str] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.contents.append("")
        self._open = True

    def handle_data(self, data: str) -> None:
        if self._open:
            self.contents[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def named(self, tag: str, **attributes: str) -> list[str]:
        """The contents of the elements with this name and these attributes."""
        return [
            content
            for (name, given), content in zip(self.found, self.contents, strict=True)
            if name == tag and all(given.get(key) == value for key, value in attributes.items())
        ]


def test_a_page_holds_its_documents() -> None:
    text = "Ann met Bob."
    found = result("a.txt", entity("Ann", 0, score=0.9), entity("Bob", 8), line=3)
    elements = Elements(page((found, text), (result("b.txt"), None)))
    documents = json.loads(elements.named("script", id="documents")[0])
    assert [one["source"] for one in documents] == ["a.txt", "b.txt"]
    assert (documents[0]["text"], documents[0]["line"]) == (text, 3)
    assert documents[0]["items"] == found["items"]
    assert documents[0]["groups"] == [[0], [1]]
    assert documents[1]["text"] is None
    summary = json.loads(elements.named("script", id="summary")[0])
    assert [entry["name"] for entry in summary["entries"]] == ["Ann", "Bob"]
    assert summary["tasks"] == {"NER": {"single": True, "fixed": ["mention"], "slots": ""}}


def test_a_page_without_documents_is_one() -> None:
    elements = Elements(page())
    assert json.loads(elements.named("script", id="documents")[0]) == []


def test_names_that_count_together_are_said() -> None:
    found = result("a", entity("J. Lee", 0), entity("Jo Lee", 0), entity("the US", 0, "place"))
    options = SummaryOptions(match_initials=True)
    elements = Elements(page((found, None), options=options))
    first, second, third = json.loads(elements.named("script", id="summary")[0])["entries"]
    assert first == {"same": 1}
    assert (second["name"], second["names"]) in (("Jo Lee", ["J. Lee"]), ("J. Lee", ["Jo Lee"]))
    assert third["name"] == "the US"


def test_hostile_data_stays_data() -> None:
    text = page((hostile_result(), HOSTILE + "__proto__"), title=HOSTILE)
    plain = Elements(page((result("a.txt"), "")))
    elements = Elements(text)
    # The same elements with the same attributes as of harmless data.
    assert elements.found == plain.found
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text.replace("\n", ""))
    (document,) = json.loads(elements.named("script", id="documents")[0])
    assert document["source"] == document["id"] == document["items"][0]["type"] == HOSTILE


def test_nothing_is_loaded_and_only_our_own_script_runs() -> None:
    elements = Elements(page((hostile_result(), None)))
    policy = next(
        given["content"] or ""
        for tag, given in elements.found
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for rule, content in (
        ("style-src", elements.named("style")[0]),
        ("script-src", elements.named("script")[-1]),
    ):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    names = {name for _, given in elements.found for name in given}
    assert not names & {"src", "srcset", "data", "action", "style", "background", "formaction"}
    assert not any(name.startswith("on") for name in names)
    links = [given["href"] for _, given in elements.found if "href" in given]
    assert links == ["#main"]
    style = elements.named("style")[0]
    assert not re.search(r"url\(|@import|@font-face|expression", style)


def test_the_script_makes_no_markup_of_data() -> None:
    script = (FOLDER / "results.js").read_text(encoding="utf-8")
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|createContextualFragment|DOMParser|"
        r"\beval\b|new Function|setTimeout\(['\"`]|fetch\(|XMLHttp|WebSocket|import\(|srcdoc|"
        r"location|\.href|localStorage|'src'|'href'|'style'"
    )
    assert re.findall(forbidden, script) == []


def test_a_page_is_known_by_its_beginning() -> None:
    assert is_page(page().encode())
    assert not is_page(b"<!doctype html><title>mine</title>")


@pytest.mark.parametrize("value", [HOSTILE, "a\U0001f600b", "\udfff", "plain", "中文 ü"])
def test_json_in_a_script_is_the_same_value(value: str) -> None:
    text = json_text({value: [value]})
    assert json.loads(text) == {value: [value]}
    assert not set("<>&\u2028\u2029") & set(text)
    text.encode("utf-8")


def test_what_a_page_is_made_of_comes_with_the_package() -> None:
    # Files that a wheel must hold beside the modules.
    assert {"page.css", "results.css", "results.html.jinja", "results.js"} <= {
        path.name for path in Path(FOLDER).iterdir()
    }
