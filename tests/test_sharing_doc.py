"""Every command of docs/sharing.md, run as it stands against real servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import HttpServer, S3Server, SshServer
from synthetic_cache import labels_for, make_cache

from cache import open_cache
from cache.labels.store import write_labels

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "n_mfcc": 2,
    "n_mels": 4,
    "num_frames": 2,
    "frame_size_px": 64,
}


def blocks() -> list[str]:
    """The page's shell blocks, in order; the first sets the addresses."""
    return re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def make_caches(folder: Path) -> None:
    """What the page takes for granted: two caches that overlap, new labels, a list of ids."""
    labels = labels_for(90, 3)
    labels = replace(labels, start_s=labels.start_s / 10, end_s=labels.end_s / 10)
    ids = set(labels.ids)
    make_cache(folder / "features", labels=labels, missing=sorted(ids)[60:], distinct=4, **SMALL)
    make_cache(folder / "carla", labels=labels, missing=sorted(ids)[:60], distinct=4, **SMALL)
    write_labels(folder / "carla", labels)
    lines = ["id,category,start,end,split", *(f"{i},another kind,0,1,train" for i in labels.ids)]
    (folder / "relabelled.csv").write_text("\n".join(lines) + "\n")
    (folder / "wanted.txt").write_text("clip00001\nclip00005\n")


@pytest.mark.system
def test_the_page_runs_as_written(
    tmp_path: Path, ssh_server: SshServer, s3_server: S3Server, http_server: HttpServer
) -> None:
    make_caches(tmp_path)
    bucket = s3_server.bucket("ave-features") + "/v1"
    addresses = {
        "DRIVE": str(tmp_path / "drive"),
        "SERVER": ssh_server.url(tmp_path / "server"),
        "BUCKET": bucket,
        "WEB": f"{http_server.url}/v1",
    }
    first, *others = blocks()
    assert set(re.findall(r"^(\w+)=", first, re.MULTILINE)) == set(addresses)
    (tmp_path / "drive").mkdir()
    env = {**os.environ, **s3_server.env, **ssh_server.env, **addresses}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["PYTHONPATH"] = str(ROOT)
    told = ""
    for number, block in enumerate(others):
        if "$WEB" in block:  # the files that a push made, behind a web server
            shutil.copytree(tmp_path / "drive" / "features", http_server.folder / "v1")
        if "repair" in block:  # the day something was damaged
            damage(tmp_path / "ben")
            block = block.replace("verify ben", "verify ben && exit 9 || true")
            block = block.replace("repair ben", "repair ben || true")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        told += done.stdout
        assert done.returncode == 0, f"block {number}:\n{block}\n{done.stdout}"
    assert len(open_cache(tmp_path / "everything")) == 90
    assert len(open_cache(tmp_path / "lab")) == 60
    assert open_cache(tmp_path / "lab").labels.classes == ["another kind"]
    mine = open_cache(tmp_path / "mine")
    assert {"clip00001", "clip00005"} <= set(mine.ids)
    assert len(mine) < 60
    assert "no difference in settings, clips, failures or events" in told
    assert "relabelled" in told


def damage(cache: Path) -> None:
    """Flip a bit of one row."""
    found = open_cache(cache)
    entry = found.index.clips[found.ids[0]]
    place = found.index.layout(entry.shard).span("audio/mel", entry.row, entry.row + 1)[0]
    path = found.shard_path(entry.shard)
    data = np.fromfile(path, np.uint8)
    data[place] ^= 1
    path.write_bytes(data.tobytes())


def test_no_block_is_forgotten() -> None:
    assert len(blocks()) == PAGE.count("```sh") > 8
    assert not re.search(r"\$(?!DRIVE|SERVER|BUCKET|WEB)\w", "".join(blocks()))
