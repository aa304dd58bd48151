"""``msip doctor``: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

from .options import Json
from .output import print_json, print_table


def doctor(as_json: Json = False) -> None:
    """Say what this machine has: versions, extras, GPU, FiftyOne's database, memory, disk."""
    import pad

    facts = pad.doctor()
    if as_json:
        print_json(facts)
        return
    print_table(["", "found"], list(facts.items()))
