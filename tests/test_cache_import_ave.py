"""AVE's published features as a cache: files of the true names, shapes and keys, made small."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from cache import open_cache
from cache.__main__ import main
from cache.labels.files import read_ave

ROWS = [  # category, id, start, end
    ("Church bell", "aaa", 0, 10),
    ("Bark", "bbb", 2, 5),
    ("Church bell", "-cc", 6, 8),
    ("Bark", "aaa", 1, 2),  # a second event of an id
    ("Cat", "ddd", 0, 0),
    ("Cat", "eee", 9, 10),
]


def published(folder: Path, noisy: bool = True) -> Path:
    """The files of the dataset's authors, for ROWS."""
    folder.mkdir()
    lines = [f"{name}&{clip_id}&good&{a}&{b}\n" for name, clip_id, a, b in ROWS]
    header = "Category&VideoID&Quality&StartTime&EndTime\n"
    (folder / "Annotations.txt").write_text(header + "".join(lines))
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(row[0] for row in ROWS))
    labels = np.zeros((len(ROWS), 10, len(names) + 1), np.float32)
    for row, (name, _, a, b) in enumerate(ROWS):
        labels[row, :, -1] = 1
        labels[row, a:b, -1] = 0
        labels[row, a:b, names.index(name)] = 1
    arrays: dict[str, npt.NDArray[Any]] = {
        "audio_feature": rng.random((len(ROWS), 10, 128)),
        "visual_feature": rng.random((len(ROWS), 10, 7, 7, 512), np.float32),
        "labels": labels,
    }
    if noisy:
        arrays["audio_feature_noisy"] = rng.random((3, 10, 128))
        arrays["visual_feature_noisy"] = rng.random((3, 10, 7, 7, 512), np.float32)
    for clip in ("audio_feature", "visual_feature"):
        arrays[clip][3] = arrays[clip][0]
    for name, array in arrays.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["avadataset"] = array
    for name, order in (("train", [2, 0, 5]), ("val", [1]), ("test", [4, 3])):
        with h5py.File(folder / f"{name}_order.h5", "w") as file:
            file["order"] = np.array(order)
    return folder


def edit(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = value


def test_the_rows_and_their_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, into = published(tmp_path / "ave"), tmp_path / "c"
    assert main(["import-ave", str(source), "--into", str(into)]) == 0
    cache, labels = open_cache(into), open_cache(into).labels
    noisy = [f"background-{n:03d}" for n in range(3)]
    assert cache.ids == sorted(["-cc", "aaa", *noisy, "bbb", "ddd", "eee"])
    assert labels.ids == [*(row[1] for row in ROWS), *noisy]
    assert labels.classes == ["Church bell", "Bark", "Cat"]
    assert labels.split.tolist() == [0, 1, 0, 2, 2, 0, 0, 0, 0]
    assert labels.background.sum() == 3
    with h5py.File(source / "visual_feature.h5") as file:
        maps = file["avadataset"][1].transpose(0, 3, 1, 2)
    read = cache.read("video/vgg19", [cache.row("bbb")])[0]
    np.testing.assert_array_equal(read, maps.astype(np.float16))
    told = capsys.readouterr().out
    assert "labels.h5 agrees with Annotations.txt in all 6 rows" in told
    assert "1 row(s) are of ids that stood before" in told
    assert "0 of them had others" in told
    assert main(["verify", str(into)]) == 0


def test_a_second_call_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, into = published(tmp_path / "ave"), tmp_path / "c"
    call = ["import-ave", str(source), "--into", str(into)]
    assert main(call) == 0
    assert main(call) == 0
    assert "done 8, to do 0" in capsys.readouterr().out


def test_one_stream_will_do(tmp_path: Path) -> None:
    source = published(tmp_path / "ave", noisy=False)
    (source / "visual_feature.h5").unlink()
    assert main(["import-ave", str(source), "--into", str(tmp_path / "c")]) == 0
    assert list(open_cache(tmp_path / "c").fields) == ["audio/vggish"]


def test_features_that_are_not_finite_are_failures(tmp_path: Path) -> None:
    source = published(tmp_path / "ave")
    with h5py.File(source / "audio_feature.h5", "r+") as file:
        file["avadataset"][1, 3, 5] = np.nan
    assert main(["import-ave", str(source), "--into", str(tmp_path / "c")]) == 1
    assert list(open_cache(tmp_path / "c").index.failures) == ["bbb"]


@pytest.mark.parametrize(
    ("file", "name", "value", "message"),
    [
        ("labels.h5", "avadataset", np.zeros((6, 10, 4), np.float32), "6 of 6 rows say something"),
        ("labels.h5", "avadataset", np.zeros((5, 10, 4), np.float32), "expected (6, 10, 4)"),
        ("train_order.h5", "order", np.array([0, 0]), "stands in it twice"),
        ("train_order.h5", "order", np.array([0, 6]), "from 0 to 5"),
        ("val_order.h5", "order", np.array([2]), "another split"),
        ("audio_feature.h5", "avadataset", np.zeros((6, 128)), "expected (6, 10, 128)"),
        ("audio_feature.h5", "avadataset", np.zeros((5, 10, 128)), "expected (6, 10, 128)"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path,
    file: str,
    name: str,
    value: object,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = published(tmp_path / "ave")
    edit(source / file, name, value)
    assert main(["import-ave", str(source), "--into", str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert file in error
    assert not (tmp_path / "c").exists()


def test_a_folder_without_them_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-ave", str(tmp_path), "--into", str(tmp_path / "c")]) == 2
    assert "Annotations.txt" in capsys.readouterr().err


@pytest.mark.data
def test_the_real_small_files_belong_together(tmp_path: Path, avel_data: Path) -> None:
    data = avel_data / "ave"
    source = tmp_path / "ave"
    shutil.copytree(data / "h5", source)
    rows = read_ave(data / "Annotations.txt")
    with h5py.File(source / "audio_feature.h5", "w") as file:
        file["avadataset"] = np.zeros((len(rows), 10, 128), np.float32)
    call = ["import-ave", str(source), "--annotations", str(data / "Annotations.txt")]
    assert main([*call, "--into", str(tmp_path / "c")]) == 0
    cache = open_cache(tmp_path / "c")
    assert len(cache) == 4097 + 178
    labels = cache.labels
    assert [len(labels.rows(name)) for name in ("train", "val", "test")] == [3339 + 178, 402, 402]
    noisy = cache.read("audio/vggish", [cache.row("background-000")])
    assert np.abs(noisy).max() > 0
