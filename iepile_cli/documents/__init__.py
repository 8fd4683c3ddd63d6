"""Documents that are no plain text: PDF, office files, web pages, mails, e-books, Markdown.

Goes in: a file's bytes and its suffix. Comes out: the text that is in it, in which all offsets
count, and where its pages begin. ``formats`` is the table of what is read, with the module that
reads each; the libraries that they need are the extra ``documents`` and are imported on first use.
Pictures, charts, formulas and text recognition in scans are left out.
"""

from iepile_cli.documents.formats import FORMATS, SUFFIXES
from iepile_cli.documents.reading import read, read_text
from iepile_cli.documents.text import Extracted

__all__ = ["FORMATS", "SUFFIXES", "Extracted", "read", "read_text"]
