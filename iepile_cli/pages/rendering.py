"""How a page is put together: template, style and script in one file, and data that stays data.

Whatever a template shows is escaped. The content security policy names the style sheet and the
script by their SHA-256, so that a browser runs and loads nothing else, even if the escaping should
fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
GENERATOR = "iepile"

# Characters that end a script element, begin a comment in one, or end a line of a script; and lone
# surrogates, which no encoding can hold.
_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def render(
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str] = (),
    more_style: str = "",
    **shown: Any,
) -> Iterator[str]:
    """The page that a template makes of what is shown, in pieces.

    ``styles`` and ``scripts`` are names of files in this folder, ``more_style`` are rules made for
    this page alone, of nothing that came from a file of the user's.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "\n".join([*map(_content, styles), more_style])
    script = "\n".join(map(_content, scripts))
    yield from environment.get_template(template).generate(
        policy=_policy(style, script),
        generator=GENERATOR,
        style=Markup(style),
        script=Markup(script),
        **shown,
    )


def json_text(value: Any) -> str:
    """JSON on one line that can stand in a script element: nothing in it is markup."""
    return _UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def is_page(head: bytes) -> bool:
    """Whether bytes are the beginning of a page of this program."""
    return f'<meta name="generator" content="{GENERATOR}">'.encode() in head[:1000]


def _content(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _policy(style: str, script: str) -> str:
    allowed = [f"style-src {_source(style)}"]
    if script:
        allowed.append(f"script-src {_source(script)}")
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def _source(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
