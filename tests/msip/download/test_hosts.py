"""Google Drive's and Kaggle's manners, as far as they can be had without them."""

import pytest
import requests

from msip.download import hosts
from msip.errors import DownloadError
from msip.sources import load_source

FOLDER = """<title>videos</title><a href="https://drive.google.com/drive/folders/SET00?resourcekey=0-k&amp;usp=x"><b>set00</b></a>
<a href="https://drive.google.com/file/d/README1/view?usp=drive_web">readme.txt</a>"""
INNER = '<a href="https://drive.google.com/file/d/MOVIE1/view?usp=drive_web&amp;resourcekey=0-m">V000.seq</a>'
WARNING = """<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">\
<input type="hidden" name="id" value="MOVIE1"><input type="hidden" name="confirm" value="t"></form>"""


class Answer:
    status_code = 200

    def __init__(self, text):
        self.text, self.content = text, text.encode()
        self.headers = {"Content-Type": "text/html; charset=utf-8"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_folder_with_a_resource_key(monkeypatch):
    asked = []

    def get(url, params=None, **_):
        asked.append((url, params))
        if "embeddedfolderview" not in url:
            return Answer(WARNING)
        return Answer(INNER if params["id"] == "SET00" else FOLDER)

    monkeypatch.setattr(requests, "get", get)
    source = load_source("scut_fir_pedestrian")
    found = hosts.remotes(source, source.access.hosts[0])
    assert [remote.name for remote in found] == ["set00/V000.seq", "readme.txt"]
    assert len(asked) == 2  # the addresses of the files are asked for when their turn comes
    address = found[0].resolve()
    assert address.startswith("https://drive.usercontent.google.com/download?") and "confirm=t" in address
    assert asked[0][1]["resourcekey"] == "0-Lvz6X5aOHUFzl4QYqpDVMg" and asked[1][1]["resourcekey"] == "0-k"
    assert any("resourcekey=0-m" in url for url, _ in asked)


def test_a_quota_page_is_named(monkeypatch):
    page = '<title>Quota</title><p class="uc-error-subcaption">Too many users have viewed or downloaded this</p>'
    monkeypatch.setattr(requests, "get", lambda *_, **__: Answer(page))
    source = load_source("llvip")
    with pytest.raises(DownloadError, match="quota"):
        hosts.remotes(source, source.access.hosts[0])[0].resolve()


def test_kaggle_needs_a_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    host = load_source("llvip").access.hosts[0].model_copy(update={"kind": "kaggle", "id": "a/b"})
    with pytest.raises(DownloadError, match=r"kaggle\.json"):
        hosts.kaggle(host, tmp_path)
