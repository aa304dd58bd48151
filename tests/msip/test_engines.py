"""Where tasks run makes no difference to what comes out."""

import os
import signal
import sys
import time

import pytest

from msip import build
from msip.engine import LocalEngine
from msip.errors import MsipError, OutputError
from msip.files import make_output_folder
from msip.synthetic import write_folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("engines") / "frames", count=10)


@pytest.fixture(scope="module")
def ray_cluster():
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_one_pool_serves_several_jobs_and_user_errors_come_through(tmp_path):
    (tmp_path / "file").touch()
    with LocalEngine(2) as engine:
        assert sorted(engine.run(abs, range(-9, 0))) == list(range(1, 10))
        pool = engine._pool
        assert sorted(engine.run(abs, [-1])) == [1] and engine._pool is pool
        assert list(engine.run(abs, [])) == []
        with pytest.raises(OutputError, match="is a file"):
            list(engine.run(make_output_folder, [tmp_path / "file"]))


def pid_after_a_while(_):
    time.sleep(0.05)
    return os.getpid()


def test_workers_that_ctrl_c_reaches_while_they_start_print_no_traceback(capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with LocalEngine(2) as engine:
            pool = engine._started()
            for _ in range(40):  # while they import, too
                for worker in list((pool._processes or {}).values()):
                    if worker.is_alive():
                        os.kill(worker.pid, signal.SIGINT)
                time.sleep(0.05)
            with pytest.raises(MsipError, match="worker processes died"):
                list(engine.run(abs, range(9)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


def test_workers_that_ctrl_c_reaches_print_no_traceback(capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with LocalEngine(2) as engine:
            while len(set(engine.run(pid_after_a_while, range(4)))) < 2:
                pass  # until both are at work
            workers = list(engine._pool._processes.values())
            for worker in workers:
                os.kill(worker.pid, signal.SIGINT)
            for worker in workers:
                worker.join(30)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(worker.is_alive() for worker in workers) and capfd.readouterr().err == ""


@pytest.mark.slow
def test_ray_builds_the_same_manifest(frames, tmp_path, ray_cluster):
    build(None, tmp_path / "local", folder=frames, workers=1)
    report = build(None, tmp_path / "ray", folder=frames, engine="ray", workers=2)
    manifests = [(tmp_path / name / "manifest.parquet").read_bytes() for name in ("local", "ray")]
    assert manifests[0] == manifests[1] and report.images == 8
    assert build(None, tmp_path / "ray", folder=frames, engine="ray").sources[0].done_before == 10


@pytest.mark.slow
def test_user_errors_come_back_from_ray_as_one_sentence(tmp_path, ray_cluster):
    from msip.engine import RayEngine

    (tmp_path / "file").touch()
    with RayEngine(2) as engine, pytest.raises(OutputError, match="is a file, a folder was expected") as caught:
        list(engine.run(make_output_folder, [tmp_path / "file"]))
    assert len(str(caught.value).splitlines()) == 1


def test_without_ray_the_message_says_what_to_install(frames, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MsipError, match="pip install"):
        build(None, tmp_path / "out", folder=frames, engine="ray")
    assert not (tmp_path / "out" / "manifest.parquet").exists()
