"""The one way of writing files: whole or not at all, through no link, as the umask says.

What happens on full and read-only disks is in test_cache_lock.py.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_media import TinyCache, tiny_cache

from cache import CacheError, Labels
from cache.__main__ import main
from cache.common.atomic import (
    TEMPORARY,
    append_line,
    create_file,
    noted,
    plain_folder,
    replace_file,
    replacing,
)
from cache.format.lock import writer_lock

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file that links lead to; nothing here may change it."""
    path = tmp_path / "precious"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class TestCreating:
    def test_of_many_at_once_one_writes_all_of_it(self, tmp_path: Path) -> None:
        path, texts = tmp_path / "file", [f"{number}".encode() * 9 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            wrote = list(pool.map(lambda text: create_file(path, text), texts))
        assert wrote.count(True) == 1
        assert path.read_bytes() == texts[wrote.index(True)]
        assert list(tmp_path.iterdir()) == [path]

    def test_what_stands_there_stays(self, tmp_path: Path, precious: Path) -> None:
        link, dangling = tmp_path / "link", tmp_path / "dangling"
        link.symlink_to(precious)
        dangling.symlink_to(tmp_path / "nothing")
        assert not any(create_file(path, b"new") for path in (precious, link, dangling))
        assert not (tmp_path / "nothing").exists()

    def test_as_the_umask_says(self, tmp_path: Path, umask: Callable[[int], int]) -> None:
        umask(0o027)
        assert create_file(tmp_path / "file", b"")
        assert mode(tmp_path / "file") == 0o640


class TestReplacing:
    def test_a_link_in_its_place_is_replaced_not_followed(
        self, tmp_path: Path, precious: Path
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to(precious)
        replace_file(link, b"new")
        assert (link.read_text(), link.is_symlink()) == ("new", False)

    def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(TypeError), replacing(path) as file:
            file.writelines([b"half", "text"])  # type: ignore[list-item]
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_temporary_names_are_new_and_not_followed(
        self, tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("secrets.token_hex", lambda count: "guessed")
        (tmp_path / f"{TEMPORARY}guessed.json").symlink_to(precious)
        with pytest.raises(CacheError, match="can't be written"):
            replace_file(tmp_path / "x.json", b"new")

    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("none/x", "the folder that it belongs in is not there"),
            ("precious/x", "a part of that path is a file"),
            ("folder", "a folder stands where a file belongs"),
            ("n" * 300, "choose a shorter name"),
        ],
    )
    def test_what_is_in_the_way_is_told(
        self, tmp_path: Path, precious: Path, name: str, wanted: str
    ) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(CacheError, match=wanted):
            replace_file(tmp_path / name, b"new")

    @pytest.mark.parametrize(("hidden", "wanted"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644)])
    def test_permissions_are_what_the_umask_says(
        self, tmp_path: Path, umask: Callable[[int], int], hidden: int, wanted: int
    ) -> None:
        umask(hidden)
        mine = tiny_cache(
            tmp_path / "mine",
            Labels(
                ["a"],
                ["x"],
                np.zeros(1, np.int64),
                np.zeros(1),
                np.zeros(1),
                np.zeros(1, np.int8),
                "by hand",
            ),
        )
        mine.write("a")
        mine.store_index()
        assert main(["verify", str(mine.folder)]) == 0
        assert main(["pack", str(mine.folder), str(tmp_path / "pack.h5")]) == 0
        assert main(["push", str(mine.folder), str(tmp_path / "far")]) == 0
        assert main(["pull", str(mine.folder), str(tmp_path / "near")]) == 0
        assert main(["merge", str(mine.folder), "--into", str(tmp_path / "both")]) == 0
        made = [tmp_path / "pack.h5"]
        made += [p for f in ("mine", "far", "near", "both") for p in (tmp_path / f).rglob("*")]
        assert len(made) > 20
        for path in made:
            assert mode(path) == (wanted | (wanted >> 2 & 0o111) if path.is_dir() else wanted), path


