"""From a host of a source to the files it serves: addresses, sizes and checksums, asked of the host itself."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from msip.download.transfer import Remote, refuse_page
from msip.errors import DownloadError
from msip.extras import need
from msip.sources import Archive, Host, Source

AUTOMATIC = ("huggingface", "google_drive_file", "google_drive_folder", "http", "kaggle")
"""Kinds of hosts that this program can fetch from; the others need a person."""

_DRIVE = "https://drive.google.com"
_REFUSALS = {401: "it is not there, or not public (401)", 403: "access is refused (403)", 404: "it is not there (404)"}
_LINK = re.compile(r'<a[^>]+href="([^"]+)"[^>]*>(.*?)</a>', re.DOTALL)


def remotes(source: Source, host: Host) -> list[Remote]:
    """The files of ``source`` on ``host``. Raises ``DownloadError`` where the host does not tell."""
    import requests

    published = {archive.name: archive for archive in source.archives}
    try:
        if host.kind == "huggingface":
            return [_hub(str(host.id), name, published.get(name)) for name in host.files]
        if host.kind == "google_drive_file":
            name = host.files[0] if host.files else str(host.id)
            return [_drive(str(host.id), name, published.get(name), host.resource_key)]
        if host.kind == "google_drive_folder":
            listed = _drive_folder(str(host.id), host.resource_key)
            return [
                _drive(number, name, published.get(name), key)
                for number, name, key in listed
                if not host.files or name in host.files
            ]
        name = host.files[0] if host.files else Path(urlsplit(str(host.url)).path).name
        return [_known(str(host.url), name, published.get(name))]
    except requests.RequestException as error:
        raise DownloadError(f"{host.id or host.url}: the host does not answer ({type(error).__name__}).") from error


def _known(url: str, name: str, archive: Archive | None, headers: dict[str, str] | None = None) -> Remote:
    """What a page or a third party says is checked; it is only binding where it is sure."""
    size = archive.bytes if archive and isinstance(archive.bytes, int) else None
    md5 = archive.md5 if archive and archive.md5 != "unknown" else None
    sure = archive is None or archive.confidence == "high"
    return Remote(url, name, size, md5, sure=sure, headers=headers or {})


def _hub(repository: str, name: str, archive: Archive | None) -> Remote:
    """The Hub's own answer: size, and SHA-256 for large files."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repository, name, repo_type="dataset")
    headers = {key: value for key, value in build_hf_headers().items() if key.lower() == "authorization"}
    try:
        metadata = get_hf_file_metadata(url)
    except GatedRepoError as error:
        found = "your token was refused" if headers else "no token was found (HF_TOKEN, or `hf auth login`)"
        raise DownloadError(
            f"{name}: https://huggingface.co/datasets/{repository} gives files only to accounts that have accepted its "
            f"terms on that page; {found}."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        why = "your token (HF_TOKEN) was refused" if status == 401 and headers else _REFUSALS.get(status, str(status))
        raise DownloadError(f"{name}: the Hub does not give it from {repository}: {why}.") from error
    except Exception as error:  # its HTTP library's own errors, which are no OSError
        raise DownloadError(f"{name}: the Hub does not answer ({type(error).__name__}).") from error
    etag = (metadata.etag or "").strip('"')
    sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
    size = metadata.size or (_known(url, name, archive).size if archive else None)
    return Remote(url, name, size, None, sha256, headers=headers)


def _drive(number: str, name: str, archive: Archive | None, key: str | None) -> Remote:
    url = f"{_DRIVE}/uc?export=download&id={number}" + (f"&resourcekey={key}" if key else "")
    return replace(_known(url, name, archive), resolve=lambda: _confirmed(url, name))


def _confirmed(url: str, name: str) -> str:
    """The address behind Google Drive's "cannot scan for viruses" page, which gdown reads."""
    import requests
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError

    with requests.get(url, stream=True, timeout=60, headers={"User-Agent": "msip"}) as response:
        if response.status_code == 404:
            raise DownloadError(f"{name}: it is not there (404); the Google Drive link is dead.")
        if "text/html" not in response.headers.get("Content-Type", ""):
            return url
        page = response.text
    try:
        return str(get_url_from_gdrive_confirmation(page))
    except FileURLRetrievalError:
        refuse_page(name, page.encode())


def _drive_folder(
    number: str, key: str | None, below: str = "", depth: int = 0
) -> Iterator[tuple[str, str, str | None]]:
    """(id, path, resource key) of all files of a shared folder; gdown's own listing cannot pass a resource key."""
    import requests

    params = {"id": number} | ({"resourcekey": key} if key else {})
    response = requests.get(f"{_DRIVE}/embeddedfolderview", params=params, timeout=60)
    if response.status_code != 200 or depth > 5:
        raise DownloadError(f"the Google Drive folder {number} cannot be listed ({response.status_code}).")
    links = _LINK.findall(response.text)
    if not links and not depth:
        refuse_page(f"the Google Drive folder {number}", response.content)
    for link, text in links:
        address = link.replace("&amp;", "&")
        name = re.sub(r"<[^>]+>", "", text).strip().replace("/", "_").lstrip(".") or "unnamed"
        own = parse_qs(urlsplit(address).query).get("resourcekey", [None])[0]
        if match := re.search(r"/file/d/([-\w]+)", address):
            yield match[1], below + name, own
        elif match := re.search(r"/folders/([-\w]+)", address):
            yield from _drive_folder(match[1], own, f"{below}{name}/", depth + 1)


def kaggle_token() -> bool:
    """Whether the person has a token; none is ever asked for."""
    if os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")):
        return True
    return any((Path.home() / ".kaggle" / name).is_file() for name in ("kaggle.json", "access_token"))


def kaggle(host: Host, to: Path) -> dict[str, Any]:
    """Bring a Kaggle data set to the folder ``to``, unpacked by kagglehub. Returns what is recorded of it.

    Raises ``DownloadError`` without a token and where Kaggle refuses, ``MissingExtra`` without the package.
    """
    if not kaggle_token():
        raise DownloadError(f"{host.id} is on Kaggle and needs a token (~/.kaggle/kaggle.json or KAGGLE_API_TOKEN).")
    need("kaggle")
    import kagglehub

    logging.getLogger("kagglehub").setLevel(logging.WARNING)  # it would write to standard output
    try:
        try:
            kagglehub.dataset_download(host.id, output_dir=str(to))
        except FileExistsError:  # an earlier call was killed while it unpacked
            kagglehub.dataset_download(host.id, output_dir=str(to), force_download=True)
    except Exception as error:  # kagglehub raises its own and requests' errors
        raise DownloadError(f"{host.id}: Kaggle refused ({' '.join(str(error).split())[:150]}).") from error
    ours = to / ".complete"  # kagglehub's own notes
    files = [path for path in to.rglob("*") if path.is_file() and ours not in path.parents]
    return {str(host.id): {"bytes": sum(path.stat().st_size for path in files), "files": len(files), "checked": []}}
