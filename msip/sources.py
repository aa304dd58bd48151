"""Public sources and corpora as typed facts, read from the YAML files in ``data_manifests``.

A source says where a data set lives, under which terms, how it lies on disk, which of its frames a corpus takes and
how many images that makes. What nobody has published is the word ``unknown``, never a guess. Which fact comes from
where, and how sure it is, stands in each file's ``provenance``.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from msip.errors import SourceError
from msip.plugins import load_plugins

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.11 on
    from typing import Self

Unknown = Literal["unknown"]
Confidence = Literal["high", "medium", "low"]
Status = Literal["verified", "documentation", "unknown"]
AccessClass = Literal["automatic", "semi-automatic", "manual"]
HostKind = Literal[
    "http", "google_drive_file", "google_drive_folder", "huggingface", "kaggle", "baidu", "terabox", "apply_page"
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

FACT_GROUPS = ("paper", "access", "archives", "licence", "imaging", "layout", "selection", "expected_images")
"""The groups of facts of a source that must say where they come from."""


class Facts(BaseModel):
    """Base of everything read from YAML: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Evidence(Facts):
    """Where a fact comes from and how sure it is: high = primary source or counted, medium = one credible third
    party, low = weak, indirect or contradicted."""

    source: str
    confidence: Confidence


class SeenPath(Evidence):
    """A root or folder pattern of a layout, and whether anybody has seen it."""

    path: str
    seen: Literal["real tree", "user's disk", "inferred"]


class Provenance(Facts):
    """The evidence of each group of facts, and of each path that the layout accepts.

    ``status`` of layout and count as a whole: ``verified``: built whole from the published files, by us, and counted;
    ``documentation``: what pages, papers and other people's programs say; ``unknown``: nobody has published the tree.
    ``checked``: what was done or read, in one sentence.
    """

    status: Status
    checked: str
    facts: dict[str, Evidence]
    paths: tuple[SeenPath, ...]


class Host(Evidence):
    """One place that serves a source's files (or the page that hands them out)."""

    kind: HostKind
    official: bool
    holds: str
    id: str | None = None
    url: str | None = None
    code: str | None = None
    resource_key: str | None = None
    files: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        needs = "url" if self.kind in ("http", "apply_page") else "id"
        if getattr(self, needs) is None:
            raise ValueError(f"a host of kind {self.kind} needs the key {needs!r}")
        return self


class Access(Facts):
    """How the files are got (by the program, by the program with help, by hand), and from where: best host first.

    A host's ``files`` are the archives of the source that it serves and that the source's selection needs; of a folder
    without ``files``, all.
    """

    access_class: AccessClass = Field(alias="class")
    hosts: tuple[Host, ...]
    note: str


class Archive(Evidence):
    """One file as it is published. ``size`` is the size as a page prints it, ``bytes`` the exact one. ``part_of``
    names the archive that the parts make when they are joined in the listed order."""

    name: str
    bytes: PositiveInt | Unknown
    size: str
    md5: Md5 | Unknown
    part_of: str | None = None

    @property
    def about_bytes(self) -> int:
        """The exact size where it is known, else what a page's ``8.88 GB`` comes to; 0 where nothing is known."""
        if isinstance(self.bytes, int):
            return self.bytes
        text = re.search(r"(\d+(?:\.\d+)?) ?([kMGT])B", self.size)
        return int(float(text[1]) * 1000 ** (1 + "kMGT".index(text[2]))) if text else 0


class Licence(Facts):
    """The terms of a source. ``name`` becomes the manifest's ``licence`` column; ``terms`` is one sentence."""

    name: str
    commercial: Literal["yes", "no", "unknown"]
    terms: str
    url: str


class Paper(Facts):
    """What to cite."""

    citation: str
    url: str


class Imaging(Facts):
    """What the raw frames are: spectral band, pixels (before any transform), stored channels, bits, container."""

    modality: str
    band: Literal["LWIR", "unknown"]
    width: PositiveInt | Unknown
    height: PositiveInt | Unknown
    channels: PositiveInt | Unknown
    bit_depth: PositiveInt | Unknown
    container: str


class Layout(Facts):
    """Where the frames lie under RAW.

    ``roots``: accepted top folders, the first that exists wins; ``RAW/<source name>`` is always accepted too.
    ``frame_folders``: patterns under the root (fnmatch for each path part, ``**`` = any depth including none) of the
    folders that hold frames; the first pattern that matches a folder wins. ``sequence``: template over the parts that
    were matched by a wildcard other than ``**`` (``"{0}/{1}"``), or None. ``order`` of the frames inside a folder:
    integer stems, natural, or by name without regard to case (what a Windows directory listing gives).
    """

    roots: tuple[str, ...] = Field(min_length=1)
    frame_folders: tuple[str, ...] = Field(min_length=1)
    sequence: str | None
    order: Literal["integer", "natural", "name"]

    @model_validator(mode="after")
    def _sequence_fits(self) -> Self:
        for pattern in self.frame_folders:
            stars = sum(has_wildcard(part) for part in pattern.split("/"))
            if self.sequence is not None and f"{{{stars}}}" in self.sequence:
                raise ValueError(f"sequence {self.sequence!r} uses more parts than {pattern!r} has wildcards")
        return self


