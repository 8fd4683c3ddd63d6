"""Office files and e-books as archives of XML: opened with bounds, parsed without entities."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Any
from urllib.parse import unquote

from iepile_cli.errors import DataError

# What of an archive is unpacked at most, in bytes: ten times the longest novels.
MAX_XML = 128 << 20


class Archive:
    """The files of a zip archive; raises ``DataError`` for what is damaged, locked or too large."""

    def __init__(self, data: bytes) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self._names = set(self._zip.namelist())
        self._unpacked = 0

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def bytes(self, name: str) -> bytes:
        """The content of a file."""
        if name not in self._names:
            raise DataError(f"is damaged: it lacks {name}")
        about = self._zip.getinfo(name)
        # The size of the entry bounds what is unpacked, whatever the archive really holds.
        self._unpacked += about.file_size
        if self._unpacked > MAX_XML:
            raise DataError(
                f"holds more than {MAX_XML >> 20} MiB of text when unpacked",
                hint="if it is what it claims to be, save it as plain text first",
            )
        if about.flag_bits & 1:
            raise DataError("is encrypted", hint="save it without a password first")
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
            raise DataError(f"is damaged: {error}") from None
        except NotImplementedError as error:
            raise DataError(f"cannot be unpacked: {error}") from None

    def xml(self, name: str) -> Any:
        """The root element of an XML file; entities are left alone and nothing is fetched."""
        from lxml import etree

        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            return etree.fromstring(self.bytes(name), parser)
        except etree.XMLSyntaxError as error:
            raise DataError(f"is damaged: {name}: {error.msg}") from None

    def related(self, name: str) -> dict[str, tuple[str, str]]:
        """The parts that an Office part points to, by id: the last word of their type, the name."""
        folder, file = posixpath.split(name)
        listed = posixpath.join(folder, "_rels", f"{file}.rels")
        if listed not in self:
            return {}
        found = {}
        for element in self.xml(listed):
            if not isinstance(element.tag, str) or element.get("TargetMode") == "External":
                continue
            kind = (element.get("Type") or "").rpartition("/")[2]
            target = posixpath.normpath(posixpath.join("/", folder, element.get("Target") or ""))
            found[element.get("Id") or ""] = kind, unquote(target.lstrip("/"))
        return found


def local(element: Any) -> str:
    """An element's name without its namespace; "" for comments and the like."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """The value of an attribute by its name without a namespace, "" where there is none."""
    return next((v for key, v in element.attrib.items() if key.rpartition("}")[2] == name), "")
