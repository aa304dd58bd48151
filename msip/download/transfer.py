"""One file over HTTP(S): resumed by Range, retried, checked, and under its final name only when it is whole."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from msip.archives import sniff
from msip.errors import DownloadError
from msip.files import atomic_path, sync_file, write_errors, write_json
from msip.progress import Progress

if TYPE_CHECKING:
    import requests

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_QUOTA = re.compile(rb"too many users|quota exceeded|download quota|exceeded the (?:number|rate)", re.IGNORECASE)


@dataclass(frozen=True)
class Policy:
    """How patient a transfer is: tries without progress, seconds between them, silence, and the least bytes/s."""

    attempts: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 120.0
    timeout_s: float = 60.0
    slow_bytes_per_s: float = 1000.0
    slow_window_s: float = 60.0


@dataclass(frozen=True)
class Remote:
    """A file to fetch; ``size``, ``md5`` and ``sha256`` where they are known; ``sure`` where a mismatch is an error.

    ``resolve`` finds the address that serves the bytes, asked anew for every try: such addresses do not live long.
    """

    url: str
    name: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    sure: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    resolve: Callable[[], str] | None = None


class _TryAgain(Exception):
    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def fetch_file(
    remote: Remote, target: Path, policy: Policy, progress: Progress, pause: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Bring ``remote`` to ``target``; what has arrived lies in ``<target>.part`` until it is whole and checked.

    Returns what is recorded about it: url, bytes, sha256, and how it was checked. Raises ``DownloadError``,
    ``OutputError``.
    """
    part = target.with_name(target.name + ".part")
    with write_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    failures, size = 0, part.stat().st_size if part.exists() else 0
    progress("download", size, remote.size or 0)
    while True:
        try:
            _attempt(remote, part, policy, progress)
            break
        except _TryAgain as error:
            now = part.stat().st_size if part.exists() else 0
            failures = 0 if now >= size + (1 << 20) else failures + 1
            size = now
            if failures >= policy.attempts:
                raise DownloadError(
                    f"{remote.name}: {error} ({failures} tries); {now:,} bytes are kept, run the same command again."
                ) from error
            wait = policy.backoff_s * 2**failures * random.uniform(0.5, 1.0) if error.wait_s is None else error.wait_s
            pause(min(wait, policy.longest_wait_s))
    record = _checked(remote, part)
    with write_errors(target):
        sync_file(part)
        part.replace(target)
    _state(part).unlink(missing_ok=True)
    return record


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _attempt(remote: Remote, part: Path, policy: Policy, progress: Progress) -> None:
    import requests

    have = part.stat().st_size if part.exists() else 0
    known = json.loads(_state(part).read_text()) if have and _state(part).exists() else {}
    headers = {"Accept-Encoding": "identity", "User-Agent": "msip"} | remote.headers
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        url = remote.resolve() if remote.resolve else remote.url
        with requests.get(url, headers=headers, stream=True, timeout=policy.timeout_s) as response:
            total = _opening(remote, response, part, have, known, progress)
            if total is not None and have == total:
                return
            _receive(remote, response, part, total, policy, progress)
    except requests.TooManyRedirects as error:
        raise DownloadError(f"{remote.name}: the server redirects in a circle ({remote.url}).") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.SSLError) as error:
        raise DownloadError(f"{remote.name}: {remote.url} cannot be used: {error}.") from error
    except (requests.RequestException, ConnectionError, TimeoutError) as error:
        raise _TryAgain(f"the connection broke ({type(error).__name__})") from error


def _opening(
    remote: Remote, response: requests.Response, part: Path, have: int, known: dict[str, Any], progress: Progress
) -> int | None:
    """Judge the status and headers; start again where the server cannot or must not resume. Returns the total size."""
    if response.status_code in _TRANSIENT:
        after = response.headers.get("Retry-After", "")
        raise _TryAgain(f"the server is busy ({response.status_code})", float(after) if after.isdigit() else None)
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    resumed = response.status_code == 206 and span is not None and int(span[1]) == have
    size = int(span[2]) if span else None
    changed = bool(known) and (known["validator"] != validator or size not in (None, known["total"] or size))
    if response.status_code == 416 or (have and response.status_code == 206 and (not resumed or changed)):
        _restart(remote, part, have, progress)
        raise _TryAgain("the server could not go on where the transfer broke", 0.0)
    if response.status_code not in (200, 206):
        raise DownloadError(f"{remote.name}: {_refusal(response.status_code)} ({remote.url}).")
    length = response.headers.get("Content-Length", "")
    total = int(span[2]) if span and resumed else int(length) if length.isdigit() else None
    _refuse_page(remote, response)
    if total is not None and remote.size is not None and total != remote.size and remote.sure:
        raise DownloadError(
            f"{remote.name}: the server offers {total:,} bytes, {remote.size:,} were published; it is another file."
        )
    if not resumed:
        _restart(remote, part, have, progress)
    progress("download", 0, remote.size or total or 0)
    write_json(_state(part), {"validator": validator, "total": total, "url": remote.url})
    return total