class TestLines:
    def test_are_counted(self, tmp_path: Path) -> None:
        assert [append_line(tmp_path / "looks", text) for text in ("one", "two", "é")] == [1, 2, 3]
        assert (tmp_path / "looks").read_text() == "one\ntwo\né\n"

    def test_half_a_line_spoils_no_other(self, tmp_path: Path) -> None:
        path = tmp_path / "looks"
        path.write_text('{"a": 1}\n{"b"')
        assert append_line(path, '{"c": 3}') == 3
        assert path.read_text() == '{"a": 1}\n{"b"\n{"c": 3}\n'

    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_go_into_plain_files_alone(self, tmp_path: Path, precious: Path, kind: str) -> None:
        path = tmp_path / "looks"
        if kind == "link":
            path.symlink_to(precious)
        else:
            os.mkfifo(path) if kind == "pipe" else path.mkdir()
        with pytest.raises(CacheError, match="looks"):
            append_line(path, "mine")

    def test_of_several_threads_are_all_there(self, tmp_path: Path) -> None:
        path = tmp_path / "looks"
        threads = [
            threading.Thread(target=lambda n=n: [append_line(path, str(n)) for _ in range(20)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(path.read_text().split()) == sorted("0123" * 20)


class TestNotes:
    def test_hold_the_last_word_and_go(self, tmp_path: Path) -> None:
        path = tmp_path / "note"
        with noted(path) as write:
            write("a long one")
            write("short")
            assert path.read_text() == "short"
        assert not path.exists()

    def test_stay_after_a_bad_end(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), noted(tmp_path / "note") as write:
            write("a" * int(1 / 0))
        assert (tmp_path / "note").exists()

    def test_replace_a_link(self, tmp_path: Path, precious: Path) -> None:
        (tmp_path / "note").symlink_to(precious)
        with noted(tmp_path / "note") as write:
            write("a")


class TestFolders:
    def test_a_link_is_refused_but_one_above_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        with pytest.raises(CacheError, match="link: a link, expected a folder"):
            plain_folder(tmp_path / "link")
        plain_folder(tmp_path / "link" / "deep" / "er")
        assert (tmp_path / "real" / "deep" / "er").is_dir()

    def test_a_file_in_its_place_is_told(self, tmp_path: Path, precious: Path) -> None:
        for path in (precious, precious / "below"):
            with pytest.raises(CacheError, match=r"precious: can't be written .* a file stands"):
                plain_folder(path)

    @pytest.mark.parametrize(
        ("above", "hidden", "wanted"),
        [
            (0o2775, 0o022, 0o2775),
            (0o2775, 0o002, 0o2775),
            (0o2775, 0o077, 0o2700),
            (0o2755, 0o022, 0o2755),
            (0o775, 0o022, 0o755),
        ],
    )
    def test_in_a_folder_of_a_group(
        self, tmp_path: Path, umask: Callable[[int], int], above: int, hidden: int, wanted: int
    ) -> None:
        (tmp_path / "lab").mkdir()
        (tmp_path / "lab").chmod(above)
        umask(hidden)
        plain_folder(tmp_path / "lab" / "ave" / "shards")
        assert mode(tmp_path / "lab" / "ave") == wanted
        assert mode(tmp_path / "lab" / "ave" / "shards") == wanted

    @pytest.mark.parametrize("command", ["pull", "merge", "push", "unpack", "repair"])
    def test_shards_that_lead_elsewhere_take_nothing(
        self, command: str, tmp_path: Path, capsys: Capture
    ) -> None:
        source = tiny_cache(tmp_path / "source")
        source.write("a")
        source.store_index()
        assert main(["pack", str(source.folder), str(tmp_path / "p.h5")]) == 0
        target = tiny_cache(tmp_path / "target")
        elsewhere = tmp_path / "elsewhere"
        (target.folder / "shards").rename(elsewhere)
        (target.folder / "shards").symlink_to(elsewhere)
        before = sorted(target.folder.iterdir())
        line = {
            "pull": [str(source.folder), str(target.folder)],
            "push": [str(source.folder), str(target.folder)],
            "merge": [str(source.folder), "--into", str(target.folder)],
            "unpack": [str(tmp_path / "p.h5"), str(target.folder)],
            "repair": [str(target.folder)],
        }
        assert main([command, *line[command]]) == 2
        assert "a link, expected a folder" in capsys.readouterr().err
        assert list(elsewhere.iterdir()) == []
        assert [p for p in sorted(target.folder.iterdir()) if p.name != ".lock"] == before

    def test_a_writer_puts_nothing_through_such_a_link(self, tmp_path: Path) -> None:
        tiny: TinyCache = tiny_cache(tmp_path / "cache")
        (tiny.folder / "shards").rmdir()
        (tiny.folder / "shards").symlink_to(tmp_path)
        with writer_lock(tiny.folder), pytest.raises(CacheError, match="a link"):
            tiny.write("a")
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]
