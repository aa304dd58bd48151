"""Print the table of formats for ``docs/radiometry.md`` and ``docs/my-camera.md``."""

from __future__ import annotations

import sys

from msip.radiometry.cameras import markdown_table

sys.stdout.write(markdown_table() + "\n")
