"""What is installed from a wheel, or from an sdist, is all there: packages, pages, facts."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED_AS = {"msip": "msip", "pad": "pad", "cli": "msip_cli", "data_manifests": "msip_data_manifests"}
PACK = "import setuptools.build_meta as build; build.build_wheel('dist'); build.build_sdist('dist')"


def test_wheel_and_sdist_hold_every_file_of_the_packages(tmp_path):
    for name in INSTALLED_AS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    files = {path.relative_to(tmp_path) for name in INSTALLED_AS for path in (tmp_path / name).rglob("*")}
    files = {path.as_posix() for path in files if (ROOT / path).is_file()}
    (tmp_path / "dist").mkdir()
    subprocess.run([sys.executable, "-c", PACK], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dist/*.whl")
    (sdist,) = tmp_path.glob("dist/*.tar.gz")
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert in_wheel == {f"{INSTALLED_AS[top]}/{rest}" for top, _, rest in (path.partition("/") for path in files)}
    with tarfile.open(sdist) as archive:
        assert files <= {name.partition("/")[2] for name in archive.getnames()}
