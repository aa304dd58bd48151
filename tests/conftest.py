"""Shared fixtures: where the real images and the reference numbers are, and what to do when they are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from msip.archives import rar_tool

ROOT = Path(__file__).resolve().parents[1]


def missing(what: str) -> None:
    """Skip with a reason; on CI a missing component is a failure, never a skip."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI needs {what}, which is not here")
    pytest.skip(f"needs {what}")


def shared_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default)).resolve()
    if not folder.is_dir():
        missing(f"the folder {folder} (set {variable})")
    return folder


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real infrared images."""
    return shared_folder("MSIP_REALDATA", "../shared/realdata")


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of inputs after public bug reports."""
    return shared_folder("MSIP_CASES", "../shared/cases")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the reference code's own numbers."""
    return shared_folder("MSIP_GOLDEN", "../shared/golden")


@pytest.fixture
def info_zip() -> None:
    """Info-ZIP's zip, which writes volumes."""
    if shutil.which("zip") is None:
        missing("Info-ZIP's zip")


@pytest.fixture
def unpacks_rar() -> None:
    """A tool that unpacks compressed RAR archives."""
    if rar_tool() is None:
        missing("bsdtar (libarchive-tools), unrar or 7zz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first: compiled graphs start autograd's threads, which no forked child can go on with."""
    items.sort(key=lambda item: item.get_closest_marker("forks") is None)
