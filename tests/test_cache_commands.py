"""The command line of caches: what is said, to whom, with which exit code."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_media import TinyCache, assert_same_rows, random_row, tiny_cache
from synthetic_cache import labels_for

import cache.format.shard
from cache import CacheError, Labels, open_cache
from cache.__main__ import _parser, main
from cache.check.verify import verify
from cache.common.cli import exit_code
from cache.format.identity import Identity, claim
from cache.format.shard import Failure, write_shard
from cache.labels.store import write_labels
from cache.share.diff import difference

ROOT = Path(__file__).parent.parent
Capture = pytest.CaptureFixture[str]
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e\nhealth       whole"
CSV = "id,category,start,end,split\na,Bark,0,1,train\nb,Bell,0,0.5,test\nz,Bell,0,1,val\n"
AVE = "Category&VideoID&Quality&StartTime&EndTime\nBark&a&good&0&1\nBell&b&good&0&1\nBell&z&&0&1\n"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    tiny = tiny_cache(tmp_path / "cache", labels(["a", "b"]))
    tiny.write("a", "b", failures=[Failure("gone", "audio", "gone.wav: expected sound")])
    tiny.store_index()
    return tiny


def labels(ids: list[str], **changes: Any) -> Labels:
    values: dict[str, Any] = {
        "ids": ids,
        "classes": ["Bark", "Bell"],
        "category": np.arange(len(ids), dtype=np.int64) % 2,
        "start_s": np.zeros(len(ids)),
        "end_s": np.ones(len(ids)),
        "split": np.arange(len(ids), dtype=np.int8) % 3,
        "source": "events.csv",
    }
    return Labels(**{**values, **changes})


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cache", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def said(capsys: Capture, *arguments: str | Path, code: int = 0) -> str:
    """What a command prints: its output when it ends well, its errors otherwise."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return err if code == 2 else out


