"""Where the real images are that benchmarks read: MSIP_REALDATA, or beside the project."""

from __future__ import annotations

import os
from pathlib import Path

REALDATA = Path(os.environ.get("MSIP_REALDATA", Path(__file__).resolve().parents[1] / "../shared/realdata")).resolve()
