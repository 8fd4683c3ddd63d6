"""Fetch models and corpora from the hubs: planned, resumable, verified.

``plan_download`` asks a hub what there is and chooses the files, ``download`` fetches them,
``remove`` deletes them. Everything is raised as ``DownloadError`` with one clear line; nothing is
printed.
"""

from __future__ import annotations

from iepile_cli.hub.download import Watch, download
from iepile_cli.hub.plan import Plan, plan_download
from iepile_cli.hub.removal import remove

__all__ = ["Plan", "Watch", "download", "plan_download", "remove"]
