"""Paths of version 0.1 whose modules have another place or name now."""

from __future__ import annotations

MOVED: dict[str, tuple[str, ...]] = {
    "msip.archives.parts": ("msip.archives.volumes",),
    "msip.curation.appearance": ("msip.curation.image_measures",),
    "msip.export.parts": ("msip.export.chunks",),
    "msip.inspection.appearance": ("msip.inspection.app_style", "msip.inspection.schema"),
    "msip.radiometry.bmp": ("msip.radiometry.cameras.bmp",),
    "msip.radiometry.dji": ("msip.radiometry.cameras.dji",),
    "msip.radiometry.flir": ("msip.radiometry.cameras.flir",),
    "msip.radiometry.formats": ("msip.radiometry.cameras.refused", "msip.radiometry.cameras"),
    "msip.radiometry.jpeg": ("msip.radiometry.cameras.jpeg",),
    "msip.radiometry.png": ("msip.radiometry.cameras.png",),
    "msip.radiometry.read": ("msip.radiometry.decode",),
    "msip.radiometry.tiff": ("msip.radiometry.cameras.tiff",),
    "msip.report": ("msip.build_report",),
    "msip.statistics.report": ("msip.statistics.stats",),
}
