"""The wheel holds every file of the three packages, and names what they need."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cache", "extract", "train")
BUILD = "from setuptools.build_meta import build_wheel; build_wheel('wheel')"


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    tree = {
        path.relative_to(tmp_path).as_posix()
        for name in PACKAGES
        for path in (tmp_path / name).rglob("*")
        if path.is_file()
    }
    (tmp_path / "wheel").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, check=True, capture_output=True)
    (file,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        about = wheel.read(name).decode("utf-8")
    assert inside == tree
    assert {"train/report/page.html", "train/annotate/timeline.js"} <= inside
    wanted = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text("utf-8"), re.M)
    assert wanted == re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", about, re.M)
