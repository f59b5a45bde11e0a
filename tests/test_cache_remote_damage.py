"""Damage and malice met by push and pull: told, never stored, and the rest is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from remote_places import (
    Counted,
    Place,
    assert_same,
    everywhere,
    files_of,
    flipped,
    leftovers,
    served,
)
from servers import HttpServer
from small_media import TinyCache

import cache.remote.cache
import cache.share.pull
from cache import open_cache
from cache.__main__ import main
from cache.format.index_file import load_index, render_index
from cache.remote.store import Remote

Capture = pytest.CaptureFixture[str]


@everywhere
def test_upload_that_arrives_damaged_is_told_and_removed(
    place: Place, home: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    hit: list[str] = []
    holds = Remote._holds

    def damage(self: Remote, name: str, data: bytes) -> bool:
        if "shards/" in name and not hit:
            hit.append(name)
            self._fs.pipe_file(self._path(name), flipped(data))
        return holds(self, name, data)

    monkeypatch.setattr(Remote, "_holds", damage)
    assert main(["push", str(home.folder), place.url, "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"shards/[0-9a-f]{32}\.h5: arrived damaged and was removed; push again", error)
    assert all(data in files_of(home.folder).values() for data in place.files().values())
    assert "cache.json" not in place.files()
    assert main(["push", str(home.folder), place.url]) == 0
    assert {n: d for n, d in place.files().items() if n != "index.h5"} == files_of(home.folder)


def test_download_that_arrives_damaged_is_told_and_the_rest_kept(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: Capture
) -> None:
    url, back = served(http_server, home.folder, tmp_path), tmp_path / "back"
    damaged, other = sorted((http_server.folder / Path(url).name / "shards").iterdir())
    damaged.write_bytes(flipped(damaged.read_bytes()))
    assert main(["pull", url, str(back), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert damaged.name in error
    assert other.name not in error
    assert {path.name for path in (back / "shards").iterdir()} <= {other.name}
    codes = []
    for clip_id in (
        "abc" if damaged.name in open_cache(home.folder).index.clips["a"].shard else "def"
    ):
        (tmp_path / "list").write_text(clip_id)
        codes.append(main(["pull", url, str(tmp_path / clip_id), "--ids", str(tmp_path / "list")]))
    assert sorted(codes) == [0, 0, 2]
    assert "don't match their checksums" in capsys.readouterr().err
    damaged.write_bytes(flipped(damaged.read_bytes()))
    assert main(["pull", url, str(back)]) == 0
    assert_same(home.folder, back)


@pytest.mark.parametrize("spoil", [lambda data: flipped(data), lambda data: data[:3000]])
def test_a_shard_damaged_at_home_is_not_pushed(
    far: Place, home: TinyCache, capsys: Capture, spoil: Callable[[bytes], bytes]
) -> None:
    place, path = far, min((home.folder / "shards").iterdir())
    path.write_bytes(spoil(path.read_bytes()))
    assert main(["push", str(home.folder), place.url]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert "python -m cache repair" in error
    assert f"shards/{path.name}" not in place.files()
    assert "cache.json" not in place.files()


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("file", "missing"),
        ("file", "damaged"),
        ("ssh", "damaged"),
        pytest.param("s3", "missing", marks=pytest.mark.system),
    ],
    indirect=["place"],
)
def test_an_index_lost_there_comes_back_by_a_push(
    place: Place, home: TinyCache, tmp_path: Path, capsys: Capture, counted: Counted, how: str
) -> None:
    main(["push", str(home.folder), place.url])
    before = place.files()
    remote = Remote(place.url)
    if how == "missing":
        remote._fs.rm_file(remote._path("index.h5"))
    else:
        remote._fs.pipe_file(remote._path("index.h5"), flipped(before["index.h5"]))
    capsys.readouterr()
    local = place.url.startswith("file")
    assert main(["pull", place.url, str(tmp_path / "early")]) == (0 if local else 2)
    assert local or "index.h5" in capsys.readouterr().err
    assert main(["push", str(home.folder), place.url]) == 0
    assert counted.sums[-1] == 0
    assert place.files() == before


def test_a_web_server_without_an_index_says_what_is_needed(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: Capture
) -> None:
    url = served(http_server, home.folder, tmp_path)
    index = http_server.folder / Path(url).name / "index.h5"
    for spoil in (lambda: index.write_bytes(flipped(index.read_bytes())), index.unlink):
        spoil()
        assert main(["pull", url, str(tmp_path / "back")]) == 2
        error = capsys.readouterr().err
        assert f"{url}/index.h5" in error
        assert "python -m cache repair" in error
        assert "avel-remote" not in error


def test_damaged_labels_there_are_told_by_their_url(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: Capture
) -> None:
    url = served(http_server, home.folder, tmp_path)
    labels = http_server.folder / Path(url).name / "labels.h5"
    labels.write_bytes(flipped(labels.read_bytes()))
    assert main(["pull", url, str(tmp_path / "back")]) == 2
    assert f"{url}/labels.h5: its bytes don't match" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("what", ["name", "id", "huge", "longer"])
def test_a_hostile_index_is_refused(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: Capture, what: str
) -> None:
    url = served(http_server, home.folder, tmp_path / what)
    index = load_index(home.folder, home.identity)
    first = next(iter(index.shards))
    facts = index.shards[first]
    if what == "name":
        index.shards = {"../../evil.h5" if n == first else n: f for n, f in index.shards.items()}
        index.reported = []
    elif what == "id":
        index.rows["id"][0] = b"/"
    else:
        more = 10**15 if what == "huge" else 1
        index.shards[first] = replace_size(facts, facts.size + more)
    path = http_server.folder / Path(url).name / "index.h5"
    path.write_bytes(render_index(home.identity, index))
    assert main(["pull", url, str(tmp_path / "back"), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    wanted = {"name": "no shards", "id": "refused", "huge": "GB free", "longer": "match its name"}
    assert wanted[what] in error
    assert not list(tmp_path.rglob("evil.h5"))
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("name", ["cache.json", "index.h5", "labels.h5"])
def test_a_table_of_100_gb_is_not_read(
    home: TinyCache,
    tmp_path: Path,
    http_server: HttpServer,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(cache.remote.cache, "TABLE_LIMIT_BYTES", 10_000_000)
    url = served(http_server, home.folder, tmp_path)
    os.truncate(http_server.folder / Path(url).name / name, 100 * 10**9)
    for place in (url, str(http_server.folder / Path(url).name)):
        assert main(["pull", place, str(tmp_path / "back")]) == 2
        assert f"{name}: larger than" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def replace_size(facts: Any, size: int) -> Any:
    """The facts of a shard with another size."""
    return facts._replace(size=size) if hasattr(facts, "_replace") else replace(facts, size=size)