class Selection(Facts):
    """Which frames are taken: those whose file name matches no pattern of ``exclude`` (fnmatch), of these every
    ``stride``-th of a folder, then only those whose largest grey value is at least ``min_peak_grey`` (this filter never
    shifts the stride)."""

    split: str
    exclude: tuple[str, ...] = ()
    stride: PositiveInt = 1
    min_peak_grey: Annotated[int, Field(ge=0, le=255)] | None = None


class Transform(Facts):
    """What is done to a frame: ``crop_px`` pixels off each side, one grey channel mixed of all, or ``channel`` alone
    (1 = first as stored: red, green, blue, alpha), JPEG quality of the re-encoding."""

    crop_px: Annotated[int, Field(ge=0)] = 0
    grey: bool = False
    channel: Annotated[int, Field(ge=1, le=4)] | None = None
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _one_way_to_grey(self) -> Self:
        if self.grey and self.channel:
            raise ValueError("grey mixes the channels and channel takes one: give one of the two")
        return self


class Source(Facts):
    """One public data set: access, terms, layout, selection and the number of images that it should give."""

    name: Name
    title: str
    homepage: str
    paper: Paper
    access: Access
    archives: tuple[Archive, ...]
    licence: Licence
    imaging: Imaging
    sequences: PositiveInt | Unknown | None
    sequence_lengths: dict[str, tuple[PositiveInt, ...]] = {}
    layout: Layout
    selection: Selection
    transform: Transform
    naming: Literal["numbered", "stem"]
    expected_images: PositiveInt | Unknown
    arithmetic: str
    quirks: tuple[str, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _everything_is_attributed(self) -> Self:
        if missing := set(FACT_GROUPS) - set(self.provenance.facts):
            raise ValueError(f"provenance.facts lacks {', '.join(sorted(missing))}")
        told = {seen.path for seen in self.provenance.paths}
        if untold := set(self.layout.roots + self.layout.frame_folders) - told:
            raise ValueError(f"provenance.paths lacks {', '.join(sorted(untold))}")
        if unlisted := {name for host in self.access.hosts for name in host.files} - {a.name for a in self.archives}:
            raise ValueError(f"access.hosts name files that are not in archives: {', '.join(sorted(unlisted))}")
        return self

    @property
    def access_class(self) -> AccessClass:
        """``automatic``, ``semi-automatic`` or ``manual``."""
        return self.access.access_class

    @property
    def videos(self) -> dict[str, int]:
        """Frames of each video by its name (``set00/V000``), where they are published one by one."""
        return {
            f"{folder}/V{number:03d}": length
            for folder, lengths in self.sequence_lengths.items()
            for number, length in enumerate(lengths)
        }

    @property
    def size_text(self) -> str:
        """What the best host has to download, in decimal units as hosts print it (``224.1 GB``), or ``unknown``."""
        files = next((host.files for host in self.access.hosts if host.files), ())
        archives = [archive for archive in self.archives if archive.name in files]
        if len(archives) == 1:
            return archives[0].size
        exact = [archive.bytes for archive in archives if archive.bytes != "unknown"]
        return f"{sum(exact) / 1e9:.1f} GB" if exact and len(exact) == len(archives) else "unknown"

    @property
    def terms_text(self) -> str:
        """Licence name, whether commercial use is allowed, and the terms, in one line."""
        return f"{self.licence.name} (commercial use: {self.licence.commercial}). {self.licence.terms}"


class Corpus(Facts):
    """A named set of sources; ``sources`` maps each to its expected number of images, in the corpus's order.

    ``images`` is their sum, and ``unknown`` where one of them is.
    """

    name: Name
    title: str
    images: PositiveInt | Unknown
    sources: dict[str, PositiveInt | Unknown] = Field(min_length=1)

    @property
    def known_counts(self) -> dict[str, int]:
        """The sources whose number of images is known."""
        return {name: count for name, count in self.sources.items() if count != "unknown"}

    @model_validator(mode="after")
    def _sum(self) -> Self:
        total = sum(self.known_counts.values()) if len(self.known_counts) == len(self.sources) else "unknown"
        if total != self.images:
            raise ValueError(f"images is {self.images}, but the sources' counts sum to {total}")
        return self


FactsT = TypeVar("FactsT", bound=Facts)


def has_wildcard(part: str) -> bool:
    """Whether a part of a folder pattern matches several names of one level (``**`` is any depth, and no such part)."""
    return part != "**" and any(sign in part for sign in "*?[")


def load_source(name: str) -> Source:
    """The source called ``name``. Raises ``SourceError`` for an unknown name or a wrong file."""
    files = _manifest_files(Source)
    if name not in files:
        raise SourceError(_unknown_name("source", name, files))
    return _parse(Source, files[name])


def load_corpus(name_or_path: str | Path) -> Corpus:
    """A corpus by name, or from a user's own file (a path that ends in .yaml or .yml or contains a separator).

    Raises ``SourceError`` for an unknown name, an absent or wrong file, or a source that does not exist.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.lower().endswith((".yaml", ".yml")) or "/" in text or os.sep in text:
        corpus = _parse(Corpus, Path(name_or_path))
    else:
        files = _manifest_files(Corpus)
        if text not in files:
            raise SourceError(_unknown_name("corpus", text, files, hint="or give the path of your own .yaml file"))
        corpus = _parse(Corpus, files[text])
    for name in corpus.sources:
        if name not in (known := _manifest_files(Source)):
            raise SourceError(f"corpus {text}: " + _unknown_name("source", name, known))
    return corpus


def all_sources() -> list[Source]:
    """Every known source, by name."""
    return [_parse(Source, file) for _, file in sorted(_manifest_files(Source).items())]


def corpus_names() -> list[str]:
    """The names of the corpora that come with the project."""
    return sorted(_manifest_files(Corpus))


def _manifest_folder() -> Traversable:
    """``data_manifests`` beside the package in a checkout, else the installed copy."""
    checkout = Path(__file__).resolve().parents[1] / "data_manifests"
    return checkout if checkout.is_dir() else importlib.resources.files("msip_data_manifests")


@cache
def _other_folders() -> list[Traversable]:
    """The folders of packages that are registered as ``msip.sources``."""
    return [importlib.resources.files(package) for package in load_plugins("msip.sources", ModuleType).values()]


def _manifest_files(model: type[Facts]) -> dict[str, Traversable]:
    """Name (= stem) to file, of the sources or of the corpora; a corpus is a file with a ``sources`` key."""
    found: dict[str, Traversable] = {}
    files = (file for folder in (_manifest_folder(), *_other_folders()) for file in folder.iterdir())
    for file in (file for file in files if file.name.endswith(".yaml")):
        is_corpus = any(line.startswith("sources:") for line in file.read_text(encoding="utf-8").splitlines())
        if is_corpus == (model is Corpus):
            name = file.name.removesuffix(".yaml")
            if name in found:
                raise SourceError(f"{found[name]} and {file} describe one name; rename the file of your own package.")
            found[name] = file
    return found


def _parse(model: type[FactsT], file: Traversable) -> FactsT:
    """One YAML file as ``model``; every mistake in it in one ``SourceError``."""
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read {file}: {error.strerror}; give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise SourceError(f"{file}: found {_short(data)}, expected a mapping with the keys {_keys(model)}.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SourceError(f"{file}: {_explain(error, data)}.") from error


def _explain(error: ValidationError, data: dict[str, Any]) -> str:
    """All of pydantic's errors as ``key: found ..., expected ...``, one part for each key."""
    expected: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for item in error.errors():
        key = _key(item["loc"], data, missing=item["type"] == "missing")
        wanted = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        expected.setdefault(key, []).append(wanted[:1].lower() + wanted[1:])
        found[key] = item["type"] if item["type"] in ("missing", "value_error") else _short(item["input"])
    return "; ".join(_sentence(key, found[key], " or ".join(messages)) for key, messages in expected.items())


def _sentence(key: str, found: str, expected: str) -> str:
    prefix = f"{key}: " if key else ""
    if found == "missing":
        return f"{prefix}missing, expected this key"
    if found == "value_error":
        return prefix + expected
    if "not permitted" in expected:
        return f"{prefix}found an unknown key, expected no such key"
    return f"{prefix}found {found}, expected {expected}"


def _key(location: tuple[int | str, ...], data: Any, *, missing: bool) -> str:
    """The dotted path into ``data``; pydantic appends the tried member of a union, which is no key of the file."""
    parts: list[str] = []
    for part in location:
        children = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        if part not in children and not missing:
            break
        parts.append(str(part))
        data = children.get(part)
    return ".".join(parts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(model: type[Facts]) -> str:
    return ", ".join(field.alias or name for name, field in model.model_fields.items())


def _unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """``no source 'llvp'; did you mean llvip? Known: ...``."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ";"
    return f"no {kind} {name!r}{suggestion} known: {', '.join(names)}{'; ' + hint if hint else ''}."
