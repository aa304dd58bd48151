"""A faulty server: the right message, nothing corrupt under its final name, and the next run completes."""

import errno
import hashlib
import http.server
import io
import json
import random
import signal
import threading
import time
import zipfile
from pathlib import Path

import pytest
from download_bytes import DATA, PATIENCE

import msip.download.hosts as hosts_module
from msip import build
from msip.download.job import download, members_of
from msip.download.shelf import same_name
from msip.download.terms import accept_terms, accepted_terms
from msip.download.transfer import Policy, Remote, fetch_file
from msip.errors import DownloadError, OutputError
from msip.progress import silent
from msip.sources import load_source


class Faulty(http.server.BaseHTTPRequestHandler):
    fault, requests = "", 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind = type(self)
        kind.requests += 1
        if kind.fault == "redirect":
            return self.start(302, {"Location": self.path})
        if kind.fault in ("429", "503", "404"):
            return self.start(int(kind.fault), {"Retry-After": "0", "Content-Length": "0"})
        if kind.fault in ("quota", "html"):
            words = "Too many users have viewed this file" if kind.fault == "quota" else "Please log in"
            page = f"<html><title>{words}</title></html>".encode()
            self.start(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": len(page)})
            return self.wfile.write(page)
        spread = self.headers.get("Range") if kind.fault != "no range" else None
        start = int(spread[6:-1]) if spread else 0
        data = DATA if kind.fault != "wrong bytes" else bytes(len(DATA))
        if start >= len(data):
            return self.start(416, {"Content-Length": "0"})
        headers = {"Content-Length": len(data) - start, "ETag": '"one"', "Content-Type": "application/zip"}
        if spread:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if kind.fault == "no length":  # and the connection ends too early: nobody can tell
            del headers["Content-Length"]
            data = data[:-20_000]
        self.start(206 if spread else 200, headers)
        if kind.fault in ("drop", "drop once"):
            data = data[: start + 20_000]
            kind.fault = "no range" if kind.fault == "drop once" else kind.fault
        elif kind.fault == "drip":
            for byte in data[start : start + 100]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.02)
            return None
        return self.wfile.write(data[start:])

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """A disk with room for the sizes that the sources' pages name, whatever this machine has."""
    monkeypatch.setattr("msip.download.job.free_bytes", lambda path: 1 << 50)


@pytest.fixture
def server():
    Faulty.fault, Faulty.requests = "", 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/train.zip"
        running.shutdown()


def get(url, target, progress=silent, **facts):
    return fetch_file(Remote(url, "train.zip", **facts), target, PATIENCE, progress)


