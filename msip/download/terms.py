"""Which terms a person has accepted: kept in ``RAW/.msip/terms.json`` and copied into ``build.json``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msip.files import sha256_bytes, write_json
from msip.sources import Source


def accepted_terms(raw: Path) -> dict[str, dict[str, Any]]:
    """Per source: the terms as shown, and when they were accepted; empty where nothing was."""
    try:
        return json.loads((raw / ".msip" / "terms.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def open_terms(raw: Path, sources: list[Source]) -> list[Source]:
    """Those of ``sources`` whose present terms have not been accepted yet."""
    accepted = accepted_terms(raw)
    return [source for source in sources if accepted.get(source.name, {}).get("sha256") != _digest(source)]


def accept_terms(raw: Path, sources: list[Source]) -> None:
    """Record that the terms of ``sources`` were shown and accepted now."""
    record = accepted_terms(raw)
    for source in sources:
        record[source.name] = {
            "licence": source.licence.name,
            "terms": source.terms_text,
            "url": source.licence.url,
            "sha256": _digest(source),
            "accepted": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    (raw / ".msip").mkdir(parents=True, exist_ok=True)
    write_json(raw / ".msip" / "terms.json", record)


def _digest(source: Source) -> str:
    return sha256_bytes(f"{source.terms_text}\n{source.licence.url}".encode())
