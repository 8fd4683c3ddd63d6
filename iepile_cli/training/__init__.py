"""Records in, adapter out: fine-tuning on converted data, and export of what came out.

Heavy libraries are imported inside the functions that use them, so that looking at options,
recipes and data costs nothing.
"""

from __future__ import annotations