class TestInfo:
    def test_fits_one_screen(self, tmp_path: Path, capsys: Capture) -> None:
        """28 classes, failures and origins of many kinds, notes, a history."""
        tiny = tiny_cache(tmp_path / "cache", labels_for(60, 28))
        for number in range(8):
            failures = [Failure(f"f{number}-{n}", "audio", f"reason {number}") for n in range(9)]
            made = dataclasses.replace(
                tiny.identity, provenance={"machine": f"m{number}", "torch": "2.0"}
            )
            clips = [random_row(f"clip{number:05}", number)]
            write_shard(tiny.folder, made, clips, failures)
        notes = [f"note {n}" for n in range(30)]
        for source in "abcdef":
            write_labels(tiny.folder, labels(["a"], source=source))
        write_labels(tiny.folder, Labels(**{**vars(labels_for(60, 28)), "notes": notes}))
        lines = said(capsys, "info", tiny.folder).splitlines()
        assert len(lines) <= 45
        assert max(map(len, lines)) <= 120

    def test_a_plain_one_fits_forty_lines(self, tmp_path: Path, capsys: Capture) -> None:
        tiny = tiny_cache(tmp_path / "cache", labels_for(60, 28))
        tiny.write("clip00000", failures=[Failure("clip00001", "audio", "expected sound")])
        assert len(said(capsys, "info", tiny.folder).splitlines()) <= 40

    def test_json_says_all_of_it(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        facts = json.loads(said(capsys, "info", tiny.folder, "--json"))
        assert (facts["clips"], facts["shards"], facts["form"]) == (2, 1, "folder")
        assert facts["bytes"] == sum(p.stat().st_size for p in (tiny.folder / "shards").iterdir())
        assert facts["fingerprint"] == tiny.identity.fingerprint
        assert facts["config"] == tiny.identity.config
        assert facts["made_by"] == [{"weights": "random:0", "clips": 2}]
        assert facts["labels"]["classes"]["Bark"] == {"events": 1, "train": 1, "val": 0, "test": 0}
        assert facts["labels"]["splits"] == {"train": 1, "val": 1, "test": 0, "none": 0}
        assert facts["labels"]["leaks"] == {}
        assert facts["failures"]["by_reason"] == {"audio: expected sound": ["gone"]}
        assert facts["health"]["verified"] is None
        assert verify(tiny.folder).problems == []
        main(["pack", str(tiny.folder), str(tmp_path / "p.h5")])
        capsys.readouterr()
        again = json.loads(said(capsys, "info", tmp_path / "p.h5", "--json"))
        different = {name for name in facts if facts[name] != again[name]}
        assert different == {"path", "form", "bytes"}

    def test_leaks_between_splits_and_sizes(
        self, tiny: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        write_labels(tiny.folder, labels(["a", "a", "b"]))
        text = said(capsys, "info", tiny.folder)
        assert "leak         1 id(s) in both train and val: a" in text
        assert "GB (0.00 GiB)" in text
        assert "relabelled   " in text

    def test_health_after_damage(self, tiny: TinyCache, capsys: Capture) -> None:
        assert "never verified" in said(capsys, "info", tiny.folder)
        said(capsys, "verify", tiny.folder)
        assert "whole when verified at 20" in said(capsys, "info", tiny.folder)
        (path,) = (tiny.folder / "shards").iterdir()
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
        said(capsys, "verify", tiny.folder, code=1)
        assert "DAMAGED: 1 shard" in said(capsys, "info", tiny.folder)


def stranger(folder: Path) -> TinyCache:
    """A cache whose every free text tries to steer the terminal."""
    tiny = tiny_cache(folder)
    made = dataclasses.replace(tiny.identity, provenance={ESCAPE: ESCAPE, "list": [ESCAPE]})
    failures = [Failure("f", f"s{ESCAPE}", f"m{ESCAPE}"), Failure("g", "audio", ESCAPE)]
    write_shard(folder, made, [random_row("a", 0)], failures)
    write_labels(folder, labels(["a"], source=f"old {ESCAPE}"))
    write_labels(folder, labels(["a", "x"], source=ESCAPE, notes=[ESCAPE]))
    (folder / "shards" / f"{'0' * 32}.h5").write_bytes(b"no shard")
    return tiny


class TestTerminal:
    """What a stranger wrote into a cache does not reach the terminal as it is."""

    @pytest.mark.parametrize(
        "command", ["info", "diff", "verify", "repair", "pack", "merge", "pull"]
    )
    def test_escapes_are_shown_not_sent(
        self, tmp_path: Path, capsys: Capture, command: str
    ) -> None:
        folder = stranger(tmp_path / "stranger").folder
        mine = tiny_cache(tmp_path / "mine", labels(["a", "y"])).folder
        others: dict[str, list[str | Path]] = {
            "diff": [mine, folder],
            "merge": [folder, mine, "--into", tmp_path / "new"],
            "pack": [folder, tmp_path / "p.h5"],
            "pull": [folder, mine, "--dry-run"],
        }
        main([command, *map(str, others.get(command, [folder]))])
        out, err = capsys.readouterr()
        assert out + err
        assert all(c.isprintable() or c == "\n" for c in out + err)
        assert not re.search(r"^health       whole", out + err, re.MULTILINE)

    def test_nor_in_an_error_that_names_a_failure(self, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match="it failed: m") as caught:
            open_cache(stranger(tmp_path / "stranger").folder).row("f")
        assert str(caught.value).isprintable()

    def test_json_is_plain_ascii(self, tmp_path: Path, capsys: Capture) -> None:
        folder = stranger(tmp_path / "stranger").folder
        for arguments in (["info", folder], ["diff", folder, tiny_cache(tmp_path / "b").folder]):
            main([*map(str, arguments), "--json"])
            out = capsys.readouterr().out
            assert out.isascii()
            assert out.replace("\n", "").isprintable()
            assert "\\u001b" in out
            assert json.loads(out)

    def test_an_error_is_printable_too(self, tmp_path: Path, capsys: Capture) -> None:
        mine = tiny_cache(tmp_path / "mine")
        config = {**mine.identity.config, ESCAPE: 1}
        claim(tmp_path / "stranger", Identity(1, config, mine.identity.declaration, {}))
        where: list[str | Path] = [mine.folder, tmp_path / "stranger", "--into", tmp_path / "new"]
        text = said(capsys, "merge", *where, code=2)
        assert "owned" in text
        assert all(c.isprintable() or c == "\n" for c in text)

    def test_a_reader_that_has_gone(self, tiny: TinyCache) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        done = self.buffered(tiny, writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_output_to_a_full_disk(self, tiny: TinyCache) -> None:
        with Path("/dev/full").open("w") as full:
            done = self.buffered(tiny, full.fileno())
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line == "error: the output: No space left on device: make room"

    def buffered(self, tiny: TinyCache, out: int) -> subprocess.CompletedProcess[str]:
        """`info` to a descriptor, written at the end as Python does by default."""
        return subprocess.run(
            [sys.executable, "-m", "cache", "info", str(tiny.folder)],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )


class TestDiff:
    @pytest.fixture
    def other(self, tiny: TinyCache, tmp_path: Path) -> TinyCache:
        """The same as `tiny`, in other shards and with no index."""
        other = tiny_cache(tmp_path / "other", labels(["a", "b"]))
        failure = Failure("gone", "audio", "gone.wav: expected sound", 2)
        write_shard(other.folder, other.identity, [random_row("b", 1)])
        write_shard(other.folder, other.identity, [random_row("a", 0)], [failure])
        return other

    def test_nothing(
        self, tiny: TinyCache, other: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        said(capsys, "pack", other.folder, tmp_path / "p.h5", "--compress")
        for path in (other.folder, tmp_path / "p.h5", tiny.folder):
            assert said(capsys, "diff", tiny.folder, path).startswith("no difference")
            assert not difference(open_cache(path), open_cache(tiny.folder))

    def test_clip_by_clip(self, tiny: TinyCache, other: TinyCache, capsys: Capture) -> None:
        row = random_row("a", 0)
        row.features["audio/mel"][3, 2] += np.float16(0.5)
        write_shard(other.folder, other.identity, [row, random_row("c", 5)])
        write_shard(other.folder, other.identity, [], [Failure("b", "video", "bad")])
        write_labels(other.folder, labels(["a", "c"], classes=["Bark", "Horn"]))
        text = said(capsys, "diff", tiny.folder, other.folder, code=1)
        assert text.splitlines() == [
            "only in A  b",
            "only in B  c",
            "features   a: audio/mel by at most 0.5",
            "failure    b: A: no failure; B: video: bad",
            "events     b: A: [('Bell', 0.0, 1.0, 1)]; B: none",
            "events     c: A: none; B: [('Horn', 0.0, 1.0, 1)]",
            "classes    A: Bark, Bell; B: Bark, Horn",
        ]
        found = json.loads(said(capsys, "diff", tiny.folder, other.folder, "--json", code=1))
        assert (found["only_a"], found["only_b"]) == (["b"], ["c"])
        assert list(found["rows"]) == ["a"]
        assert sorted(found["events"]) == ["b", "c"]

    def test_by_settings(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        other = tiny_cache(tmp_path / "other", n_mels=16, modalities="audio")
        text = said(capsys, "diff", tiny.folder, other.folder, code=1)
        assert "setting    n_mels: 8 in A, 16 in B" in text
        assert "setting    modalities: 'both' in A, 'audio' in B" in text

    def test_limit(self, tmp_path: Path, capsys: Capture) -> None:
        a, b = tiny_cache(tmp_path / "a"), tiny_cache(tmp_path / "b")
        a.write(*"abcdef")
        text = said(capsys, "diff", a.folder, b.folder, "--limit", "2", code=1)
        assert text.splitlines() == [
            "only in A  a",
            "only in A  b",
            "only in A  … and 4 more clips, 6 in all",
        ]
        for limit in ("-1", "x"):
            with pytest.raises(SystemExit) as caught:
                main(["diff", str(a.folder), str(b.folder), f"--limit={limit}"])
            assert caught.value.code == 2

    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
    def test_numbers_that_are_none(
        self, tmp_path: Path, capsys: Capture, value: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As earlier releases stored them."""
        monkeypatch.setattr(cache.format.shard, "clip_problem", lambda *_: "")
        a, b = tiny_cache(tmp_path / "a"), tiny_cache(tmp_path / "b")
        for tiny, seed in ((a, 0), (b, 1)):
            row = random_row("a", seed)
            for array in row.features.values():
                array[...] = value
            row.features["audio/mel"][0, 0] = seed
            write_shard(tiny.folder, tiny.identity, [row])
        assert "audio/mel by at most 1" in said(capsys, "diff", a.folder, b.folder, code=1)


class TestRelabel:
    def untouched(self, tiny: TinyCache) -> dict[str, tuple[bytes, int]]:
        kept = [*(tiny.folder / "shards").iterdir(), tiny.folder / "cache.json"]
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}

    def test_csv_with_splits(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        before = self.untouched(tiny)
        (tmp_path / "new.csv").write_text(CSV)
        text = said(capsys, "relabel", tiny.folder, tmp_path / "new.csv")
        assert "2 events before, 3 of 2 classes now (new.csv, its own splits)" in text
        assert "features untouched, 1 of 3 clips without features\n" in text
        assert self.untouched(tiny) == before
        found = open_cache(tiny.folder)
        assert found.labels.ids == ["a", "b", "z"]
        assert found.labels.split.tolist() == [0, 2, 1]
        (entry,) = found.label_history()
        assert (entry["source"], entry["events"]) == ("events.csv", 2)
        assert "relabelled   20" in said(capsys, "info", tiny.folder)

    def test_clips_that_have_no_labels_are_told(
        self, tiny: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        assert "without labels" not in said(capsys, "info", tiny.folder)
        (tmp_path / "new.csv").write_text("id,category,start,end\na,x,0,1\n")
        text = said(capsys, "relabel", tiny.folder, tmp_path / "new.csv")
        assert f"without features, {len(open_cache(tiny.folder)) - 1} in the cache without" in text
        assert "clips without features, 1 without labels" in said(capsys, "info", tiny.folder)
        assert verify(tiny.folder).problems == []

    def test_ave_with_split_files(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "Annotations.txt"
        path.write_text(AVE)
        text = said(capsys, "relabel", tiny.folder, path, "--split-seed", "7")
        assert "divided 70/15/15 by id with seed 7" in text
        _, *rows = AVE.splitlines()
        for name, row in zip(("test", "train"), rows, strict=False):
            (tmp_path / f"{name}Set.txt").write_text(row)
        text = said(capsys, "relabel", tiny.folder, path)
        assert "(Annotations.txt, trainSet.txt, testSet.txt)" in text
        assert "note      1 event(s) are in no split" in text
        (tmp_path / "valSet.txt").write_text(rows[2])
        assert "valSet.txt" in said(capsys, "relabel", tiny.folder, path)
        found = open_cache(tiny.folder)
        assert found.labels.classes == ["Bark", "Bell"]
        assert found.labels.split.tolist() == [2, 0, 1]
        assert [entry["events"] for entry in found.label_history()] == [2, 3, 3]

    def test_leaks_are_told(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "new.csv").write_text(CSV + "a,Bell,0,1,test\n")
        text = said(capsys, "relabel", tiny.folder, tmp_path / "new.csv")
        assert "leak      1 id(s) in both train and test" in text

    def test_damaged_labels_are_what_it_mends(
        self, tiny: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "new.csv").write_text(CSV)
        (tiny.folder / "labels.h5").write_bytes(b"gone")
        assert "relabel" in said(capsys, "info", tiny.folder, code=2)
        text = said(capsys, "relabel", tiny.folder, tmp_path / "new.csv")
        assert "damaged labels before, 3 of 2 classes now" in text
        assert len(open_cache(tiny.folder).labels) == 3

    def test_a_pack_is_refused(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "new.csv").write_text(CSV)
        said(capsys, "pack", tiny.folder, tmp_path / "p.h5")
        before = (tmp_path / "p.h5").read_bytes()
        text = said(capsys, "relabel", tmp_path / "p.h5", tmp_path / "new.csv", code=2)
        assert "unpack it, relabel, pack again" in text
        assert (tmp_path / "p.h5").read_bytes() == before

    def test_bad_annotations_change_nothing(
        self, tiny: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        before = (tiny.folder / "labels.h5").read_bytes()
        for text in ("id,category\na,b\n", "id,category,start,end\n../a,b,0,1\n", ""):
            (tmp_path / "new.csv").write_text(text)
            assert "new.csv" in said(capsys, "relabel", tiny.folder, tmp_path / "new.csv", code=2)
        assert "can't be read" in said(capsys, "relabel", tiny.folder, "absent.csv", code=2)
        assert (tiny.folder / "labels.h5").read_bytes() == before

    def test_a_read_only_folder(self, tiny: TinyCache, tmp_path: Path) -> None:
        (tmp_path / "new.csv").write_text(CSV)
        python = f"{sys.executable} -m cache"
        lines = [
            f"mount --bind {tiny.folder} {tiny.folder} || exit 77",
            f"mount -o remount,bind,ro {tiny.folder} || exit 77",
            f"{python} relabel {tiny.folder} {tmp_path}/new.csv; echo $?",
            f"{python} verify {tiny.folder}; {python} info {tiny.folder} >&2",
        ]
        if not shutil.which("unshare"):
            pytest.skip("needs leave to mount a folder")
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "\n".join(lines)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 77 or done.stderr.startswith("unshare"):
            pytest.skip("needs leave to mount a folder")
        code, verified = done.stdout.splitlines()
        assert code == "2"
        assert verified.endswith("whole; 2 clips in 1 shards checked")
        first, note, *info = done.stderr.splitlines()
        assert "the file system is read-only; use a folder that can be written" in first
        assert note.startswith("note      the result can't be noted in the cache")
        assert info[0].startswith("cache ")


class TestJoining:
    def test_merge_says_what_it_did(self, tmp_path: Path, capsys: Capture) -> None:
        a, b = tiny_cache(tmp_path / "a"), tiny_cache(tmp_path / "b")
        a.write("a", "x")
        b.write("x", "b", seed=7)
        where: list[str | Path] = [a.folder, b.folder, "--into", tmp_path / "new"]
        text = said(capsys, "merge", *where, code=2)
        assert "1 clip(s) have different rows in these caches: x;" in text
        text = said(capsys, "merge", *where, "--prefer", f"{a.folder}/")
        assert "3 clips added, 0 were there already, 0 failures added, 1 conflicts settled" in text
        text = said(capsys, "merge", a.folder, "--into", tmp_path / "new")
        assert "0 clips added, 3 were there already" in text

    def test_pack_and_unpack(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        text = said(capsys, "pack", tiny.folder, tmp_path / "p.h5")
        assert text == f"{tmp_path}/p.h5: 2 clips, 0.00 GB (0.00 GiB)\n"
        text = said(capsys, "unpack", tmp_path / "p.h5", tmp_path / "new")
        assert "2 clips added, 0 were there already, 1 failures added" in text
        assert_same_rows(open_cache(tmp_path / "new"), open_cache(tiny.folder))
        assert "whole; 2 clips in 1 shards" in said(capsys, "verify", tmp_path / "p.h5")

    def test_what_is_no_pack(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        for path, why in (
            (tmp_path / "absent.h5", "no such file; expected one that `pack` wrote"),
            (tiny.folder, "no such file; expected one that `pack` wrote"),
            (Path(__file__), "not a readable HDF5 file"),
        ):
            assert why in said(capsys, "unpack", path, tmp_path / "new", code=2)
        assert not (tmp_path / "new").exists()

    def test_a_damaged_pack(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "p.h5"
        said(capsys, "pack", tiny.folder, path)
        start, _ = open_cache(path).index.layout("p.h5").span("audio/mel", 1, 2)
        data = bytearray(path.read_bytes())
        data[start] ^= 1
        path.write_bytes(data)
        text = said(capsys, "verify", path, code=1)
        assert "its bytes don't match its checksum" in text
        assert "damaged rows: b; get the file anew" in text
        assert "make features" not in text
        assert "verify" in said(capsys, "unpack", path, tmp_path / "new", code=2)
        assert "never changed" in said(capsys, "repair", path, code=2)
        assert not (tmp_path / "new").exists()


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


class TestUsage:
    @pytest.mark.parametrize("name", sorted(subcommands()))
    def test_help_teaches(self, name: str, capsys: Capture) -> None:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"usage: python -m cache {name}" in text
        assert len(subcommands()[name].description or "") > 20
        for action in subcommands()[name]._actions:
            assert action.help or action.metavar, action

    def test_all_are_listed(self, capsys: Capture) -> None:
        with pytest.raises(SystemExit):
            main(["--help"])
        text = capsys.readouterr().out
        for name in subcommands():
            assert re.search(rf"\n    {name}\s", text), name
        assert "Exit codes: 0 fine, 1 damage or a difference found, 2" in " ".join(text.split())

    @pytest.mark.parametrize(
        "arguments",
        [[], ["infos", "x"], ["info"], ["merge", "a"], ["pack", "a"], ["info", "a", "--js"]],
        ids=" ".join,
    )
    def test_wrong_usage_is_2(self, arguments: list[str], capsys: Capture) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: python -m cache" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["info", "absent"],
            ["info", "pyproject.toml"],
            ["verify", "absent"],
            ["verify", "tests"],
            ["repair", "absent"],
            ["diff", "absent", "absent"],
            ["merge", "absent", "--into", "new"],
            ["pack", "absent", "p.h5"],
            ["unpack", "absent", "new"],
            ["relabel", "absent", "x.csv"],
        ],
        ids=" ".join,
    )
    def test_errors_are_one_line(
        self, arguments: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(ROOT)
        text = said(capsys, *arguments, code=2)
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        assert not (ROOT / "new").exists()

    def test_as_a_program(self, tiny: TinyCache) -> None:
        done = run("info", tiny.folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("cache ")
        done = run("info", "absent")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")


def test_a_polite_kill_stops_like_ctrl_c() -> None:
    def stop() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert exit_code(stop) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
