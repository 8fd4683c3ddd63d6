"""Fetch models and corpora from the hubs: planned, resumable, verified.

``plan_download`` lists what a hub has and chooses the files, ``download`` fetches them, ``remove``
deletes them. Everything is raised as ``DownloadError`` with one clear line; nothing is printed.
"""

from __future__ import annotations

from iepile_cli.hub.download import Plan, Progress, download, plan_download, removable, remove

__all__ = ["Plan", "Progress", "download", "plan_download", "removable", "remove"]
