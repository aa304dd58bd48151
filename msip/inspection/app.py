"""The App: served until interrupted, at an address that is said once it answers."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
import urllib.request
from typing import Any

from msip.errors import InspectionError
from msip.inspection.app_style import WORKSPACE

_START_S = 120


def check_port(address: str, port: int) -> None:
    """Raise ``InspectionError`` if ``address:port`` is taken: FiftyOne would attach to a stranger there."""
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        if isinstance(error, socket.gaierror) or "assign" in (error.strerror or ""):
            raise InspectionError(
                f"{address} is no address of this machine; give the `address` 127.0.0.1, or 0.0.0.0 for every network."
            ) from error
        raise InspectionError(
            f"port {port} at {address} is in use ({error.strerror or error}); choose another `port`."
        ) from error


def launch(dataset: Any, *, address: str, port: int, remote: bool) -> Any:
    """Start the App on a dataset and wait until it answers.

    Args:
        dataset: what to show first.
        address, port: where it listens.
        remote: open no browser here.

    Returns:
        The ``fiftyone.Session``.

    Raises:
        InspectionError: the port is taken, or the App does not answer.
    """
    import fiftyone

    check_port(address, port)
    space = dataset.load_workspace(WORKSPACE)
    session = fiftyone.launch_app(
        dataset, remote=remote, address=address, port=port, spaces=space, auto=False, browser=None
    )
    _wait_for(f"http://{_local(address)}:{port}/fiftyone")
    if not remote:
        session.open_tab()
    return session


def _local(address: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, address)


def _wait_for(url: str) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise InspectionError(
        f"the App does not answer at {url} after {_START_S} s; look for errors above, or change `port`."
    )


def ssh_line(port: int) -> str:
    """What to type on one's own machine to see an App that runs on this one."""
    return f"ssh -N -L {port}:127.0.0.1:{port} {socket.gethostname()}"
