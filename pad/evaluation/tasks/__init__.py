"""Downstream tasks, one class in one file each (``base`` is the contract), found in one dict (``registry``)."""

from msip.extras import need

need("evaluate")  # here, before any task imports its heads
