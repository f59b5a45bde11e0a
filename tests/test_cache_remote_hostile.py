"""Web servers that mean harm, and addresses that fsspec would read otherwise than they look."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from remote_places import assert_same, files_at, leftovers, served, url_of
from servers import HttpServer, SshServer
from small_media import TinyCache, tiny_cache

import cache.remote.web
from cache import CacheError, open_cache
from cache.__main__ import main
from cache.common.cli import say
from cache.common.url import hidden, parse_address, shown
from cache.remote.cache import RemoteCache
from cache.remote.connection import explained
from cache.remote.store import Remote
from cache.remote.web import check_redirect
from cache.share.push import PushOptions, plan_push

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def web(http_server: HttpServer, home: TinyCache, tmp_path: Path) -> str:
    """The URL of a copy of `home` on a web server."""
    return served(http_server, home.folder, tmp_path)


@dataclass(frozen=True)
class One:
    """A cache on a web server, a file that lists one of its clips, and the shard that has it."""

    url: str
    ids: Path
    shard: str


@pytest.fixture
def one(http_server: HttpServer, big: Path, tmp_path: Path) -> One:
    """A clip that travels as ranges."""
    found = open_cache(big)
    clip_id = found.ids[5]
    (tmp_path / "ids").write_text(clip_id)
    url = served(http_server, big, tmp_path / "one")
    return One(url, tmp_path / "ids", found.index.clips[clip_id].shard)


def refused(capsys: Capture, *arguments: str | Path) -> str:
    """The one line that a pull says when it gives up, having left nothing half-done."""
    back = Path(arguments[1])
    assert main(["pull", *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not leftovers(back)
    return lines[0]


class TestDripping:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache.remote.web, "WINDOW_S", 2.0)

    @pytest.mark.parametrize("name", ["cache.json", "index.h5", "labels.h5", ".h5"])
    def test_is_given_up_and_what_came_before_kept(
        self,
        name: str,
        web: str,
        http_server: HttpServer,
        home: TinyCache,
        tmp_path: Path,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shard = min(path.name for path in home.folder.glob("shards/*.h5"))
        only = shard if name == ".h5" else name
        with http_server.behaving(only=only, drip=1, says=5000):
            error = refused(capsys, web, tmp_path / "back", "--jobs", "1")
        assert "fewer than 1,000 a second: given up" in error
        assert "--min-rate 0" in error
        assert only in error
        monkeypatch.setattr(cache.remote.web, "WINDOW_S", 60.0)
        assert main(["pull", web, str(tmp_path / "back")]) == 0
        assert_same(home.folder, tmp_path / "back")

    def test_in_ranges_is_given_up_too(
        self,
        one: One,
        http_server: HttpServer,
        tmp_path: Path,
        capsys: Capture,
    ) -> None:
        with http_server.behaving(only=one.shard, drip=1):
            error = refused(capsys, one.url, tmp_path / "back", "--ids", one.ids)
        assert "fewer than 1,000 a second: given up" in error

    def test_is_waited_for_where_that_is_allowed(
        self,
        web: str,
        http_server: HttpServer,
        tmp_path: Path,
        capsys: Capture,
    ) -> None:
        """(It ends here because 60 bytes are no cache.json.)"""
        with http_server.behaving(only="cache.json", drip=1, says=60):
            error = refused(capsys, web, tmp_path / "back", "--min-rate", "0")
        assert "not a cache identity" in error


class TestWithoutEnd:
    @pytest.mark.parametrize("name", ["cache.json", "index.h5", "labels.h5"])
    def test_a_table_is_read_no_further_than_one_can_be(
        self, name: str, web: str, http_server: HttpServer, tmp_path: Path, capsys: Capture
    ) -> None:
        with http_server.behaving(only=name, endless=1):
            error = refused(capsys, web, tmp_path / "back")
        assert f"/{name}: larger than " in error
        assert not (tmp_path / "back").exists()

    def test_one_that_says_so_is_not_read_at_all(
        self, web: str, http_server: HttpServer, tmp_path: Path, capsys: Capture
    ) -> None:
        with http_server.behaving(only="index.h5", endless=1, says=2_200_000_000):
            error = refused(capsys, web, tmp_path / "back")
        assert "index.h5: larger than 268,435,456 bytes; refused" in error

    def test_a_shard_is_read_no_further_than_its_size(
        self, web: str, http_server: HttpServer, home: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        shard = min(path.name for path in home.folder.glob("shards/*.h5"))
        with http_server.behaving(only=shard, endless=1):
            error = refused(capsys, web, tmp_path / "back", "--jobs", "1")
        assert "don't match its name" in error

    def test_memory_stays_small(self, web: str, http_server: HttpServer, tmp_path: Path) -> None:
        code = (
            "import sys, resource; from cache.__main__ import main; import aiohttp, cache.remote\n"
            "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "assert main(['pull', *sys.argv[1:]]) == 2\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) >> 10)"
        )
        with http_server.behaving(only="index.h5", endless=1):
            done = subprocess.run(
                [sys.executable, "-c", code, web, str(tmp_path / "back")],
                capture_output=True,
                text=True,
                check=True,
            )
        assert int(done.stdout) < 200  # MiB

    def test_what_is_packed_is_not_unpacked(
        self, web: str, http_server: HttpServer, tmp_path: Path, capsys: Capture
    ) -> None:
        with http_server.behaving(only="index.h5", endless=1, packed=1):
            error = refused(capsys, web, tmp_path / "back")
        assert "the server sends it packed (gzip)" in error


@pytest.mark.parametrize("how", ["wrong_range", "ignore_range", "endless"])
def test_ranges_that_are_others_are_not_taken(
    how: str, one: One, http_server: HttpServer, tmp_path: Path, capsys: Capture
) -> None:
    with http_server.behaving(only=one.shard, **{how: 1}):
        error = refused(capsys, one.url, tmp_path / "back", "--ids", one.ids)
    assert "asked for bytes" in error


class TestRedirects:
    def test_to_another_host_are_refused_unless_allowed(
        self,
        web: str,
        http_server: HttpServer,
        home: TinyCache,
        tmp_path: Path,
        capsys: Capture,
    ) -> None:
        other = f"http://localhost:{http_server.port}"
        with http_server.behaving(times=1, redirect=other):
            error = refused(capsys, web, tmp_path / "back")
        assert f"redirects to {other}" in error
        assert "--allow-redirects" in error
        with http_server.behaving(times=2, redirect=other):
            assert main(["pull", web, str(tmp_path / "back"), "--allow-redirects"]) == 0
        assert_same(home.folder, tmp_path / "back")

    def test_of_ranges_are_refused_as_well(
        self, one: One, http_server: HttpServer, tmp_path: Path, capsys: Capture
    ) -> None:
        with http_server.behaving(only=one.shard, redirect=f"http://localhost:{http_server.port}"):
            error = refused(capsys, one.url, tmp_path / "back", "--ids", one.ids)
        assert "another host; refused" in error

    def test_within_the_host_are_followed(
        self, web: str, http_server: HttpServer, home: TinyCache, tmp_path: Path
    ) -> None:
        with http_server.behaving(times=1, redirect=http_server.url):
            assert main(["pull", web, str(tmp_path / "back")]) == 0
        assert_same(home.folder, tmp_path / "back")

    @pytest.mark.parametrize(
        ("at", "to", "others", "wanted"),
        [
            ("https://a/x", "https://a/y", False, ""),
            ("http://a/x", "https://a/x", False, ""),
            ("http://a:8000/x", "http://a:9000/x", False, "another host"),
            ("https://a/x", "https://b/x", False, "another host"),
            ("https://a/x", "https://b/x", True, ""),
            ("https://a/x", "http://a/x", True, "can read and change"),
            ("https://a/x", "http://b/x", True, "can read and change"),
            ("https://a/x", "file:///etc/passwd", True, "can read and change"),
            ("https://a/x", "https://b/x?sig=secret", False, "another host"),
        ],
    )
    def test_by_where_they_lead(self, at: str, to: str, others: bool, wanted: str) -> None:
        from yarl import URL

        if not wanted:
            check_redirect(URL(at), URL(to), others)
            return
        with pytest.raises(CacheError, match=wanted) as caught:
            check_redirect(URL(at), URL(to), others)
        assert "secret" not in str(caught.value)


SECRETS = {
    "https://u:p@h/x": "https://u:***@h/x",
    "https://u:p@ss/wo:rd@h/x": "https://u:***@h/x",
    "https://ghp_token@h/x": "https://***@h/x",
    "ssh://me@h:22/srv/@x": "ssh://me@h:22/srv/@x",
    "https://h:8000/@user/x": "https://h:8000/@user/x",
    "https://h/x?token=abc": "https://h/x?***",
    "https://h/x/cache.json?X-Amz-Signature=abc&sig=d": "https://h/x/cache.json?***",
    "s3://b/k?versionId=1": "s3://b/k?***",
    "/srv/what?/x": "/srv/what?/x",
    "file:///srv/what?/x": "file:///srv/what?/x",
}


class TestSecrets:
    @pytest.mark.parametrize("url", SECRETS)
    def test_are_not_shown(self, url: str) -> None:
        assert shown(url) == SECRETS[url]
        assert shown(shown(url)) == shown(url)
        assert hidden(f"at {url} now") == f"at {SECRETS[url]} now"

    def test_are_not_in_what_libraries_say(self) -> None:
        with pytest.raises(CacheError) as caught, explained("here"):
            raise RuntimeError("Cannot connect to https://u:p@h/x?token=abc [None]")
        assert str(caught.value) == (
            "here: RuntimeError: Cannot connect to https://u:***@h/x?*** [None]"
        )

    @pytest.mark.parametrize("status", [200, 401, 403, 404, 500, 302])
    def test_open_every_file_and_are_never_printed(
        self,
        status: int,
        web: str,
        http_server: HttpServer,
        home: TinyCache,
        tmp_path: Path,
        capsys: Capture,
    ) -> None:
        url = web.replace("//", "//me:opensesame@") + "?token=opensesame&sig=opensesame"
        if status == 200:
            assert main(["pull", url, str(tmp_path / "back")]) == 0
            assert_same(home.folder, tmp_path / "back")
        elif status == 302:
            with http_server.behaving(redirect=f"http://localhost:{http_server.port}"):
                refused(capsys, url, tmp_path / "back")
        else:
            with http_server.behaving(status=status):
                refused(capsys, url, tmp_path / "back")
        told = capsys.readouterr()
        assert "opensesame" not in told.out + told.err
        for data in files_at(tmp_path / "back").values() if status == 200 else []:
            assert b"opensesame" not in data

    def test_and_a_host_that_is_not_there(self, tmp_path: Path, capsys: Capture) -> None:
        pytest.importorskip("aiohttp")
        for host in ("127.0.0.1:1", "no-such.invalid"):
            url = f"http://me:opensesame@{host}/x?token=opensesame"
            assert "opensesame" not in refused(capsys, url, tmp_path / "back")

    @pytest.mark.parametrize("kind", ["https:/", "https://me:opensesame@", "http://", "s3://"])
    def test_in_the_place_of_a_folder(
        self, kind: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An address is no path: as one it would be shown whole, and a folder be made of it."""
        monkeypatch.chdir(tmp_path)
        tiny_cache(tmp_path / "c")
        url = f"{kind}h/x.h5?token=opensesame"
        places = (
            *(f"{one} URL" for one in ("info", "verify", "repair", "pack c")),
            *("push URL c", "pull c URL", "merge c --into URL", "merge URL --into new"),
            *("diff c URL", "diff URL c", "unpack URL new", "relabel c URL", "relabel URL c"),
            *("pull c new --ids URL", "info c URL", "info c --URL"),
        )
        for words in places:
            with pytest.raises(SystemExit) as caught:
                main(words.replace("URL", url).split())
            told = capsys.readouterr()
            assert caught.value.code == 2
            assert "h/x.h5?***" in told.err
            assert "opensesame" not in told.out + told.err, words
        assert [path.name for path in tmp_path.iterdir()] == ["c"]

    @pytest.mark.parametrize(
        "url", ["https:/h/x?token=opensesame", "s3://key:opensesame@b/x", "s3://opensesame@b/x"]
    )
    def test_in_an_address_that_can_not_be(self, url: str, tmp_path: Path, capsys: Capture) -> None:
        assert "opensesame" not in refused(capsys, url, tmp_path / "back")

    def test_are_not_said_whoever_says_it(self, capsys: Capture) -> None:
        say('at https://u:p@h/x?token=abc: no; {"at": "https://h/x?token=abc", "b": 1}')
        say("https://h/x?***/cache.json: not there", error=True)
        told = capsys.readouterr()
        assert told.out == 'at https://u:***@h/x?***: no; {"at": "https://h/x?***", "b": 1}\n'
        assert told.err == "https://h/x?***/cache.json: not there\n"


