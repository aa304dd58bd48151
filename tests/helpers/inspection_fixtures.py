"""A database of one's own for the tests of ``msip inspect``: nobody's real FiftyOne data is ever touched."""

import os
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import missing


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mongod_file():
    file = Path(find_spec("fiftyone").origin).parent / "db" / "bin" / "mongod"
    if not file.is_file():
        missing(f"FiftyOne's mongod at {file} (make test brings it)")
    return file


def start_mongod(folder, port):
    command = [mongod_file(), "--dbpath", folder, "--port", port, "--bind_ip", "127.0.0.1", "--nounixsocket"]
    command += ["--wiredTigerCacheSizeGB", "0.5", "--logpath", folder / "mongod.log"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError("mongod does not start: " + (folder / "mongod.log").read_text()[-500:])


@pytest.fixture(scope="session")
def database_server(tmp_path_factory):
    """Environment variables of a server that only these tests use."""
    folder, port = tmp_path_factory.mktemp("mongod"), free_port()
    process = start_mongod(folder, port)
    names = {"FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}", "FIFTYONE_DATABASE_NAME": "msip_tests"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    yield names
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def fiftyone(database_server):
    from msip.inspection.database import connect

    return connect()
