"""push and pull against real servers: what moves, what it costs, and what a reader sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from remote_places import (
    LABELS,
    Counted,
    Place,
    assert_same,
    bytes_told,
    digest,
    everywhere,
    files_of,
    row_size,
    served,
)
from servers import HttpServer
from small_media import TinyCache, tiny_cache

from cache import CacheError, Labels, open_cache
from cache.__main__ import main
from cache.format.shard import Failure, write_shard
from cache.labels.store import write_labels
from cache.remote.cache import RemoteCache
from cache.remote.store import Remote
from cache.share.push import PushOptions, plan_push, push


@everywhere
def test_push_then_pull_gives_the_same_cache(
    place: Place, home: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(home.folder), place.url]) == 0
    assert main(["pull", place.url, str(tmp_path / "back")]) == 0
    assert_same(home.folder, tmp_path / "back")
    assert files_of(home.folder) == files_of(tmp_path / "back")
    assert not [name for name in place.files() if "writing" in name]
    capsys.readouterr()


def test_second_push_and_second_pull_move_nothing(
    place: Place, home: TinyCache, tmp_path: Path, counted: Counted
) -> None:
    for _ in range(2):
        assert main(["push", str(home.folder), place.url]) == 0
    before = place.files()
    for _ in range(2):
        assert main(["pull", place.url, str(tmp_path / "back")]) == 0
    assert counted.totals == counted.sums
    assert [total > 0 for total in counted.totals] == [True, False, True, False]
    assert place.files() == before


def test_a_cache_of_failures_alone_travels(place: Place, tmp_path: Path) -> None:
    home = tiny_cache(tmp_path / "failed")
    for clip_id in ("a", "b"):
        write_shard(home.folder, home.identity, [], [Failure(clip_id, "audio", "no sound")])
        for _ in range(2):
            assert main(["push", str(home.folder), place.url]) == 0
    assert main(["pull", place.url, str(tmp_path / "back")]) == 0
    assert set(open_cache(tmp_path / "back").index.failures) == {"a", "b"}


def test_only_new_shards_move(
    place: Place, home: TinyCache, tmp_path: Path, counted: Counted
) -> None:
    back = tmp_path / "back"
    main(["push", str(home.folder), place.url])
    main(["pull", place.url, str(back)])
    new = home.write("g", "h", seed=20)
    main(["push", str(home.folder), place.url])
    main(["pull", place.url, str(back)])
    assert counted.sums[2:] == [new.bytes, new.bytes]
    assert_same(home.folder, back)


@pytest.mark.parametrize("prefer", ["here", "there", "newest"])
def test_a_changed_clip_is_a_conflict_that_prefer_settles(
    far: Place,
    home: TinyCache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    counted: Counted,
    prefer: str,
) -> None:
    other = tiny_cache(tmp_path / "other")
    other.write("b", "x", seed=50)  # the newest "b"
    main(["push", str(home.folder), far.url])
    before = far.files()
    assert main(["push", str(other.folder), far.url]) == 2
    error = capsys.readouterr().err
    assert "b;" in error
    assert "a, " not in error
    assert far.files() == before
    assert main(["push", str(other.folder), far.url, "--prefer", prefer]) == 0
    assert counted.sums == counted.totals
    assert main(["pull", far.url, str(tmp_path / "back")]) == 0
    back, winner = open_cache(tmp_path / "back"), home if prefer == "there" else other
    assert back.ids == ["a", "b", "c", "d", "e", "f", "x"]
    assert digest(tmp_path / "back", "b") == digest(winner.folder, "b")
    assert main(["verify", str(tmp_path / "back")]) == 0


@pytest.mark.parametrize("prefer", ["here", "there", "newest"])
def test_prefer_decides_pulls_too(
    home: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefer: str
) -> None:
    other = tiny_cache(tmp_path / "other")
    other.write("b", "x", seed=50)
    before = files_of(home.folder)
    assert main(["pull", str(other.folder), str(home.folder)]) == 2
    assert "b;" in capsys.readouterr().err
    assert files_of(home.folder) == before
    assert main(["pull", str(other.folder), str(home.folder), "--prefer", prefer]) == 0
    other_wins = prefer != "here"
    assert (digest(home.folder, "b") == digest(other.folder, "b")) == other_wins
    assert main(["pull", str(other.folder), str(home.folder), "--prefer", prefer]) == 0


def test_push_of_other_settings_is_refused_by_name(
    far: Place, home: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(home.folder), far.url])
    before = far.files()
    other = tiny_cache(tmp_path / "other", resize_px=40)
    other.write("z")
    assert main(["push", str(other.folder), far.url]) == 2
    error = capsys.readouterr().err
    assert "resize_px" in error
    assert far.url in error
    assert "avel-remote" not in error
    assert main(["pull", far.url, str(other.folder)]) == 2
    assert "resize_px" in capsys.readouterr().err
    assert far.files() == before


def test_dry_run_tells_the_bytes_that_the_progress_counts(
    place: Place,
    home: TinyCache,
    tmp_path: Path,
    counted: Counted,
    capsys: pytest.CaptureFixture[str],
) -> None:
    back = tmp_path / "back"
    assert main(["push", str(home.folder), place.url, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 whole shard(s), the labels" in text
    told = [bytes_told(text)]
    assert place.files() == {}
    main(["push", str(home.folder), place.url])
    capsys.readouterr()
    assert main(["pull", place.url, str(back), "--only", "val", "--dry-run"]) == 0
    told.append(bytes_told(capsys.readouterr().out))
    assert not back.exists()
    main(["pull", place.url, str(back), "--only", "val"])
    assert told == counted.totals == counted.sums
    assert min(told) > 0


def test_parts_of_shards_count_what_was_told_when_pushed(
    far: Place, home: TinyCache, tmp_path: Path, counted: Counted
) -> None:
    main(["push", str(home.folder), far.url])
    mixed = tiny_cache(tmp_path / "mixed")
    mixed.write("a", "b", "new", seed=0)  # the same "a" and "b"
    main(["push", str(mixed.folder), far.url])
    assert counted.totals[1] == row_size(mixed.folder, "new")
    assert counted.sums == counted.totals
    main(["pull", far.url, str(tmp_path / "back")])
    assert open_cache(tmp_path / "back").ids == ["a", "b", "c", "d", "e", "f", "new"]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--only", "train"], "ad"),
        (["--only", "train,val"], "abde"),
        (["--ids", "LIST"], "bcd"),
        (["--only", "train,test", "--ids", "LIST"], "cd"),
    ],
)
def test_pull_fetches_a_part_and_later_the_rest(
    home: TinyCache,
    tmp_path: Path,
    flags: list[str],
    wanted: str,
    counted: Counted,
    http_server: HttpServer,
) -> None:
    url = served(http_server, home.folder, tmp_path)
    (tmp_path / "list").write_text("b\nc\n\n d \n")
    back = tmp_path / "back"
    flags = [str(tmp_path / "list") if flag == "LIST" else flag for flag in flags]
    assert main(["pull", url, str(back), *flags]) == 0
    assert open_cache(back).ids == list(wanted)
    assert main(["verify", str(back)]) == 0
    assert main(["pull", url, str(back), *flags]) == 0
    assert counted.sums[1] == 0
    assert main(["push", str(back), str(home.folder)]) == 0
    assert counted.sums[2] == 0
    assert main(["pull", url, str(back)]) == 0
    assert counted.sums == counted.totals
    assert_same(home.folder, back)


def test_ids_are_matched_in_whatever_form_they_are_written(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("caf\u00e9", "b", failures=[Failure("\u00fc", "audio", "no sound")])
    (tmp_path / "list").write_text("cafe\u0301\nu\u0308\n", encoding="utf-8")
    back = tmp_path / "back"
    assert main(["pull", str(tiny.folder), str(back), "--ids", str(tmp_path / "list")]) == 0
    assert open_cache(back).ids == ["caf\u00e9"]
    assert list(open_cache(back).index.failures) == ["\u00fc"]


def test_a_shard_that_became_a_link_is_not_sent(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    path = tiny.path(tiny.write("a"))
    cache = open_cache(tiny.folder)
    with RemoteCache(Remote(str(tmp_path / "there"))) as there:
        move = plan_push(cache, there, PushOptions())
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CacheError, match="a link or a pipe"):
            push(cache, there, move, PushOptions())


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--only", "trian"], "expected train, val, test, found trian"),
        (["--ids", "ABSENT"], "1 of the clips asked for are not there: zebra"),
        (["--ids", "EMPTY"], "expected one clip id a line, found none"),
        (["--ids", "MISSING"], "can't be read"),
        (["--jobs", "0"], "expected 1 to 64, found 0"),
    ],
)
def test_wrong_choices_are_told_before_anything_is_made(
    home: TinyCache,
    tmp_path: Path,
    flags: list[str],
    error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ABSENT").write_text("a\nzebra\n")
    (tmp_path / "EMPTY").write_text("\n")
    flags = [str(tmp_path / flag) if flag.isupper() else flag for flag in flags]
    assert main(["pull", str(home.folder), str(tmp_path / "back"), *flags]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_only_needs_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: TinyCache
) -> None:
    (home.folder / "labels.h5").unlink()
    assert main(["pull", str(home.folder), str(tmp_path / "back"), "--only", "train"]) == 2
    assert "has no labels" in capsys.readouterr().err


def test_one_split_costs_its_rows_over_http(
    big: Path, tmp_path: Path, http_server: HttpServer, counted: Counted
) -> None:
    url, begin = served(http_server, big, tmp_path), len(http_server.requests())
    assert main(["pull", url, str(tmp_path / "back"), "--only", "test"]) == 0
    sent = http_server.requests()[begin:]
    rows = sum(row_size(big, clip_id) for clip_id in open_cache(tmp_path / "back").ids)
    moved = sum(entry["bytes"] for entry in sent if "/shards/" in entry["path"])
    assert counted.sums == [rows]
    assert rows <= moved < 1.2 * rows
    assert main(["verify", str(tmp_path / "back")]) == 0


def test_whole_shards_cost_their_bytes_over_http(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, counted: Counted
) -> None:
    url, begin = served(http_server, home.folder, tmp_path), len(http_server.requests())
    assert main(["pull", url, str(tmp_path / "back")]) == 0
    sent = http_server.requests()[begin:]
    moved = [entry["bytes"] for entry in sent if "/shards/" in entry["path"]]
    assert counted.sums == counted.totals == [sum(moved)]
    assert sorted(moved) == sorted(p.stat().st_size for p in home.folder.glob("shards/*.h5"))


def test_a_web_server_without_ranges_gives_all_but_no_part(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = served(http_server, home.folder, tmp_path)
    with http_server.behaving(ignore_range=1):
        assert main(["pull", url, str(tmp_path / "part"), "--only", "train"]) == 2
        assert "the server ignores ranges; pull the whole cache" in capsys.readouterr().err
        assert main(["pull", url, str(tmp_path / "back")]) == 0
    assert_same(home.folder, tmp_path / "back")


def test_labels_travel_and_older_ones_give_way(
    far: Place, home: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back = tmp_path / "back"
    main(["push", str(home.folder), far.url])
    main(["pull", far.url, str(back)])
    newer = Labels(**{**vars(LABELS), "split": LABELS.split[::-1].copy()})
    write_labels(home.folder, newer)
    capsys.readouterr()
    assert main(["push", str(home.folder), far.url]) == 0
    assert main(["pull", far.url, str(back)]) == 0
    out = capsys.readouterr().out
    assert "the labels differ" not in out
    assert out.count("splits: ") == 2
    labels = open_cache(back).stored_labels()
    assert labels is not None
    assert labels.equals(newer)


def test_unrelated_labels_stay_and_are_told(
    home: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_cache(tmp_path / "other", Labels(**{**vars(LABELS), "source": "elsewhere"}))
    other.write("x", seed=70)
    assert main(["pull", str(other.folder), str(home.folder)]) == 0
    assert "--prefer there replaces them" in capsys.readouterr().out
    labels = open_cache(home.folder).stored_labels()
    assert labels is not None
    assert labels.source == "by hand"
    assert main(["pull", str(other.folder), str(home.folder), "--prefer", "there"]) == 0
    labels = open_cache(home.folder).stored_labels()
    assert labels is not None
    assert labels.source == "elsewhere"


def test_a_packed_file_and_a_web_server_are_no_places_to_push(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["pack", str(home.folder), str(tmp_path / "one.h5")])
    assert main(["push", str(tmp_path / "one.h5"), str(tmp_path / "far")]) == 2
    assert "unpack it to push" in capsys.readouterr().err
    assert main(["push", str(home.folder), http_server.url + "/new"]) == 2
    assert "web servers take no uploads" in capsys.readouterr().err
    assert main(["pull", str(tmp_path / "one.h5"), str(tmp_path / "far")]) == 2
    assert "one.h5" in capsys.readouterr().err
