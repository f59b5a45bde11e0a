"""Extraction end to end: resume, retries, failures, kills, and rows that never depend on luck."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from held_extract import Held
from small_media import (
    SMALL_FLAGS,
    assert_same_rows,
    noise,
    random_row,
    tiny_cache,
    tone,
    write_set,
)

import extract.features.audio
import extract.features.extractor
import extract.parallel.pipeline
from cache import Cache, CacheError, open_cache
from cache.check.verify import verify
from cache.format.identity import Identity, read_identity
from cache.format.index import Index
from cache.format.index_file import load_index
from cache.format.lock import writer_lock
from cache.format.row_table import Entry
from cache.format.shard import END_OF_TIME_NS, Clip, Failure, write_shard
from cache.labels.annotations import read_annotations
from extract.__main__ import main
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.demo.__main__ import DemoClip
from extract.features.declare import declare
from extract.finding import find_sources
from extract.parallel.job import Done, ShardJob, Workers
from extract.plan import make_plan
from extract.sources import MediaSource

ROOT = Path(__file__).parent.parent
CLIPS = 8


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def whole_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "set"
    write_set(folder, CLIPS, mp4=2)
    return folder


@pytest.fixture(scope="module")
def whole(whole_set: Path) -> Cache:
    """The set, extracted by one process without interruption."""
    cache = whole_set.parent / "cache"
    assert main(flags(whole_set, cache)) == 0
    return open_cache(cache)


@pytest.fixture
def data(whole_set: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may change; times of change are kept."""
    return Path(shutil.copytree(whole_set, tmp_path / "set"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def flags(data: Path, cache: Path, *more: str, jobs: int = 1) -> list[str]:
    where = ["--data", str(data), "--cache", str(cache)]
    return [*where, "--weights", "random:0", "--jobs", str(jobs), *SMALL_FLAGS, *more]


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(data: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Extract in this process; gives the exit code and all that was printed."""

    def call(*more: str, jobs: int = 1) -> tuple[int, str]:
        capsys.readouterr()
        code = main(flags(data, cache, *more, jobs=jobs))
        return code, "".join(capsys.readouterr())

    return call


def spoil(data: Path, clip_id: str = "clip 1") -> Path:
    path = data / "audio_wav" / f"{clip_id}.wav"
    path.write_bytes(b"no sound")
    return path


def test_rows_hold_what_the_settings_promise(whole: Cache, whole_set: Path) -> None:
    assert len(whole) == CLIPS
    assert whole.labels.source == "events.csv, its own splits"
    steps = whole.read("rows/audio_steps")
    for row, clip_id in enumerate(whole.ids):
        audio = whole.read("audio/mel", [row])[0].astype(float)
        assert np.isfinite(audio[: steps[row]]).all()
        assert np.isnan(audio[steps[row] :]).all()
        assert audio[: steps[row]].std() > 1
        maps = whole.read("video/maps", [row])[0]
        assert np.isfinite(maps).all()
        assert maps.any()
        source = find_sources(whole_set, [clip_id])[clip_id]
        assert whole.read("rows/media_size", [row])[0] == source.size
        assert whole.read("rows/media_mtime_ns", [row])[0] == source.mtime_ns
        assert all(data.startswith(b"\xff\xd8") for data in whole.jpegs(clip_id))
        assert 0.9 < whole.index.clips[clip_id].valid_s <= 1.0


def test_steps_that_a_short_clip_lacks_are_nan(run: Run, data: Path, cache: Path) -> None:
    soundfile.write(data / "audio_wav/clip 1.wav", tone(0.5), 22_050)
    assert run()[0] == 0
    found = open_cache(cache)
    row = found.row("clip 1")
    assert found.read("rows/audio_steps")[row] == 1 + 11_025 // 512
    assert found.read("rows/valid_s")[row] == 0.5
    mel = found.read("audio/mel")[row]
    assert np.isfinite(mel[:22]).all()
    assert np.isnan(mel[22:]).all()
    assert (found.read("video/frame_time_s")[row] < 0.5).all()


def test_demo_set_end_to_end(
    demo_set: Path, demo_plan: list[DemoClip], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Default settings but for the network's size; the clip without sound is a failure."""
    small = ["--resize-px", "64", "--frame-size-px", "64", "--num-frames", "4"]
    arguments = ["--data", str(demo_set), "--cache", str(cache), "--weights", "random:0"]
    code = main([*arguments, "--jobs", "1", *small])
    output = "".join(capsys.readouterr())
    assert code == 1
    [mute] = [clip.id for clip in demo_plan if not clip.has_audio]
    assert f"failed    {mute} (audio)" in output
    found = open_cache(cache)
    assert found.ids == sorted(clip.id for clip in demo_plan if clip.has_audio)
    assert found.read("audio/mfcc").shape == (5, 431, 120)
    assert found.read("video/frame_time_s") == pytest.approx(
        np.tile([1.25, 3.75, 6.25, 8.75], (5, 1)), abs=0.26
    )
    labels = found.labels
    for clip in demo_plan:
        rows = [row for row, clip_id in enumerate(labels.ids) if clip_id == clip.id]
        names = [labels.classes[k] for k in labels.category[rows]]
        events = set(zip(names, labels.start_s[rows], labels.end_s[rows], strict=True))
        assert events == set(clip.rows)
        assert {("train", "val", "test")[labels.split[r]] for r in rows} == {clip.split}


class TestPlan:
    def test_counts(self, run: Run, data: Path, cache: Path) -> None:
        (data / "audio_wav/clip 1.wav").unlink()
        shutil.rmtree(data / "video_frames/clip 1")
        code, output = run("--dry-run")
        assert code == 0
        assert "clips     8: media found 7, missing 1" in output
        assert "done 0, failed before 0, to do 7" in output
        assert "missing   clip 1" in output
        assert "1 worker\n" in output
        assert not cache.exists()

    def test_after_a_run(self, run: Run, data: Path) -> None:
        spoil(data)
        assert run()[0] == 1
        os.utime(data / "audio_wav/clip 2.wav", ns=(2**62, 2**62))
        _, output = run("--dry-run")
        assert "done 6, failed before 1, to do 1 (1 of them because their media changed)" in output
        assert "device" in output
        _, output = run("--dry-run", "--retry-failed")
        assert "done 6, failed before 0, to do 2" in output

    def test_a_full_disk_is_foreseen(
        self, run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage("/")._replace(free=CLIPS * 1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        code, output = run()
        assert code == 2
        assert re.search(r"error: .*needed for 8 clips, only 0\.00 GB free; make room", output)
        assert not cache.exists()

    def test_the_guess_of_bytes_is_near(self, whole: Cache) -> None:
        config = ExtractConfig.of(whole.identity)
        layout = declare(config).row_layout.values()
        arrays = sum(np.zeros(f.shape, f.dtype).nbytes for f in layout)
        guess = extract.plan.bytes_per_clip(config)
        assert guess == arrays + config.num_frames * 9000


class TestResume:
    def test_partial_then_whole(self, run: Run, data: Path, cache: Path, whole: Cache) -> None:
        text = (data / "events.csv").read_text().splitlines()
        (data / "events.csv").write_text("\n".join(text[:4]) + "\n")
        assert run()[0] == 0
        first = {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()}
        assert len(open_cache(cache)) == 3
        (data / "events.csv").write_text("\n".join(text) + "\n")
        code, output = run()
        assert code == 0
        assert "done 3, failed before 0, to do 5" in output
        assert "labels    replaced" in output
        assert "finished  8 of 8 clips" in output
        assert {path: path.stat().st_mtime_ns for path in first} == first
        assert_same_rows(open_cache(cache), whole)

    def test_nothing_is_written_when_all_is_done(self, run: Run, cache: Path) -> None:
        assert run()[0] == 0
        before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
        assert run()[0] == 0
        assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before

    @pytest.mark.system
    def test_two_workers_give_the_same_rows(self, run: Run, cache: Path, whole: Cache) -> None:
        assert run(jobs=2)[0] == 0
        assert_same_rows(open_cache(cache), whole)
        assert verify(cache).problems == []
        names = {path.name for path in cache.rglob("*") if path.is_file()}
        shards = set(open_cache(cache).index.shards)
        assert names == {"cache.json", "labels.h5", "index.h5", ".lock"} | shards

    def test_changed_media_is_done_again(self, run: Run, data: Path, cache: Path) -> None:
        assert run()[0] == 0
        before = open_cache(cache)
        soundfile.write(data / "audio_wav/clip 1.wav", noise(1.0), 22_050, "PCM_16")
        os.utime(data / "audio_wav/clip 1.wav", ns=(9, 9))
        os.utime(data / "video_frames/clip 1", ns=(9, 9))
        code, output = run()
        assert code == 0
        assert "to do 1 (1 of them because their media changed)" in output
        after = open_cache(cache)
        for clip_id in after.ids:
            same = np.array_equal(
                before.read("audio/mel", [before.row(clip_id)]),
                after.read("audio/mel", [after.row(clip_id)]),
            )
            assert same == (clip_id != "clip 1")

    def test_labels_are_replaced_without_touching_features(
        self, run: Run, data: Path, cache: Path
    ) -> None:
        assert run()[0] == 0
        shards = {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()}
        text = (data / "events.csv").read_text().replace("kind 1", "sort 1")
        (data / "events.csv").write_text(text)
        code, output = run()
        assert code == 0
        assert "replaced by the ones read now; features untouched" in output
        assert {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()} == shards
        assert open_cache(cache).labels.classes == ["kind 0", "sort 1"]

    def test_a_missing_index_is_made_anew(self, run: Run, cache: Path) -> None:
        assert run()[0] == 0
        (cache / "index.h5").unlink()
        assert run()[0] == 0
        identity = read_identity(cache)
        assert not load_index(cache, identity).stale

    def test_a_damaged_shard_is_reported_and_done_again(
        self, run: Run, cache: Path, whole: Cache
    ) -> None:
        assert run()[0] == 0
        shard = next((cache / "shards").iterdir())
        shard.write_bytes(shard.read_bytes()[:-100])
        lost = CLIPS - len(open_cache(cache))
        code, output = run()
        assert code == 0
        assert f"to do {lost}" in output
        assert f"damaged   {shard.with_suffix('')}." in output  # "….damaged" if a row was whole
        assert_same_rows(open_cache(cache), whole)


class TestFailures:
    def test_are_rows_with_stage_message_and_attempt(
        self, run: Run, data: Path, cache: Path
    ) -> None:
        path = spoil(data)
        code, output = run()
        assert code == 1
        failure = open_cache(cache).index.failures["clip 1"]
        assert (failure.stage, failure.attempt) == ("audio", 1)
        assert str(path) in failure.message
        assert "expected a readable WAV file" in failure.message
        frames = sum(file.stat().st_size for file in (data / "video_frames/clip 1").iterdir())
        assert failure.media_size == 8 + frames
        assert "failed    clip 1 (audio)" in output
        assert "--max-failures allows 0" in output
        assert "with --retry-failed" in output
        assert "clip 1" not in open_cache(cache).ids
        assert len(open_cache(cache)) == CLIPS - 1

    def test_are_left_alone_until_asked(self, run: Run, data: Path, cache: Path) -> None:
        spoil(data)
        for retry, attempt in [(0, 1), (0, 1), (1, 2), (1, 3)]:
            assert run(*["--retry-failed"] * retry)[0] == 1
            assert open_cache(cache).index.failures["clip 1"].attempt == attempt

    def test_mended_media_is_tried_at_once(
        self, run: Run, data: Path, cache: Path, whole_set: Path
    ) -> None:
        path = spoil(data)
        assert run()[0] == 1
        shutil.copy2(whole_set / "audio_wav/clip 1.wav", path)
        assert run()[0] == 0
        assert open_cache(cache).index.failures == {}
        assert len(open_cache(cache)) == CLIPS

    def test_max_failures_counts_failed_and_missing(self, run: Run, data: Path) -> None:
        spoil(data)
        (data / "audio_wav/clip 2.wav").unlink()
        shutil.rmtree(data / "video_frames/clip 2")
        assert run("--max-failures", "2")[0] == 0
        code, output = run("--max-failures", "1")
        assert code == 1
        assert "1 failed, 1 without media" in output

    def test_one_modality_alone_where_asked(self, run: Run, data: Path, cache: Path) -> None:
        spoil(data)
        (data / "audio_wav/clip 1.wav").unlink()
        assert run("--modalities", "video")[0] == 0
        found = open_cache(cache)
        assert list(found.fields) == ["video/maps", "video/frame_time_s"]
        assert found.read("rows/audio_steps").tolist() == [0] * CLIPS

    def test_an_unforeseen_error_costs_its_clip_alone(
        self, run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        works = extract.features.extractor.Extractor.__call__

        def bug(self: extract.features.extractor.Extractor, source: MediaSource) -> Clip:
            if source.id == "clip 1":
                raise ZeroDivisionError("a bug")
            return works(self, source)

        monkeypatch.setattr(extract.features.extractor.Extractor, "__call__", bug)
        code, output = run()
        assert code == 1
        assert "unforeseen ZeroDivisionError: a bug" in output
        found = open_cache(cache)
        assert len(found) == CLIPS - 1
        assert found.index.failures["clip 1"].stage == "unforeseen"


class TestClock:
    """Rows and failures are newer than what they replace, whatever the clock says."""

    YEARS_NS = 10 * 365 * 86_400 * 10**9

    def test_one_that_was_ahead(
        self, run: Run, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoil(data)
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.YEARS_NS)
        assert run()[0] == 1
        monkeypatch.undo()
        ahead = open_cache(cache)
        before = ahead.read("audio/mel", [ahead.row("clip 2")])
        for name in ("clip 1", "clip 2"):  # a failure, and a row
            soundfile.write(data / f"audio_wav/{name}.wav", noise(1.0), 22_050, "PCM_16")
        code, output = run()
        assert code == 0, output
        assert f"finished  {CLIPS} of {CLIPS} clips" in output
        after = open_cache(cache)
        assert not np.array_equal(after.read("audio/mel", [after.row("clip 2")]), before)
        assert after.index.clips["clip 2"].created_ns == ahead.index.clips["clip 2"].created_ns + 1
        assert after.index.clips["-clip 3"] == ahead.index.clips["-clip 3"]
        assert f"done {CLIPS}, failed before 0, to do 0" in run()[1]
        spoil(data, "clip 2")
        assert run()[0] == 1
        assert set(open_cache(cache).index.failures) == {"clip 2"}

    def test_what_is_left_to_do_is_no_success(
        self, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.YEARS_NS)
        assert run()[0] == 0
        monkeypatch.undo()
        monkeypatch.setattr(extract.parallel.pipeline, "newest_ns", lambda index, ids: {})
        soundfile.write(data / "audio_wav/clip 1.wav", noise(1.0), 22_050, "PCM_16")
        code, output = run()
        assert code == 1
        assert "1 clip(s) are left to do" in output

    def test_the_end_of_time(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "tiny")
        row = random_row("a", 0)
        write_shard(tiny.folder, tiny.identity, [row], origins={"a": (END_OF_TIME_NS - 1, "{}")})
        found = open_cache(tiny.folder)
        assert found.ids == ["a"]
        origins = {"a": (found.index.clips["a"].created_ns + 1, "{}")}
        with pytest.raises(CacheError, match=r"of a says .*nothing can be newer"):
            write_shard(tiny.folder, tiny.identity, [row], origins=origins)
        assert len(open_cache(tiny.folder).index.shards) == 1


def test_without_worker_processes_this_one_goes_on(
    run: Run, cache: Path, whole: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a full /dev/shm, where loky finds no room for its semaphores."""
    parallel = extract.parallel.pipeline._parallel

    def full(job: ShardJob, groups: list[list[MediaSource]], jobs: int) -> Iterator[Done]:
        if jobs > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return parallel(job, groups, jobs)

    monkeypatch.setattr(extract.parallel.pipeline, "_parallel", full)
    code, output = run(jobs=2)
    assert code == 0
    assert "no worker processes ([Errno 28] No space left on device)" in output
    assert_same_rows(open_cache(cache), whole)


def test_workers_that_die_before_they_begin_end_the_run(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where each needs more memory than there is: to start others would never end."""

    def dead(job: ShardJob, groups: list[list[MediaSource]], jobs: int) -> Iterator[Done]:
        raise BrokenProcessPool("killed")

    monkeypatch.setattr(extract.parallel.pipeline, "_parallel", dead)
    code, output = run(jobs=2)
    assert code == 2
    assert "error: the worker processes died before they began with a clip" in output
    assert len(open_cache(cache)) == 0


def test_one_process_compiles_librosa_before_the_workers_start(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(extract.features.audio, "warm_up", lambda config: order.append("warm up"))
    parallel = extract.parallel.pipeline._parallel

    def start(job: ShardJob, groups: list[list[MediaSource]], jobs: int) -> Iterator[Done]:
        order.append("workers")
        return parallel(job, groups, jobs)

    monkeypatch.setattr(extract.parallel.pipeline, "_parallel", start)
    assert run()[0] == 0
    assert order == ["warm up", "workers"]


def test_after_a_dead_worker_an_older_failure_is_no_result() -> None:
    config = ExtractConfig()
    identity = Identity(1, {}, declare(config), {})
    job = ShardJob(Path(), identity, config, Workers("random:0"), attempts={"a": 1})
    source = MediaSource("a", size=5, mtime_ns=7)
    index = Index(identity.declaration)
    index.clips = {}
    assert not job.finished(source, index)
    index.failures["a"] = Failure("a", "audio", "before this run", 1, 5, 7)
    assert not job.finished(source, index)
    index.failures["a"] = Failure("a", "audio", "in this run", 2, 5, 7)
    assert job.finished(source, index)
    del index.failures["a"]
    index.clips["a"] = Entry("x.h5", 0, 10.0, 10.0, 5, 7)
    assert job.finished(source, index)
    index.clips["a"] = Entry("x.h5", 0, 10.0, 10.0, 5, 8)
    assert not job.finished(source, index)


def test_a_worker_refuses_what_would_be_its_own_failure_and_no_clip_s(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    ours = replace(tiny.identity, feature_version=FEATURE_VERSION)
    config = ExtractConfig.of(ours)
    clip = MediaSource("a", sound=tmp_path / "a.wav")
    elsewhere = MediaSource("a", sound=tmp_path / "none" / "a.wav")
    older = replace(ours, feature_version=FEATURE_VERSION - 1)
    for folder, identity, source, told in (
        (tiny.folder, older, clip, "its code computes features of version"),
        (tiny.folder, ours, elsewhere, f"doesn't see the folder {tmp_path}/none"),
        (tmp_path / "none", ours, clip, f"doesn't see the cache folder {tmp_path}/none"),
        (tiny.folder, ours, clip, "the weights random:0 are others there"),
    ):
        job = ShardJob(folder, identity, config, Workers("random:0"), attempts={})
        with pytest.raises(CacheError, match=told):
            job([source])
    assert not list((tiny.folder / "shards").iterdir())


class TestRefusals:
    def test_other_settings(self, run: Run, cache: Path) -> None:
        assert run()[0] == 0
        before = (cache / "cache.json").read_bytes()
        code, output = run("--hop-samples", "256", "--audio-profile", "librosa")
        assert code == 2
        assert "hop_samples: 256 here, 512 in the cache" in output
        assert "audio_profile: 'librosa' here, 'fast' in the cache" in output
        assert "n_mels" not in output.split("error:")[1]
        assert (cache / "cache.json").read_bytes() == before

    def test_other_weights(self, run: Run, cache: Path) -> None:
        assert run()[0] == 0
        code, output = run("--weights", "random:1")
        assert code == 2
        assert "weights_sha256:" in output

    def test_a_second_writer(self, run: Run, cache: Path) -> None:
        assert run()[0] == 0
        (cache / "index.h5").unlink()
        with writer_lock(cache):
            code, output = run()
        assert code == 2
        assert f"another process is writing this cache: process {os.getpid()}" in output

    def test_a_folder_without_annotations(self, tmp_path: Path, cache: Path) -> None:
        assert main(flags(tmp_path / "absent", cache)) == 2
        assert not cache.exists()


class FatalJob(ShardJob):
    """In a worker, one clip kills the process, as a crashing decoder would."""

    def __call__(self, sources: Sequence[MediaSource]) -> Done:
        whole = extract.features.extractor.Extractor.__call__

        def fatal(extractor: extract.features.extractor.Extractor, source: MediaSource) -> object:
            if source.id == "clip 4" and multiprocessing.parent_process() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(extractor, source)

        extract.features.extractor.Extractor.__call__ = fatal  # type: ignore[method-assign, assignment]
        try:
            return super().__call__(sources)
        finally:
            extract.features.extractor.Extractor.__call__ = whole  # type: ignore[method-assign]


@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs")
@pytest.mark.system
def test_a_clip_that_kills_its_worker_is_a_failure_and_the_others_finish(
    run: Run, cache: Path, whole: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract.parallel.pipeline, "ShardJob", FatalJob)
    code, output = run(jobs=2)
    assert code == 1
    found = open_cache(cache)
    assert set(whole.ids) - set(found.ids) == {"clip 4"}
    failure = found.index.failures["clip 4"]
    assert "the process died while it worked on this clip" in failure.message
    assert "clip 4" in output
    assert not list(cache.glob(".working*"))
    assert verify(cache).problems == []
    monkeypatch.undo()
    assert run("--retry-failed")[0] == 0
    assert_same_rows(open_cache(cache), whole)


def start(data: Path, cache: Path, held: Held, *more: str, jobs: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *held.program, *flags(data, cache, *more, jobs=jobs)],
        cwd=ROOT,
        env=held.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds or the process ends."""
    while process.poll() is None and not condition():
        time.sleep(0.005)


LARGE = ("--resize-px", "256", "--frame-size-px", "224", "--num-frames", "8")


@pytest.mark.system
def test_ctrl_c_keeps_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, cache = tmp_path / "set", tmp_path / "cache"
    ids = write_set(data, 24)
    held = Held(tmp_path, ids[13])  # shards have six clips: it is in the third
    process = start(data, cache, held)
    wait_for(lambda: held.reached(cache), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 130, output
    assert "what is finished is kept" in output
    assert "Traceback" not in output
    assert open_cache(cache).ids == sorted(ids[:12])
    assert "finished  12 of 24 clips" in output
    assert verify(cache).problems == []
    held.let_go()
    assert main(flags(data, cache)) == 0
    assert "done 12, failed before 0, to do 12" in capsys.readouterr().out
    assert len(open_cache(cache)) == 24


@pytest.mark.parametrize(("kills", "jobs"), [(1, 2), pytest.param(10, 2, marks=pytest.mark.slow)])
@pytest.mark.system
def test_killed_again_and_again_the_cache_is_the_same(
    tmp_path: Path, kills: int, jobs: int
) -> None:
    data, cache = tmp_path / "set", tmp_path / "cache"
    ids = write_set(data, 20 + 10 * kills)
    held = Held(tmp_path, ids[-1])  # no run ends before it is killed
    instants = random.Random(0)
    for _ in range(kills):
        before = len(open_cache(cache)) if (cache / "cache.json").exists() else 0
        for note in cache.glob(".working-*"):
            note.unlink()
        process = start(data, cache, held, *LARGE, jobs=jobs)
        wait_for(
            lambda: len(list(cache.glob(".working-*"))) == jobs or held.reached(cache), process
        )
        time.sleep(instants.random())
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=1200)  # ends when the workers do: they share its output
        assert verify(cache).problems == []
        assert len(open_cache(cache)) >= before
    held.let_go()
    assert main(flags(data, cache, *LARGE)) == 0
    assert main(flags(data, tmp_path / "once", *LARGE)) == 0
    assert_same_rows(open_cache(cache), open_cache(tmp_path / "once"))
    left = [path.name for path in cache.rglob(".*") if path.name != ".lock"]
    assert left == []


def test_a_warm_run_imports_nothing_heavy_and_needs_no_media(
    run: Run, data: Path, cache: Path
) -> None:
    assert run()[0] == 0
    shutil.rmtree(data / "audio_wav")
    shutil.rmtree(data / "video_frames")
    for path in data.glob("*.mp4"):
        path.unlink()
    code = (
        "import sys; from extract.__main__ import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'joblib', 'librosa', 'cv2', 'av', 'scipy', 'soundfile', 'numba'}; "
        "print('imported', sorted(heavy & set(sys.modules))); raise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags(data, cache)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "imported []" in done.stdout
    assert "finished  8 of 8 clips" in done.stdout


def test_a_plan_lists_each_clip_once(whole: Cache, whole_set: Path) -> None:
    labels = read_annotations(whole_set / "events.csv", 1.0)
    sources = find_sources(whole_set, labels.ids)
    plan = make_plan(labels, sources, whole.index, retry=False)
    assert plan.done == plan.wanted
    assert (plan.todo, plan.missing, plan.failed, plan.changed) == ([], [], {}, 0)
    empty = load_index(whole_set, whole.identity)
    plan = make_plan(labels, {}, empty, retry=False)
    assert plan.missing == plan.wanted == list(dict.fromkeys(labels.ids))