class TestAddresses:
    @pytest.mark.parametrize(
        "name",
        [
            "2026::run/ave",
            "2026::s3://run",
            "C:\\data\\ave",
            "with space #1 ?x=1 %20 ~",
            "~",
            "[ab]*/{x,y}",
            "host:/srv/ave",
            "caf\udce9",
        ],
    )
    def test_a_folder_is_taken_as_it_is_given(
        self,
        name: str,
        home: TinyCache,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> None:
        work = tmp_path / "work"
        work.mkdir()
        (work / "a").mkdir()  # which a pattern would match
        monkeypatch.chdir(work)
        places = {
            name: Path(name),
            str(work / "whole" / name): work / "whole" / name,
            f"file://{work}/url/{name}": work / "url" / name,
        }
        for number, (url, folder) in enumerate(places.items()):
            assert main(["push", str(home.folder), url]) == 0
            assert (folder / "cache.json").exists()
            assert main(["pull", url, str(tmp_path / f"back{number}")]) == 0
            assert_same(home.folder, tmp_path / f"back{number}")
        first = Path(name).parts[0]
        assert {path.name for path in work.iterdir()} == {"a", "whole", "url", first}

    @pytest.mark.parametrize(
        "name", ["2026::run", "#1 ?x=1 %20", "[ab]*", "C:\\data"], ids=lambda name: name[:4]
    )
    def test_so_is_one_behind_ssh(
        self,
        name: str,
        home: TinyCache,
        tmp_path: Path,
        ssh: SshServer,
    ) -> None:
        url = ssh.url(tmp_path / "far") + "/" + name
        assert main(["push", str(home.folder), url]) == 0
        assert open_cache(tmp_path / "far" / name).ids == ["a", "b", "c", "d", "e", "f"]
        assert main(["pull", url, str(tmp_path / "back")]) == 0
        assert_same(home.folder, tmp_path / "back")

    @pytest.mark.parametrize(
        "url",
        [
            "simplecache::https://h/x",
            "filecache::s3://b/x",
            "zip://inner::https://h/x.zip",
            "zip:///srv/x.zip",
            "https://h/x::zip://y",
            "simplecache::/srv/x",
        ],
    )
    def test_places_on_top_of_each_other_are_refused(
        self, url: str, home: TinyCache, tmp_path: Path, capsys: Capture
    ) -> None:
        assert "one on top of the other" in refused(capsys, url, tmp_path / "back")
        assert main(["push", str(home.folder), url]) == 2
        assert "one on top of the other" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("url", "wanted"),
        [
            ("file://srv/x", "expected a whole path after file://"),
            ("file://~/x", "expected a whole path after file://"),
            ("https://h/x#y", "write %23"),
            ("", "an empty address"),
        ],
    )
    def test_others_that_would_surprise(
        self, url: str, wanted: str, tmp_path: Path, capsys: Capture
    ) -> None:
        assert wanted in refused(capsys, url, tmp_path / "back")

    def test_their_parts(self) -> None:
        for url, parts in {
            "http://[::1]:80/x/": ("http", "http://[::1]:80/x", ""),
            "HTTPS://h/a::b?t=a b": ("https", "HTTPS://h/a::b", "?t=a%20b"),
            "ssh://me@h:22/srv/a?b#c": ("ssh", "/srv/a?b#c", ""),
            "s3://b/x": ("s3", None, ""),
            "file:/srv/x": ("file", "/srv/x", ""),
            "./simplecache::x": ("file", str(Path.cwd() / "simplecache::x"), ""),
        }.items():
            found = parse_address(url)
            assert (found.protocol, found.root, found.query) == parts


