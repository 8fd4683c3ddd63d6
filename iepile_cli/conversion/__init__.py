"""Annotated data into training and test instructions."""

from iepile_cli.conversion.convert import convert
from iepile_cli.conversion.options import ConvertOptions, Plan
from iepile_cli.conversion.readers import read_gold
from iepile_cli.conversion.report import Report

__all__ = ["ConvertOptions", "Plan", "Report", "convert", "read_gold"]
