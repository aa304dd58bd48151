"""Curation: what is twice, what is odd, what leaked into an evaluation set; flags, never deletes."""

from __future__ import annotations

from msip.curation.near import SIMILARITY, NearDuplicate, near_duplicates

__all__ = ["SIMILARITY", "NearDuplicate", "near_duplicates"]
