"""How the three command lines speak: whatever the terminal can show, and wherever output goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_media import TinyCache, tiny_cache

import cache.__main__
import extract.__main__
import extract.demo.__main__
import train.__main__
from cache import CacheError
from cache.common.cli import exit_code, printable, say
from cache.format.shard import Failure

ROOT = Path(__file__).resolve().parent.parent
EVIL = "\x1b[2J\x1b]0;title\x07\u202egpj\u200b\u2028\r\x9b\ud800"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    """A cache whose screen has characters that latin-1 lacks, and a failure with escapes."""
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("a", failures=[Failure("b", "audio", f"no {EVIL} sound → …")])
    tiny.store_index()
    return tiny


def run(shell: str, *arguments: object, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program with the shell's redirections; gives its exit code and what stderr got."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.system
class TestOutput:
    @pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
    @pytest.mark.parametrize(
        "arguments",
        [
            ["cache", "info", "CACHE"],
            ["cache", "push", "--help"],
            ["cache", "absent → …"],
            ["extract", "--help"],
            ["train"],
        ],
        ids=" ".join,
    )
    def test_of_an_encoding_that_lacks_characters(
        self, encoding: str, arguments: list[str], tiny: TinyCache
    ) -> None:
        words = [str(tiny.folder) if word == "CACHE" else word for word in arguments]
        code, error = run("", "-m", *words, env={"PYTHONIOENCODING": encoding})
        assert "Traceback" not in error
        assert code == (2 if arguments in (["train"], ["cache", "absent → …"]) else 0)

    @pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>&-", "2>/dev/full"])
    def test_that_is_closed_is_none(self, closed: str, tiny: TinyCache, tmp_path: Path) -> None:
        """The exit code is that of the work, and no file gets what should have been printed."""
        assert run(closed, "-m", "cache", "info", tiny.folder) == (0, "")
        assert run(closed, "-m", "cache", "pack", tiny.folder, tmp_path / "p.h5") == (0, "")
        assert run(closed, "-m", "cache", "verify", tmp_path / "p.h5") == (0, "")
        code, error = run(closed, "-m", "cache", "--nonsense")
        assert code == 2
        assert "Traceback" not in error

    @pytest.mark.parametrize("module", ["train", "extract"])
    def test_that_is_closed_is_none_of_the_others_either(self, module: str) -> None:
        for closed in (">&-", "<&- >&- 2>&-"):
            code, error = run(closed, "-m", module, "--nonsense")
            assert code == 2
            assert "Traceback" not in error

    def test_on_a_full_disk_is_told(self, tiny: TinyCache) -> None:
        for arguments in (["info", tiny.folder], ["--help"]):
            code, error = run(">/dev/full", "-m", "cache", *arguments)
            assert "Traceback" not in error
            if arguments[0] == "info":
                assert code == 2
                assert error == "error: the output: No space left on device: make room\n"

    def test_that_nobody_reads(self, tiny: TinyCache) -> None:
        """The reader's end of the pipe is closed before anything is written."""
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "cache", "info"]
        for path, code in {str(tiny.folder): 1, "absent": 2}.items():
            for error in (subprocess.PIPE, writing):
                done = subprocess.run(
                    [*command, path], cwd=ROOT, stdout=writing, stderr=error, check=False
                )
                assert done.returncode == code
                assert b"Traceback" not in (done.stderr or b"")
                assert b"Exception ignored" not in (done.stderr or b"")
        os.close(writing)

    def test_an_error_that_cannot_be_said_stops_no_work(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Path("/dev/full").open("w") as full:
            monkeypatch.setattr(sys, "stderr", full)
            say("note      on the way", error=True)


class TestEscapes:
    def test_none_is_printable(self) -> None:
        assert printable(EVIL) == "?[2J?]0;title??gpj?????"
        assert printable({f"a{EVIL}": [EVIL, 1, None]})["a" + printable(EVIL)][1:] == [1, None]
        assert printable("é → … 日本 😀 x\u0301") == "é → … 日本 😀 x\u0301"

    def test_say_keeps_line_ends_alone(self, capsys: Capture) -> None:
        say(f"one\ntwo{EVIL}\n\tthree")
        assert capsys.readouterr().out == f"one\ntwo{printable(EVIL)}\n?three\n"
        say(f"one\ntwo{EVIL}", one_line=True)
        assert capsys.readouterr().out == f"one?two{printable(EVIL)}\n"

    def test_of_errors(self, capsys: Capture) -> None:
        def fail() -> int:
            raise CacheError(f"no {EVIL} cache")

        assert exit_code(fail) == 2
        assert capsys.readouterr().err == f"error: no {printable(EVIL)} cache\n"

    def test_of_files(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        """Failure messages, in whatever is printed of them."""
        other = tiny_cache(tmp_path / "other")
        folder = tmp_path / f"to{EVIL[:8]}"
        for arguments in (
            ["info", tiny.folder],
            ["diff", tiny.folder, other.folder],
            ["push", tiny.folder, folder],
            ["pull", folder, tmp_path / f"back{EVIL[:8]}"],
            ["merge", tiny.folder, "--into", tmp_path / f"all{EVIL[:8]}"],
            ["verify", folder],
            ["info", folder / "absent"],
        ):
            cache.__main__.main([str(word) for word in arguments])
        told = capsys.readouterr()
        said = told.out + told.err
        assert "?[2J" in said
        assert all(line.isprintable() for line in said.splitlines()), said

    @pytest.mark.parametrize(
        ("main", "arguments"),
        [
            (cache.__main__.main, ["info", "x", f"file{EVIL}"]),
            (cache.__main__.main, [f"info{EVIL}"]),
            (extract.__main__.main, [f"--data{EVIL}", "x"]),
            (extract.__main__.main, ["--data", "x", f"stray{EVIL}"]),
            (extract.__main__.main, ["clip", "--like", "x", "--cache", "y", "z", f"{EVIL}"]),
            (extract.demo.__main__.main, ["x", f"file{EVIL}"]),
            (train.__main__.main, [f"fit{EVIL}"]),
            (train.__main__.main, ["report", "--split", f"{EVIL}", "x"]),
            (train.__main__.main, ["fit", "--cache", "x", f"--width{EVIL}", "3"]),
        ],
        ids=lambda value: getattr(value, "__module__", None) or ascii(value)[-20:],
    )
    def test_of_arguments_that_are_repeated(
        self, main: object, arguments: list[str], capsys: Capture
    ) -> None:
        assert callable(main)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        assert code == 2
        said = capsys.readouterr().err
        assert said
        assert all(line.isprintable() for line in said.split("\n")), ascii(said)

    def test_json_has_none_either(self, tiny: TinyCache, capsys: Capture) -> None:
        assert cache.__main__.main(["info", str(tiny.folder), "--json"]) == 0
        said = capsys.readouterr().out
        assert said.isascii()
        assert json.loads(said)["clips"] == 1