@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_a_push_through_a_link_is_refused(
    kind: str,
    home: TinyCache,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: Capture,
) -> None:
    far = tmp_path / "far"
    url = url_of(kind, far, request)
    (tmp_path / "elsewhere").mkdir()
    far.mkdir()
    (far / "shards").symlink_to(tmp_path / "elsewhere")
    for more in ([], ["--dry-run"]):
        assert main(["push", str(home.folder), url, *more]) == 2
        assert "shards: a link, expected a folder" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (far / "shards").unlink()
    shutil.rmtree(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(far)  # the place itself may be reached by one
    assert main(["push", str(home.folder), url.replace(str(far), str(tmp_path / "link"))]) == 0
    assert_same(home.folder, far)


def test_a_link_that_comes_later_takes_nothing_either(home: TinyCache, tmp_path: Path) -> None:
    """Between the plan and the writing."""
    far = tmp_path / "far"
    with RemoteCache(Remote(str(far))) as there:
        plan_push(open_cache(home.folder), there, PushOptions())
        (tmp_path / "elsewhere").mkdir()
        far.mkdir()
        (far / "shards").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CacheError, match="a link, expected a folder"):
            there.remote.put("shards/" + "0" * 32 + ".h5", b"x", lambda count: None)
    assert list((tmp_path / "elsewhere").iterdir()) == []
