"""The servers of servers.py really serve: else the tests that use them would prove nothing."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from servers import HttpServer, S3Server, SshServer

CONTENT = bytes(range(256)) * 400


def test_ssh_server_reads_ranges_and_takes_files(ssh_server: SshServer, tmp_path: Path) -> None:
    pytest.importorskip("sshfs")
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fs, root = fsspec.url_to_fs(ssh_server.url(tmp_path), **ssh_server.options)
    with fs.open(f"{root}/a.bin") as file:
        file.seek(1000)
        assert file.read(500) == CONTENT[1000:1500]
    fs.put_file(str(tmp_path / "a.bin"), f"{root}/new/b.bin")
    assert (tmp_path / "new/b.bin").read_bytes() == CONTENT


def test_http_server_reads_ranges_and_logs_them(http_server: HttpServer) -> None:
    (http_server.folder / "ranges.bin").write_bytes(CONTENT)
    fs, path = fsspec.url_to_fs(f"{http_server.url}/ranges.bin")
    assert fs.cat_file(path, start=1000, end=1500) == CONTENT[1000:1500]
    (request,) = [r for r in http_server.requests("/ranges.bin") if r["method"] == "GET"]
    assert (request["range"], request["status"], request["bytes"]) == ("bytes=1000-1499", 206, 500)


def test_http_server_cuts_connections_as_often_as_told(http_server: HttpServer) -> None:
    from aiohttp import ClientPayloadError

    (http_server.folder / "cut.bin").write_bytes(CONTENT)
    fs, path = fsspec.url_to_fs(f"{http_server.url}/cut.bin")
    with http_server.cut_after(1000, times=1):
        with pytest.raises(ClientPayloadError):
            fs.cat_file(path)
        assert fs.cat_file(path) == CONTENT


@pytest.mark.system
def test_s3_server_reads_ranges_and_takes_files(s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fs, root = fsspec.url_to_fs(s3_server.bucket("served"), **s3_server.options)
    fs.put_file(str(tmp_path / "a.bin"), f"{root}/folder/a.bin")
    assert fs.cat_file(f"{root}/folder/a.bin", start=1000, end=1500) == CONTENT[1000:1500]