FAULTS = {
    "drop": ("ended|broke", {}),
    "429": ("busy", {}),
    "503": ("busy", {}),
    "404": ("link is dead", {}),
    "quota": ("quota", {}),
    "html": ("web page.*Please log in", {}),
    "drip": ("bytes a second|broke", {}),
    "redirect": ("circle", {}),
    "wrong bytes": ("wrong sha256", {"sha256": hashlib.sha256(DATA).hexdigest()}),
    "length": ("were published", {"size": len(DATA) + 1}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message_and_the_next_run_completes(fault, server, tmp_path):
    words, facts = FAULTS[fault]
    Faulty.fault = fault
    with pytest.raises(DownloadError, match=words) as caught:
        get(server, tmp_path / "train.zip", **facts)
    assert "train.zip" in str(caught.value) and not (tmp_path / "train.zip").exists()
    Faulty.fault = ""
    calls = []
    record = get(server, tmp_path / "train.zip", lambda *call: calls.append(call))
    stages, gained, totals = zip(*calls, strict=True)
    assert (tmp_path / "train.zip").read_bytes() == DATA and sum(gained) == totals[-1] == len(DATA)
    assert set(stages) == {"download"} and record["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["train.zip"]


def test_a_server_without_range_starts_again(server, tmp_path):
    Faulty.fault = "drop once"
    get(server, tmp_path / "train.zip")
    assert (tmp_path / "train.zip").read_bytes() == DATA and Faulty.requests == 2


def test_half_an_archive_that_nobody_could_check_does_not_keep_its_name(server, tmp_path):
    Faulty.fault = "no length"
    source = over_http(server)
    accept_terms(tmp_path, [source])
    outcome = download([source], tmp_path, policy=PATIENCE)[0]
    assert outcome.status == "failed" and "train.zip cannot be read" in outcome.note
    assert "train.zip came without a checksum and was removed" in outcome.note
    assert not list((tmp_path / "archives/dronevehicle").iterdir())
    Faulty.fault = ""
    assert download([source], tmp_path, policy=PATIENCE)[0].frames == 5


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    real, left = Path.open, [30_000]

    class Full(io.FileIO):
        def write(self, data):
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def opened(self, mode="r", *rest, **more):
        return Full(str(self), "a") if mode == "ab" else real(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OutputError, match="disk is full"):
        get(server, tmp_path / "train.zip")
    monkeypatch.undo()
    get(server, tmp_path / "train.zip")
    assert (tmp_path / "train.zip").read_bytes() == DATA


def over_http(url):
    source = load_source("dronevehicle")
    host = source.access.hosts[0].model_copy(update={"kind": "http", "url": url})
    return source.model_copy(update={"access": source.access.model_copy(update={"hosts": (host,)})})


def test_from_hosts_to_a_build_and_terms_in_it(server, tmp_path):
    raw = tmp_path / "raw"
    sources = [
        over_http(server),
        load_source("lsotb_tir"),
        over_http("http://127.0.0.1:1/x.zip").model_copy(update={"name": "llvip"}),
    ]
    with pytest.raises(DownloadError, match="not accepted"):
        download(sources, raw, policy=PATIENCE)
    assert [one.status for one in download(sources, raw, dry_run=True)] == ["planned", "manual", "planned"]
    assert not raw.exists()
    accept_terms(raw, sources)
    outcomes = {one.source: one for one in download(sources, raw, policy=PATIENCE)}
    assert [one.status for one in outcomes.values()] == ["incomplete", "manual", "failed"]
    assert outcomes["dronevehicle"].frames == 5 and "5 of 17,990" in outcomes["dronevehicle"].note
    assert "broke" in outcomes["llvip"].note
    assert "dr3i" in outcomes["lsotb_tir"].note and "archives/lsotb_tir" in outcomes["lsotb_tir"].note
    assert not list(raw.rglob("*trainimg/*"))
    before = Faulty.requests
    assert download(sources[:1], raw, policy=PATIENCE)[0].status == "incomplete" and Faulty.requests == before
    build(raw, tmp_path / "out", sources=["dronevehicle"], with_rois=False)
    record = json.loads((tmp_path / "out/build.json").read_text())["sources"]["dronevehicle"]
    assert record["images"] == 5 and record["terms"] == accepted_terms(raw)["dronevehicle"]


def test_files_placed_by_hand_under_a_browsers_name(tmp_path):
    source = over_http("http://127.0.0.1:1/x.zip")
    (tmp_path / "archives/dronevehicle").mkdir(parents=True)
    (tmp_path / "archives/dronevehicle/train (1).zip").write_bytes(DATA)
    accept_terms(tmp_path, [source])
    outcome = download([source], tmp_path, policy=PATIENCE)[0]
    assert outcome.frames == 5 and outcome.files["train.zip"]["placed"]
    assert outcome.files["train.zip"]["sha256"] == hashlib.sha256(DATA).hexdigest()


def parts_of_lsotb(raw, numbers, spell):
    folder = raw / "archives/lsotb_tir"
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        with zipfile.ZipFile(folder / spell(f"LSOTB-TIR_TrainingData_part{number}.zip"), "w") as file:
            for frame in range(1, 12):
                name = f"any/LSOTB-TIR_TrainingData/TrainingData/TIR_training_001/cat_{number}/{frame:08d}.jpg"
                file.writestr(name, b"\xff\xd8\xff picture")


def test_parts_that_come_one_after_the_other(tmp_path):
    source = load_source("lsotb_tir")
    parts_of_lsotb(tmp_path, (1, 2, 4), lambda name: f"Copy of {name}")
    accept_terms(tmp_path, [source])
    first = download([source], tmp_path)[0]
    assert first.status == "incomplete" and first.frames == 3 * 2
    assert "3 of 5" in first.note and "part3, LSOTB-TIR_TrainingData_part5" in first.note
    parts_of_lsotb(tmp_path, (3, 5), lambda name: name.replace(".zip", " (1).zip"))
    second = download([source], tmp_path)[0]
    assert second.frames == 5 * 2 and len(second.files) == 5 and "missing" not in second.note
    for path in (tmp_path / "archives/lsotb_tir").iterdir():
        path.unlink()
    assert download([source], tmp_path)[0].frames == 5 * 2


def test_a_set_by_hand_that_lacks_parts_does_not_start_224_gigabytes(tmp_path):
    source = load_source("lasher")
    (tmp_path / "archives/lasher").mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / f"archives/lasher/LasHeR.z{number:02d}").write_bytes(b"PK\x07\x08 volume")
    accept_terms(tmp_path, [source])
    outcome = download([source], tmp_path, policy=PATIENCE)[0]
    assert outcome.status == "manual" and "missing: LasHeR.z03" in outcome.note and "LasHeR.zip" in outcome.note


def test_a_file_placed_by_hand_is_taken_where_the_host_has_the_same(server, tmp_path):
    from msip.download.shelf import adopted

    target = tmp_path / "train.zip"
    (tmp_path / "train(2).zip").write_bytes(DATA)
    right = hashlib.sha256(DATA).hexdigest()
    assert adopted(Remote(server, "train.zip", len(DATA), sha256="0" * 64), target) is None
    assert adopted(Remote(server, "train.zip", len(DATA) + 1), target) is None
    assert adopted(Remote(server, "train.zip", len(DATA), sha256=right), target)["checked"] == ["bytes", "sha256"]
    assert target.read_bytes() == DATA


def test_no_room_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch):
    source = over_http(server)
    accept_terms(tmp_path, [source])
    monkeypatch.setattr("msip.download.job.free_bytes", lambda path: 8_000_000_000)
    with pytest.raises(OutputError, match=r"8\.3 GiB are to come"):  # the page says 8.88 GB
        download([source], tmp_path, policy=PATIENCE)
    assert Faulty.requests == 0


def test_any_error_of_one_source_leaves_the_others_alone(server, tmp_path, monkeypatch):
    sources = [over_http(server), load_source("lsotb_tir"), load_source("llvip")]
    real = hosts_module.remotes

    def remotes(source, host):
        if source.name == "llvip":
            raise RuntimeError("a library's own error")
        return real(source, host)

    monkeypatch.setattr("msip.download.job.remotes", remotes)
    accept_terms(tmp_path, sources)
    outcomes = download(sources, tmp_path, policy=PATIENCE)
    assert [one.status for one in outcomes] == ["incomplete", "manual", "failed"]
    assert "a library's own error" in outcomes[2].note


@pytest.fixture
def interruptible():
    """SIGINT interrupts, although a shell's background job, as this may be, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_all_transfers_and_the_next_run_goes_on(server, tmp_path):
    Faulty.fault = "drip"
    source = over_http(server)
    accept_terms(tmp_path, [source])
    patient = Policy(attempts=3, slow_window_s=60, timeout_s=2)
    started, once = time.monotonic(), threading.Event()

    def interrupt(stage, done, more):
        if stage == "download" and done > 0 and not once.is_set():
            once.set()
            threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        download([source], tmp_path, policy=patient, progress=interrupt)
    assert time.monotonic() - started < 30
    Faulty.fault = ""
    assert download([source], tmp_path, policy=PATIENCE)[0].frames == 5


def test_a_plan_says_that_the_disk_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr("msip.download.job.free_bytes", lambda path: 1 << 30)
    plan = {
        one.source: one.note for one in download([load_source("lasher"), load_source("llvip")], tmp_path, dry_run=True)
    }
    assert plan["lasher"].startswith("224.1 GB from https://huggingface.co/datasets/")
    assert all("only 1.0 GiB are free" in note for note in plan.values())


def test_a_movie_that_is_short_is_named(tmp_path, monkeypatch):
    source = load_source("scut_fir_pedestrian")
    lengths = {"set00": (5, 4, 3), "set01": (2,)}
    source = source.model_copy(update={"sequence_lengths": lengths, "expected_images": 3})
    for number, count in enumerate((5, 3, 3)):
        folder = tmp_path / f"SCUT_FIR_101/videos/set00/V{number:03d}"
        folder.mkdir(parents=True)
        for frame in range(count):
            (folder / f"{frame}.jpg").write_bytes(b"\xff\xd8\xff")
    accept_terms(tmp_path, [source])
    outcome = download([source], tmp_path)[0]
    assert outcome.status == "incomplete"
    assert outcome.note == "the tree is not complete: set00/V001 has 3 of 4 frames, set01/V000 has 0 of 2 frames"


def test_browser_names():
    for name in ("a.tar.gz", "a (1).tar.gz", "a(2).tar.gz", "Copy of a.tar.gz", "A.TAR.GZ"):
        assert same_name(name, "a.tar.gz"), name
    assert not same_name("b.tar.gz", "a.tar.gz")


def test_members_are_the_infrared_ones():
    wanted = members_of(load_source("lasher"))
    inside = "TrainingSet/trainingset/boy's/infrared/i000.jpg"
    assert wanted(f"any/LasHeR0327/{inside}") == inside
    assert not wanted(inside.replace("infrared", "visible")) and not wanted(
        inside.replace("Training", "Testing").replace("training", "testing")
    )


def test_scut_movies_become_frames_that_build_reads(tmp_path):
    from seq_movies import frames, movie

    random.seed(0)
    source = load_source("scut_fir_pedestrian")
    folder = tmp_path / "archives/scut_fir_pedestrian"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "set00.zip", "w") as file:
        file.writestr("set00/V000.seq", movie(frames(25)))
    (folder / "set01").mkdir()
    (folder / "set01/V001 (1).seq").write_bytes(movie(frames(11, 1)))
    accept_terms(tmp_path, [source])
    outcome = download([source], tmp_path, policy=PATIENCE)[0]
    assert outcome.status == "incomplete" and outcome.frames == 3 + 2, outcome.note
    report = build(tmp_path, tmp_path / "out", sources=["scut_fir_pedestrian"], with_rois=False)
    assert report.images == 5
