"""A manifest in the FiftyOne App: dataset, saved views, workspace, tags back to flags.

FiftyOne and its database are started by ``msip.inspection.database.connect`` alone; importing this package is light.
"""

from __future__ import annotations
