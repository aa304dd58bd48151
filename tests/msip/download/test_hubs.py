"""Hugging Face and Kaggle: their own clients against servers on this machine that speak their HTTP API."""

import base64
import contextlib
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from typing import ClassVar

import pytest
from download_bytes import DATA, PATIENCE

from msip.download import hosts
from msip.download.job import download
from msip.download.terms import accept_terms
from msip.errors import MissingExtra
from msip.sources import load_source

SHA256 = hashlib.sha256(DATA).hexdigest()


@contextlib.contextmanager
def serving(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Storage(Quiet):
    """Where the Hub sends clients for large files: another host, which must never see the token."""

    seen: ClassVar[list] = []

    def do_GET(self):
        self.seen.append(dict(self.headers))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        span = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
        self.answer(206 if start else 200, {"ETag": f'"{SHA256}"', **span}, DATA[start:])


class Hub(Quiet):
    """``/datasets/<repository>/resolve/main/<file>`` as huggingface.co answers it."""

    mode, storage, sha256 = "open", "", SHA256
    asked: ClassVar[list] = []

    def do_HEAD(self):
        self.asked.append((self.command, self.path, self.headers.get("Authorization")))
        token = self.headers.get("Authorization")
        if self.mode == "gated" and token != "Bearer hf_good":
            message = "Access to dataset McCheng/DroneVehicle is restricted."
            status = 403 if token else 401
            return self.answer(status, {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        if self.mode == "gone":
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        if self.mode == "private":
            return self.answer(401, {"X-Error-Message": "Invalid username or password."})
        return self.answer(
            302,
            {
                "Location": f"{self.storage}/blob",
                "X-Repo-Commit": "0" * 40,
                "X-Linked-Size": len(DATA),
                "X-Linked-ETag": f'"{self.sha256}"',
            },
        )

    do_GET = do_HEAD


@pytest.fixture
def hub(tmp_path):
    Hub.mode, Hub.sha256, Hub.asked[:], Storage.seen[:] = "open", SHA256, [], []
    with serving(Storage) as storage, serving(Hub) as address:
        Hub.storage = storage.replace("127.0.0.1", "localhost")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        yield environment | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}


# With room for the sizes that the sources' pages name, whatever this machine has.
_MSIP = """
import msip.download.job
from msip_cli.main import main
msip.download.job.free_bytes = lambda path: 1 << 50
main()
"""


def run(environment, *arguments, **more):
    """``msip`` as a person runs it, with the Hub's real client."""
    program = [sys.executable, "-c", _MSIP, *map(str, arguments)]
    return subprocess.run(program, env=environment | more, capture_output=True, text=True, check=False)


def test_from_the_hub_with_its_checksum(hub, tmp_path):
    command = ("download", "dronevehicle", "--raw", tmp_path / "raw", "--accept-terms", "--json")
    done = run(hub, *command)
    outcome = json.loads(done.stdout)[0]
    assert done.returncode == 1 and outcome["status"] == "incomplete" and outcome["frames"] == 5, done.stderr
    record = outcome["files"]["train.zip"]
    assert record["checked"] == ["bytes", "sha256"] and record["sha256"] == SHA256
    asked = [call for call in Hub.asked if call[1].startswith("/datasets")]
    assert [call[0] for call in asked] == ["HEAD", "GET"] and asked[0][1].endswith(
        "DroneVehicle/resolve/main/train.zip"
    )
    assert all(token is None for _, _, token in Hub.asked)
    Hub.asked[:] = []
    assert json.loads(run(hub, *command).stdout)[0]["frames"] == 5 and not Hub.asked


def test_a_set_that_wants_a_token(hub, tmp_path):
    Hub.mode = "gated"
    command = ("download", "dronevehicle", "--raw", tmp_path / "raw", "--accept-terms")
    for token, words in (({}, "no token was found (HF_TOKEN"), ({"HF_TOKEN": "hf_bad"}, "your token was refused")):
        done = run(hub, *command, **token)
        assert done.returncode == 1 and words in done.stdout and "accepted its terms" in done.stdout, done.stderr
        assert "hf_bad" not in done.stdout + done.stderr and not list(tmp_path.rglob("*.zip*"))
    done = run(hub, *command, HF_TOKEN="hf_good")
    assert "incomplete" in done.stdout and list((tmp_path / "raw").rglob("train.zip"))
    assert ("GET", "/datasets/McCheng/DroneVehicle/resolve/main/train.zip", "Bearer hf_good") in Hub.asked
    assert len(Storage.seen) == 1 and not any("hf_good" in str(headers) for headers in Storage.seen)
    record = json.loads(next((tmp_path / "raw/.msip/sources").iterdir()).read_text())
    assert "hf_good" not in json.dumps(record)


@pytest.mark.parametrize(("mode", "words"), [("gone", "it is not there (404)"), ("private", "not public (401)")])
def test_what_the_hub_does_not_give(hub, tmp_path, mode, words):
    Hub.mode = mode
    done = run(hub, "download", "dronevehicle", "--raw", tmp_path / "raw", "--accept-terms")
    assert done.returncode == 1 and words in done.stdout and "ngar" in done.stdout  # and what to do by hand
    assert "Traceback" not in done.stderr


def test_a_wrong_checksum_and_a_hub_that_is_not_there(hub, tmp_path):
    Hub.sha256 = "0" * 64
    done = run(hub, "download", "dronevehicle", "--raw", tmp_path / "raw", "--accept-terms")
    assert "wrong sha256" in done.stdout and not list((tmp_path / "raw").rglob("*.zip*"))
    done = run(hub, "download", "dronevehicle", "--raw", tmp_path / "raw", HF_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 1 and "the Hub does not answer" in done.stdout and "Traceback" not in done.stderr


class Kaggle(Quiet):
    """The two calls of kagglehub's data sets: which version there is, and its archive."""

    asked: ClassVar[list] = []
    archive = b""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.headers.get("Authorization") != "Bearer KGAT_good":
            return self.answer(401, {"Content-Type": "application/json"}, b'{"code":401,"message":"Unauthenticated"}')
        if self.path.endswith("/GetDataset"):
            answer = {"ref": "someone/thermal", "currentVersionNumber": 3}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())
        md5 = base64.b64encode(hashlib.md5(self.archive).digest()).decode()
        return self.answer(200, {"X-Goog-Hash": f"md5={md5}", "Content-Type": "application/zip"}, self.archive)

    do_GET = do_POST


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    from kagglesdk import kaggle_env

    Kaggle.asked[:] = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for index in range(1, 4):
            for folder in ("infrared", "visible"):
                file.writestr(f"LLVIP/{folder}/train/01000{index}.jpg", b"\xff\xd8\xff" + bytes([index]))
    Kaggle.archive = buffer.getvalue()
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = load_source("llvip")
    host = source.access.hosts[0].model_copy(update={"kind": "kaggle", "id": "someone/thermal", "files": ()})
    source = source.model_copy(update={"access": source.access.model_copy(update={"hosts": (host,)})})
    accept_terms(tmp_path / "raw", [source])
    with serving(Kaggle) as address:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
        yield source


def test_kaggle_without_and_with_a_wrong_token(kaggle, tmp_path, monkeypatch):
    outcome = download([kaggle], tmp_path / "raw", policy=PATIENCE)[0]
    assert outcome.status == "failed" and "needs a token" in outcome.note and not Kaggle.asked
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_bad")
    outcome = download([kaggle], tmp_path / "raw", policy=PATIENCE)[0]
    assert outcome.status == "failed" and "Kaggle refused" in outcome.note and Kaggle.asked
    assert "KGAT_bad" not in outcome.note


def test_from_kaggle_only_the_infrared_frames_enter_the_tree(kaggle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_good")
    raw = tmp_path / "raw"
    outcome = download([kaggle], raw, policy=PATIENCE)[0]
    assert outcome.status == "incomplete" and outcome.frames == 3, outcome.note
    assert sorted(path.name for path in (raw / "llvip").rglob("*.jpg")) == [f"01000{n}.jpg" for n in (1, 2, 3)]
    assert outcome.files["someone/thermal"]["files"] == 6 and capsys.readouterr().out == ""
    asked = len(Kaggle.asked)
    assert download([kaggle], raw, policy=PATIENCE)[0].frames == 3 and len(Kaggle.asked) == asked


def test_kaggle_killed_while_it_unpacked(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_good")
    half = tmp_path / "raw/archives/llvip/kaggle/LLVIP/infrared/train"
    half.mkdir(parents=True)
    (half / "010001.jpg").write_bytes(b"half")
    assert download([kaggle], tmp_path / "raw", policy=PATIENCE)[0].frames == 3
    assert all(path.read_bytes() != b"half" for path in tmp_path.rglob("*.jpg"))


def test_without_kagglehub(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_good")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtra, match=r"kagglehub is not installed.*pip install 'msip-pad\[kaggle\]'"):
        hosts.kaggle(kaggle.access.hosts[0], tmp_path / "to")
