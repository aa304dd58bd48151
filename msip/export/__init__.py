"""Crops as data for others: PNG files and a table, WebDataset tars, or COCO."""

from __future__ import annotations

from msip.export.listing import ANNOTATIONS_NAME, SHEET_NAME, TABLE_NAME
from msip.export.run import ExportReport, export_crops

__all__ = ["ANNOTATIONS_NAME", "SHEET_NAME", "TABLE_NAME", "ExportReport", "export_crops"]
