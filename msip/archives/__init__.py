"""Archives, opened safely: zip, tar (plain, gz, bz2, xz, zst), 7z, rar, all of them also in parts, and .seq movies.

``extract`` is the one door. Members are streamed from the archive (or its volumes) into place; there is no second copy
on the disk, for any format. What an archive may do is decided in ``msip.archives.policy``, whatever the format.
"""

from __future__ import annotations

from msip.archives.extract import Extraction, Wanted, extract
from msip.archives.formats import RAR_ADVICE, rar_tool, sniff
from msip.archives.policy import Limits
from msip.archives.volumes import archive_sets, find_volumes

__all__ = [
    "RAR_ADVICE",
    "Extraction",
    "Limits",
    "Wanted",
    "archive_sets",
    "extract",
    "find_volumes",
    "rar_tool",
    "sniff",
]
