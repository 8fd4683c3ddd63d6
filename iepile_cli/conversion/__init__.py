"""Annotated data into training and test instructions."""

from iepile_cli.conversion.jobs import Job, convert
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.report import Report

__all__ = ["Job", "Plan", "Report", "convert"]
