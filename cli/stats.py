"""``msip stats``."""

from __future__ import annotations

from .options import Json, Out, Workers, cores
from .output import StageBars, print_json, print_line, print_table


def stats(out: Out, workers: Workers = cores(), as_json: Json = False) -> None:
    """Count and draw what a build holds: tables, plots, a page, a data card, Croissant metadata."""
    import msip

    with StageBars(quiet=as_json) as bars:
        report = msip.stats(out, workers=workers, progress=bars)
    numbers = report.numbers
    if as_json:
        print_json(numbers)
        return
    parts = {**numbers["sources"], "all": numbers["overall"]}
    rows = [
        [
            name,
            part["images"],
            part["sequences"]["count"],
            part["rois"]["total"],
            _middle(part["brightness"]),
            _middle(part["contrast"]),
            part["duplicates"].get("near"),
        ]
        for name, part in parts.items()
    ]
    print_table(["source", "images", "sequences", "RoIs", "brightness", "contrast", "near-duplicates"], rows)
    ours = numbers["overall"]["normalisation"].get("per_image", {"mean": float("nan"), "std": float("nan")})
    reference = numbers["reference"]
    print_line(
        f"\nGrey values: mean {ours['mean']:.4f}, std {ours['std']:.4f} "
        f"(the reference normalises with {reference['mean']} and {reference['std']})."
    )
    print_line(f"May be used commercially: {numbers['commercial']['yes']['share']:.1%} of the images.")
    if not numbers["overall"]["duplicates"]["known"]:
        print_line(f"Duplicates are not known yet: msip curate {out}")
    print_line(f"Look at {out / 'stats/index.html'}; to pass the images on, see {out / 'data-card.md'}.")


def _middle(values: dict[str, float]) -> str:
    return f"{values['q50']:.3f}" if values["count"] else "-"
