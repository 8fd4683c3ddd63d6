"""Which instruction language suits a text."""

from __future__ import annotations

import pytest

from iepile_cli.task.language import detect_language, seems_foreign


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("123 !?", "en"),
        ("Angela Merkel met Xi Jinping (习近平) in Beijing (北京).", "en"),
        ("北京是中国的首都。", "zh"),
        ("臺灣位於東亞", "zh"),
        ("苹果公司（Apple Inc.）在 Cupertino 发布了新款 iPhone 15 Pro Max。", "zh"),
        (
            "东京（とうきょう）是日本的首都，人口众多，也是世界上最大的城市之一。日本政府设在这里，经济十分发达，交通也非常便利。",
            "zh",
        ),
        ("東京は日本の首都です。", "en"),
        ("서울은 대한민국의 수도이다.", "en"),
        ("Москва — столица России.", "en"),
        ("\ud800", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert detect_language(text) == language


GERMAN = (
    "Die Bundeskanzlerin traf am Dienstag in Berlin den französischen Präsidenten, um über die "
    "Zukunft der Europäischen Union zu sprechen. Das teilte ein Sprecher der Regierung mit."
)


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        (GERMAN, True),
        ("Президент встретился с министром", True),
        ("日本の首相は東京で記者会見を行った", True),
        ("任正非在深圳会见了来自北京的记者。", False),
        ("Ada Keller flew from Hamburg to Lisbon. 任正非在深圳。", False),
        ("Berlin, Paris, Rom", False),
        ("", False),
        ("The chancellor met the president in Berlin to speak of the future. " * 3, False),
    ],
)
def test_what_seems_foreign(text: str, foreign: bool) -> None:
    assert seems_foreign(text) == foreign
