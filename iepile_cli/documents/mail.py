"""Text of mails: subject, people, date and body, of EML, MHTML and Outlook's MSG."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

from iepile_cli.documents.markup import markup, markup_text
from iepile_cli.documents.text import Extracted, not_read, tidy
from iepile_cli.encodings import decode_any
from iepile_cli.errors import DataError

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def eml(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a mail as it is sent; raises ``DataError`` for what is none."""
    message = email.message_from_bytes(data.lstrip(), policy=email.policy.default)
    headers = {name: _header(message, name) for name in _HEADERS}
    if not any(headers.values()) and not message.get("Content-Type"):
        raise DataError("is not a mail, whatever its name says: it has no headers")
    bodies: list[str] = []
    attached: list[str] = []
    for part in _parts(message):
        name = part.get_filename()
        if part.get_content_maintype() != "text" or part.get_content_disposition() == "attachment":
            attached.append(name or part.get_content_type())
        else:
            bodies.append(_body(part))
    return _mail(headers, bodies, attached)


def _parts(message: Any) -> Iterator[EmailMessage]:
    """The parts that are no containers; of alternatives the plain one, else the last."""
    kind = message.get_content_type()
    if not message.is_multipart():
        yield message
        return
    parts = message.get_payload()
    if kind == "multipart/alternative":
        plain = [part for part in parts if part.get_content_type() == "text/plain"]
        parts = plain[:1] or parts[-1:]
    elif kind == "multipart/related":
        # The pictures of a page are no attachments.
        parts = parts[:1]
    for part in parts:
        yield from _parts(part)


def _header(message: EmailMessage, name: str) -> str:
    # The parser of headers fails on some that are malformed.
    try:
        return " ".join(str(message.get(name, "")).split())
    except Exception:
        return ""


def _body(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    if part.get_content_type() == "text/html":
        return markup_text(_decoded(data, part.get_content_charset()) or markup(data)[0])
    text = _decoded(data, part.get_content_charset()) or decode_any(data)[0]
    if str(part.get_param("format", "")).lower() == "flowed":
        text = text.replace(" \r\n", " ").replace(" \n", " ")
    return text


def _decoded(data: bytes, charset: str | None) -> str:
    try:
        return data.decode(charset or "utf-8")
    except (LookupError, UnicodeError):
        return ""


def msg(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of an Outlook message; raises ``DataError`` for one that is damaged."""
    from oxmsg import Message

    # A damaged file fails in many ways, in two libraries that do not expect it.
    try:
        message = Message.load(data)
        sent = message.sent_date
        given = message.message_headers
        people = ", ".join(f"{one.name} <{one.email_address}>" for one in message.recipients)
        headers = {
            "Subject": message.subject,
            "From": message.sender or "",
            "To": given.get("To", "") or people,
            "Cc": given.get("Cc", ""),
            "Date": given.get("Date", "") or (sent.isoformat(" ") if sent else ""),
        }
        body = message.body or ""
        page = "" if body.strip() else message.html_body or ""
        attached = [one.file_name or "without a name" for one in message.attachments]
    except Exception as error:
        raise DataError(f"is damaged: {error}") from None
    return _mail(headers, [body or (markup_text(page) if page else "")], attached)


def _mail(headers: dict[str, str], bodies: list[str], attached: list[str]) -> Extracted:
    head = "\n".join(f"{name}: {value}" for name, value in headers.items() if value)
    text = "\n\n".join(filter(str.strip, [head, *bodies]))
    return Extracted(tidy(text), notes=not_read([f"attachment {name}" for name in attached]))
