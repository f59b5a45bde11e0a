"""Which caches a run answers: those of its features, wherever their clips begin."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import FLAGS
from windows_cache import CLASSES, Event, windows_cache

from cache import Labels, open_cache
from cache.common.errors import AvelError
from cache.common.strict_json import read_json
from cache.format.fields import Field, Rate
from cache.format.windows import window_of
from cache.joined import open_caches
from cache.labels.store import write_labels
from cache.writer import CacheWriter
from train.__main__ import main
from train.runs.checkpoint import load
from train.runs.clip_features import check_same_features, wanted
from train.runs.folders import BEST

CLIP_S = 2.0
AUDIO = ["--modality", "audio"]
RECORDINGS: Mapping[str, tuple[float, list[Event]]] = {
    f"r{n}": (6.0, [(n % 3, 1.0, 3.0)]) for n in range(6)
}
ONES = Field("audio/ones", (4, 3), "float32", "1", Rate(2.0, 0.25))


def labels() -> Labels:
    return Labels(
        ids=[*RECORDINGS],
        classes=[*CLASSES],
        category=np.arange(6) % 3,
        start_s=np.full(6, 1.0),
        end_s=np.full(6, 3.0),
        split=np.array([0, 0, 0, 1, 1, 1], np.int8),
        source="made",
    )


def both(folder: Path, hop_s: float, field: Field = ONES, **about: Any) -> Path:
    """The name of two joined caches of windows: the extractor's, and one by the writer."""
    one = windows_cache(folder / "a", RECORDINGS, hop_s=hop_s)
    write_labels(one, labels())
    with CacheWriter(
        folder / "b", [field], clip_seconds=CLIP_S, hop_s=hop_s, about=about
    ) as writer:
        for clip_id in open_cache(one).ids:
            values = np.full(field.shape, window_of(clip_id).offset_s, np.float32)
            writer.add(clip_id, {field.name: values})
    return Path(shlex.join([str(one), str(folder / "b")]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on joined caches with a window every second, and these."""
    folder = tmp_path_factory.mktemp("hop")
    joined = both(folder, 1.0)
    run = folder / "run"
    assert main(["fit", "--cache", str(joined), "--run", str(run), *FLAGS]) == 0
    return run, joined


@pytest.mark.parametrize("hop_s", [0.5, 2.0])
def test_joined_caches_answer_by_another_hop(
    trained: tuple[Path, Path], tmp_path: Path, hop_s: float
) -> None:
    run, _ = trained
    other = str(both(tmp_path, hop_s))
    for command in ("predict", "annotate"):
        out = tmp_path / command
        assert main([command, "--run", str(run), "--cache", other, "--out", str(out)]) == 0
    assert main(["evaluate", "--run", str(run), "--cache", other, "--pictures", "0"]) == 0


def test_windows_are_answered_alike_whatever_the_hop(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """What is said of a window that both have is the same: only where clips begin differs."""
    run, joined = trained
    half = open_caches(both(tmp_path, 0.5))
    whole = open_caches(joined)
    assert half.fingerprint != whole.fingerprint
    check_same_features(half, load(run / BEST)[1], run)
    rows = [half.row(clip_id) for clip_id in whole.ids]
    np.testing.assert_array_equal(half.read("audio/ones", rows), whole.read("audio/ones"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"about": "another model"}, r"b: about: none in the run, 'another model'"),
        ({"field": replace(ONES, unit="dB")}, r"b: the settings agree, what is declared"),
    ],
)
def test_other_features_are_refused_by_name(
    trained: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run, _ = trained
    for hop_s in (1.0, 0.5):
        other = open_caches(both(tmp_path / str(hop_s), hop_s, **changes))
        with pytest.raises(AvelError, match=message):
            check_same_features(other, load(run / BEST)[1], run)


def test_another_number_of_caches_is_refused(trained: tuple[Path, Path]) -> None:
    run, joined = trained
    one, two = shlex.split(str(joined))
    with pytest.raises(AvelError, match=r"2 cache\(s\) in the run, 1 here"):
        check_same_features(open_cache(one), load(run / BEST)[1], run)
    with pytest.raises(AvelError, match="trained on other features"):
        check_same_features(open_caches(f"{two} {one}"), load(run / BEST)[1], run)


def test_imported_features_of_other_fields_are_refused(tmp_path: Path) -> None:
    """Though neither has settings that could differ."""
    run, caches = tmp_path / "run", []
    for name in ("audio/ones", "audio/others"):
        with CacheWriter(tmp_path / name, [replace(ONES, name=name)], clip_seconds=CLIP_S) as it:
            for n in range(6):
                it.add(f"r{n}", {name: np.ones(ONES.shape)})
        write_labels(tmp_path / name, labels())
        caches.append(tmp_path / name)
    assert main(["fit", "--cache", str(caches[0]), "--run", str(run), *FLAGS, *AUDIO]) == 0
    with pytest.raises(AvelError, match="what is declared of the rows differs"):
        check_same_features(open_cache(caches[1]), load(run / BEST)[1], run)


def test_features_json_must_be_the_weights_own(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, joined = trained
    other = open_caches(both(tmp_path, 0.5))
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    about = load(copy / BEST)[1]
    (copy / "features.json").write_text(json.dumps(other.identity.record()))
    with pytest.raises(AvelError, match="not of this run's weights"):
        check_same_features(other, about, copy)
    check_same_features(open_caches(joined), about, copy)
    (copy / "features.json").unlink()
    with pytest.raises(AvelError, match="copy the run's folder again"):
        check_same_features(other, about, copy)


@pytest.mark.parametrize(
    "parts", [7, {}, [], [1, 2], [{"config": {}}, {}], [{"config": 3, "fingerprint": []}] * 2]
)
def test_what_a_stranger_says_of_joined_caches_is_refused(
    trained: tuple[Path, Path], tmp_path: Path, parts: Any
) -> None:
    run, _ = trained
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    identity = open_caches(trained[1]).identity
    forged = replace(identity, config={"joined": parts})
    (copy / "features.json").write_text(json.dumps(forged.record()))
    about = load(copy / BEST)[1].revised(fingerprint=forged.fingerprint)
    with pytest.raises(AvelError):
        check_same_features(open_caches(trained[1]), about, copy)
    with pytest.raises(AvelError):
        wanted(copy)
    assert read_json(copy / "features.json")["config"]["joined"] == parts