def _refusal(status: int) -> str:
    known = {
        401: "the server wants a login (401)",
        403: "access is refused (403): a login, accepted terms, or a download quota may be the reason",
        404: "it is not there (404); the link is dead",
        410: "it is gone (410); the link is dead",
    }
    return known.get(status, f"the server answers {status}")


def _refuse_page(remote: Remote, response: requests.Response) -> None:
    """A web page where an archive should be."""
    if "text/html" not in response.headers.get("Content-Type", ""):
        return
    refuse_page(remote.name, response.raw.read(1 << 16, decode_content=True))


def refuse_page(name: str, page: bytes) -> NoReturn:
    """Say which page came instead of a file. Raises ``DownloadError``."""
    title = re.search(rb"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    shown = " ".join(title[1].decode("utf-8", "replace").split())[:80] if title else "no title"
    if _QUOTA.search(page):
        raise DownloadError(
            f"{name}: the host's download quota for this file is used up (it sent the page {shown!r}); try again in a "
            "day, or fetch it with a browser."
        )
    raise DownloadError(f"{name}: a web page came instead of the file ({shown!r}); open the link in a browser.")


def _restart(remote: Remote, part: Path, have: int, progress: Progress) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)
    progress("download", -have, remote.size or 0)


def _receive(
    remote: Remote, response: requests.Response, part: Path, total: int | None, policy: Policy, progress: Progress
) -> None:
    window, gained = time.monotonic(), 0
    with write_errors(part), part.open("ab") as file:
        while True:
            try:
                # read1-like: what is there, not a full megabyte of a slow drip
                chunk = response.raw.read1(1 << 20)
            except Exception as error:  # urllib3's own tree as well: a broken or incomplete read
                raise _TryAgain(f"the connection broke ({type(error).__name__})") from error
            if not chunk:
                break
            file.write(chunk)
            progress("download", len(chunk), remote.size or total or 0)
            gained += len(chunk)
            if (passed := time.monotonic() - window) > policy.slow_window_s:
                if gained < policy.slow_bytes_per_s * passed:
                    raise _TryAgain(f"it came at only {gained / passed:.0f} bytes a second")
                window, gained = time.monotonic(), 0
    if total is not None and part.stat().st_size < total:
        raise _TryAgain(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


def hashes(path: Path) -> dict[str, str]:
    """MD5 (which hosts publish) and SHA-256 (which is recorded) of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            md5.update(chunk)
            sha256.update(chunk)
    return {"md5": md5.hexdigest(), "sha256": sha256.hexdigest()}


def _checked(remote: Remote, part: Path) -> dict[str, Any]:
    """Compare with what is known; a file that is surely wrong is removed."""
    record: dict[str, Any] = {"url": remote.url, "bytes": part.stat().st_size, **hashes(part), "checked": []}
    for what, expected in (("bytes", remote.size), ("md5", remote.md5), ("sha256", remote.sha256)):
        if expected is None:
            continue
        if record[what] == expected:
            record["checked"].append(what)
        elif remote.sure:
            part.unlink()
            _state(part).unlink(missing_ok=True)
            raise DownloadError(
                f"{remote.name}: wrong {what}: found {record[what]}, expected {expected}; what came was "
                "removed, run the same command again."
            )
        else:
            record.setdefault("differs", []).append(what)
    if remote.name.lower().endswith((".zip", ".7z", ".rar", ".gz", ".xz", ".zst", ".tar")) and sniff(part) is None:
        head = part.read_bytes()[: 1 << 16] if part.stat().st_size < 1 << 20 else b""
        if b"<html" in head.lower():
            part.unlink()
            _state(part).unlink(missing_ok=True)
            refuse_page(remote.name, head)
    return record


def place(path: Path, target: Path) -> None:
    """Copy a finished file to ``target``, whole or not at all."""
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
