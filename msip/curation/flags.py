"""From measurements to flags, each with its score and its reason; people's flags are theirs.

A flag that ``msip curate`` gave is noted in ``curation.parquet``. The next run takes back what it gave and no longer
finds; what it did not give it never touches. A flag that it gave and that somebody took away stays away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip.curation.fingerprint import SMALL_SIDE
from msip.manifest import flag_name
from msip.radiometry.checks import COLOUR_MAPPED

LOW_CONTRAST = 0.08
SATURATED = 0.35
OVERLAY_COLOUR, OVERLAY_TEXT = 0.002, 0.08
LETTERBOX = 0.03
BLACK_HOT = -1.5
_BLANK_STD = 0.5 / 255

LEAKS_INTO = "leaks_into"

Columns = dict[str, NDArray]
"""Per measurement (``measure.NUMBERS``, ``width``, ``height``, ``readable``) an array over all images."""


@dataclass(frozen=True)
class Finding:
    """One flag of one image: ``score`` grows with the defect unless the reason says otherwise."""

    flag: str
    score: float
    reason: str


@dataclass(frozen=True)
class Rule:
    """A flag that follows from an image's own measurements.

    Attributes:
        flag: its name.
        score: from columns to float (n,).
        hit: from columns to bool (n,).
        reason: with ``{score}``, where useful as a percentage.
    """

    flag: str
    score: Callable[[Columns], NDArray]
    hit: Callable[[Columns], NDArray]
    reason: str


def _clipped(columns: Columns) -> NDArray:
    return np.asarray(np.maximum(columns["clipped_dark"], columns["clipped_bright"]) - columns["letterbox"])


RULES = (
    Rule("broken", lambda c: ~c["readable"] * 1.0, lambda c: ~c["readable"], "the stored file cannot be decoded"),
    Rule(
        "blank",
        lambda c: c["std"] * 255,
        lambda c: c["std"] < _BLANK_STD,
        "the standard deviation is {score:.2f} of 255 grey levels",
    ),
    Rule(
        "low_contrast",
        lambda c: c["contrast"],
        lambda c: (c["contrast"] < LOW_CONTRAST) & (c["std"] >= _BLANK_STD),
        "98 % of the pixels lie within {score:.1%} of the grey levels",
    ),
    Rule(
        "saturated",
        _clipped,
        lambda c: (_clipped(c) >= SATURATED) & (c["std"] >= _BLANK_STD),
        "{score:.0%} of the pixels are at the lowest or highest grey level",
    ),
    Rule(
        "colour_mapped",
        lambda c: c["coloured"],
        lambda c: c["coloured"] >= COLOUR_MAPPED,
        "{score:.0%} of the pixels are coloured",
    ),
    Rule(
        "overlay",
        lambda c: np.where(_coloured_overlay(c), c["coloured"], c["text"]),
        lambda c: _coloured_overlay(c) | (c["text"] >= OVERLAY_TEXT),
        "a logo, scale bar or text: {score:.1%} of the pixels coloured, or of the thin shapes in lines",
    ),
    Rule(
        "letterbox",
        lambda c: c["letterbox"],
        lambda c: c["letterbox"] >= LETTERBOX,
        "{score:.0%} of the image is flat borders",
    ),
    Rule(
        "black_hot_guess",
        lambda c: c["polarity"],
        lambda c: (c["polarity"] <= BLACK_HOT) & (_clipped(c) < SATURATED),  # a clipped range skews everything
        "small things are darker than their surroundings (skewness {score:.1f})",
    ),
    Rule(
        "too_small",
        lambda c: np.minimum(c["width"], c["height"]) * 1.0,
        lambda c: np.minimum(c["width"], c["height"]) < SMALL_SIDE,
        "the shorter side has {score:.0f} pixels",
    ),
)
"""In the order in which an image carries them."""


def _coloured_overlay(columns: Columns) -> NDArray:
    return (columns["coloured"] >= OVERLAY_COLOUR) & (columns["coloured"] < COLOUR_MAPPED)


def appearance_findings(columns: Columns) -> list[list[Finding]]:
    """The findings of ``RULES``, per image; unreadable images have NaN measurements and are ``broken`` alone."""
    result: list[list[Finding]] = [[] for _ in columns["readable"]]
    for rule in RULES:
        with np.errstate(invalid="ignore"):
            scores, hits = rule.score(columns), rule.hit(columns)
        for row in np.flatnonzero(hits & (columns["readable"] | (rule.flag == "broken"))).tolist():
            score = float(scores[row])
            result[row].append(Finding(rule.flag, score, rule.reason.format(score=score)))
    return result


def _judged(flag: str) -> str:
    """What somebody judges who gives or takes away a flag: its name; of a leak one evaluation set."""
    return flag if flag_name(flag) == LEAKS_INTO else flag_name(flag)


@dataclass(frozen=True)
class Earlier:
    """What an earlier run noted of an image: the flags that it gave, and the names that somebody took away.

    A leak's name is here the whole flag: ``leaks_into:voc`` taken away says nothing about another set.
    """

    given: tuple[str, ...] = ()
    dismissed: frozenset[str] = frozenset()


def dismissed_names(now: Sequence[str], earlier: Earlier, *, trusted: bool) -> frozenset[str]:
    """Names of given flags that somebody took away since, or before and not put back.

    ``trusted``: the manifest still carries other flags of that run. Where it carries none, a build wrote it anew.
    """
    here = {_judged(flag) for flag in now}
    gone = {_judged(flag) for flag in earlier.given if flag not in now} if trusted else set()
    return frozenset((gone | earlier.dismissed) - here)


def merged(
    now: Sequence[str], earlier: Earlier, found: Iterable[Finding], dismissed: frozenset[str]
) -> tuple[list[str], list[Finding]]:
    """An image's flags, and the findings behind those that are now given.

    Args:
        now: the manifest's flags.
        earlier: what was given before.
        found: by this run.
        dismissed: names that are not given.
    """
    own = [flag for flag in now if flag not in earlier.given]
    here = {_judged(flag) for flag in own}
    given = [item for item in found if _judged(item.flag) not in dismissed and _judged(item.flag) not in here]
    return own + [item.flag for item in given], given


FINDINGS = pa.list_(
    pa.struct([pa.field("flag", pa.string()), pa.field("score", pa.float64()), pa.field("reason", pa.string())])
)
