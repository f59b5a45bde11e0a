"""`python -m cache import`: arrays of a folder and of HDF5 files, as a cache like any other."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from cache import open_cache
from cache.__main__ import main

ONE = ["--field", "audio/clap", "--rate", "1", "--first", "0.5"]


def vectors(seed: int, steps: int = 10) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((steps, 4)).astype(np.float32)


def folder_of(path: Path, count: int = 5) -> Path:
    path.mkdir()
    for n in range(count):
        np.save(path / f"-clip{n}.npy", vectors(n))
    return path


def test_a_folder_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, into = folder_of(tmp_path / "npy"), str(tmp_path / "clap")
    assert main(["import", str(source), "--into", into, *ONE, "--about", "CLAP"]) == 0
    cache = open_cache(into)
    assert cache.ids == [f"-clip{n}" for n in range(5)]
    assert cache.fields["audio/clap"].shape == (10, 4)
    np.testing.assert_array_equal(cache.read("audio/clap", [3])[0], vectors(3))
    assert "finished  5 of 5 clips" in capsys.readouterr().out
    for command in (["info", into], ["verify", into]):
        assert main(command) == 0


def test_a_second_call_does_only_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, into = folder_of(tmp_path / "npy"), str(tmp_path / "clap")
    call = ["import", str(source), "--into", into, *ONE]
    assert main(call) == 0
    np.save(source / "new.npy", vectors(9))
    np.save(source / "-clip1.npy", vectors(8)[:6])  # changed: shorter
    assert main(call) == 0
    assert "done 4, to do 2" in capsys.readouterr().out
    cache = open_cache(into)
    assert cache.read("rows/audio_steps", [cache.row("-clip1")]).tolist() == [6]


def test_what_is_wrong_with_one_is_told_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, into = folder_of(tmp_path / "npy", 2), str(tmp_path / "clap")
    np.save(source / "nan.npy", np.full((10, 4), np.nan, np.float32))
    np.save(source / "wide.npy", np.zeros((10, 5), np.float32))
    np.save(source / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (source / "text.npy").write_text("no array")
    whole = (source / "-clip0.npy").read_bytes()
    (source / "cut.npy").write_bytes(whole[:-20])
    (source / "link.npy").symlink_to(source / "-clip0.npy")
    os.mkfifo(source / "pipe.npy")
    assert main(["import", str(source), "--into", into, *ONE]) == 1
    cache = open_cache(into)
    assert cache.ids == ["-clip0", "-clip1"]
    names = ["cut", "link", "nan", "pickle", "pipe", "text", "wide"]
    assert sorted(cache.index.failures) == names
    told = capsys.readouterr().err
    assert all(f"failed    {name} " in told for name in names)


def test_a_zip_that_grows_is_not_expanded(tmp_path: Path) -> None:
    source = tmp_path / "npz"
    source.mkdir()
    np.savez(source / "good.npz", clap=vectors(0))
    header = np.lib.format.magic(1, 0)
    with zipfile.ZipFile(source / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 40},), }}"
        text += " " * (117 - len(text)) + "\n"
        archive.writestr("clap.npy", header + len(text).to_bytes(2, "little") + text.encode())
    assert main(["import", str(source), "--into", str(tmp_path / "c"), *ONE]) == 1
    cache = open_cache(tmp_path / "c")
    assert cache.ids == ["good"]
    assert "expected numbers of at most" in cache.index.failures["bomb"].message


def test_several_fields_of_an_npz_by_a_declaration(tmp_path: Path) -> None:
    source, spec = tmp_path / "npz", tmp_path / "fields.json"
    source.mkdir()
    for n in range(3):
        np.savez_compressed(source / f"c{n}.npz", clap=vectors(n), clip=np.full((8, 6), n))
    audio = {"name": "audio/clap", "shape": [10, 4], "dtype": "float16", "clock": {"rate_hz": 1.0}}
    video = {"name": "video/clip", "shape": [8, 6], "dtype": "float32"}
    spec.write_text(json.dumps({"fields": [audio, video]}))
    into = str(tmp_path / "both")
    assert main(["import", str(source), "--into", into, "--spec", str(spec)]) == 0
    cache = open_cache(into)
    np.testing.assert_array_equal(cache.read("video/clip", [2])[0], np.full((8, 6), 2))
    assert cache.fields["audio/clap"].dtype == "float16"


def test_an_hdf5_file_with_a_dataset_for_each_id(tmp_path: Path) -> None:
    source = tmp_path / "clip.h5"
    with h5py.File(source, "w") as file:
        for n in range(3):
            file[f"c{n}"] = vectors(n)
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    assert main(["import", str(source), "--into", str(tmp_path / "c"), *ONE]) == 1
    cache = open_cache(tmp_path / "c")
    assert cache.ids == ["c0", "c1", "c2"]
    assert list(cache.index.failures) == ["elsewhere"]


@pytest.mark.parametrize("chunks", [None, (2, 10, 4)])
def test_one_stacked_array_with_a_list_of_ids(
    tmp_path: Path, chunks: tuple[int, ...] | None
) -> None:
    source, ids = tmp_path / "all.h5", tmp_path / "ids.txt"
    stacked = np.stack([vectors(n) for n in range(40)])
    with h5py.File(source, "w") as file:
        file.create_dataset("features", data=stacked, chunks=chunks)
    ids.write_text("".join(f"id{n:02d}\n" for n in range(40)))
    call = ["import", str(source), "--dataset", "features", "--ids", str(ids), *ONE]
    assert main([*call, "--into", str(tmp_path / "c")]) == 0
    np.testing.assert_array_equal(open_cache(tmp_path / "c").read("audio/clap"), stacked)


@pytest.mark.parametrize(
    ("lines", "message"),
    [(3, "expected 3 rows"), (5, "expected 5 rows")],
)
def test_a_list_that_does_not_fit_is_refused(
    tmp_path: Path, lines: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, ids = tmp_path / "all.h5", tmp_path / "ids.txt"
    with h5py.File(source, "w") as file:
        file["features"] = np.zeros((4, 10, 4))
    ids.write_text("".join(f"id{n}\n" for n in range(lines)))
    call = ["import", str(source), "--dataset", "features", "--ids", str(ids), *ONE]
    assert main([*call, "--into", str(tmp_path / "c")]) == 2
    assert message in capsys.readouterr().err


def test_ids_that_stand_twice_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path / "npy", 2)
    np.savez(source / "-clip0.npz", clap=vectors(0))
    assert main(["import", str(source), "--into", str(tmp_path / "c"), *ONE]) == 2
    assert "'-clip0' stands twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--field", "clap"],
        ["--field", "audio/a b"],
        ["--field", "audio/clap", "--rate", "0"],
        ["--field", "audio/clap", "--rate", "nan"],
        ["--field", "audio/clap", "--dtype", "object"],
        ["--field", "audio/clap", "--rate", "1", "--clip-seconds", "0"],
        ["--spec", "nothing.json"],
    ],
)
def test_a_field_that_is_none_is_refused(tmp_path: Path, words: list[str]) -> None:
    source = folder_of(tmp_path / "npy", 1)
    try:
        code = main(["import", str(source), "--into", str(tmp_path / "c"), *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert not (tmp_path / "c").exists()
