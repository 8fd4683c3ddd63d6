"""Pages: HTML files that hold all they need and load nothing, and the look that they share.

The templates, style sheets and the script are files of this folder. What a page shows is made
ready in the room that it belongs to: ``extraction/page.py`` for results, ``evaluation/html.py``
for the report of an evaluation.
"""

from iepile_cli.pages.rendering import GENERATOR, is_page, json_text, render

__all__ = ["GENERATOR", "is_page", "json_text", "render"]
