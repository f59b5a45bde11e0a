"""One shard: round trip, atomic writing, checksums, and nothing but plain data accepted."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import CONFIG, TinyCache, assert_same_clip, picture, random_row, tiny_cache

import cache.common.atomic
import cache.format.shard
from cache import open_cache
from cache.check.verify import verify
from cache.common.atomic import TEMPORARY
from cache.common.errors import AvelError, CacheError
from cache.common.plain import encode_text
from cache.format.identity import Identity, config_differences
from cache.format.index import summarize
from cache.format.index_file import load_index
from cache.format.names import check_id
from cache.format.schema import (
    ROW_FIELDS,
    row_digest,
)
from cache.format.shard import Clip, Failure, write_shard
from cache.format.shard_file import Shard
from extract.features.declare import declare


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    return tiny_cache(tmp_path / "cache")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
ID = TEXT.filter(lambda text: check_id(text) is None)
INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    ids=st.lists(ID, max_size=4, unique=True),
    failed=st.lists(st.builds(Failure, ID, TEXT, TEXT, INT64, INT64, INT64), max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], failed: list[Failure], seed: int
) -> None:
    tiny = tiny_cache(tmp_path_factory.mktemp("round") / "cache")
    rows = [random_row(clip_id, seed + place) for place, clip_id in enumerate(ids)]
    written = write_shard(tiny.folder, tiny.identity, rows, failed)
    path = tiny.path(written)
    assert (written.clips, written.failures) == (len(ids), len(failed))
    assert written.bytes == path.stat().st_size
    assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    with tiny.open(written) as shard:
        assert shard.ids == ids
        assert shard.failures() == failed
        for found, row in zip(tiny.rows(written), rows, strict=True):
            assert_same_clip(found, row)
        for place, row in enumerate(rows):
            for name, values in row.features.items():
                assert shard.read(name)[place].tobytes() == values.tobytes()
            for spec in ROW_FIELDS[:-1]:
                value = getattr(row, spec.name.removeprefix("rows/"))
                stored = shard.read(spec.name)[place]
                assert (stored.tobytes() if spec.shape else stored.item()) == value


def test_reading_with_h5py_alone(tiny: TinyCache) -> None:
    rows = [random_row("a", 1), random_row("-é", 2)]
    written = write_shard(tiny.folder, tiny.identity, rows)
    with h5py.File(tiny.path(written)) as file:
        assert [value.decode() for value in file["rows/id"][()]] == ["a", "-é"]
        assert file["audio/mfcc"].shape == (2, 44, 12)
        assert file["audio/mfcc"].dtype == np.float16
        assert file["video/maps"].shape == (2, 2, 576, 1, 1)
        assert file["audio/mel"].attrs["unit"].decode() == "dB"
        assert np.array_equal(file["video/frame_time_s"][1], rows[1].features["video/frame_time_s"])
        ends = file["video/jpeg_end"]
        assert ends.shape == (2, 2)
        begin, end = ends[1, 0], ends[1, 1]
        assert file["video/jpeg"][begin:end].tobytes() == rows[1].jpegs[1]
        assert file.attrs["fingerprint"].decode() == tiny.identity.fingerprint
        names: list[str] = []
        file.visit(names.append)
        stored = {name for name in names if isinstance(file[name], h5py.Dataset)}
        assert all(file[name].chunks is None for name in stored)
        expected = {spec.name for spec in (*tiny.identity.declaration.fields, *ROW_FIELDS)}
        texts = {"rows/id", "video/jpeg", "video/jpeg_end"}
        failures = {
            f"failures/{name}"
            for name in ("id", "stage", "message", "attempt", "media_size", "media_mtime_ns")
        }
        assert stored == expected | texts | failures


@pytest.mark.parametrize("modalities", ["audio", "video"])
def test_one_modality_stores_nothing_of_the_other(tmp_path: Path, modalities: str) -> None:
    tiny = tiny_cache(tmp_path / "cache", modalities=modalities)
    config = CONFIG.revised(modalities=modalities)
    row = random_row("a", 0, config)
    if modalities == "audio":
        row = dataclasses.replace(row, jpegs=())
    written = write_shard(tiny.folder, tiny.identity, [row])
    assert {name.split("/")[0] for name in open_cache(tiny.folder).fields} == {modalities}
    (found,) = tiny.rows(written)
    assert_same_clip(found, row)
    with h5py.File(tiny.path(written)) as file:
        assert ("audio" in file) == (modalities == "audio")
        assert ("video" in file) == (modalities == "video")


def test_wrong_shapes_and_dtypes_are_not_written(tiny: TinyCache) -> None:
    row = random_row("a", 0)
    for name, wrong in (
        ("audio/mel", row.features["audio/mel"][:-1]),
        ("audio/mel", row.features["audio/mel"].astype(np.float32)),
        ("video/maps", row.features["video/maps"][:1]),
    ):
        bad = dataclasses.replace(row, features={**row.features, name: wrong})
        with pytest.raises(CacheError, match=f"'a' can't be stored: {name}"):
            write_shard(tiny.folder, tiny.identity, [random_row("b", 1), bad])
    assert list((tiny.folder / "shards").iterdir()) == []


def test_nothing_is_left_when_writing_fails(
    tiny: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def full(path: Path) -> None:
        seen.append([entry.name for entry in path.parent.iterdir()])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.common.atomic, "sync", full)
    with pytest.raises(CacheError, match=r"No space left on device.*make room"):
        tiny.write("a")
    assert [name.startswith(TEMPORARY) for name in seen[0]] == [True]
    assert list((tiny.folder / "shards").iterdir()) == []


def test_a_shard_is_on_disk_before_it_has_its_name(
    tiny: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(cache.common.atomic, "sync", synced.append)
    written = tiny.write("a")
    assert synced[0].name.startswith(TEMPORARY)
    assert synced[1:] == [tiny.folder / "shards"]
    assert [path.name for path in (tiny.folder / "shards").iterdir()] == [written.name]
    assert tiny.path(written).stat().st_mode & 0o777 == 0o644


def test_long_messages_are_cut_at_whole_characters(tiny: TinyCache) -> None:
    assert encode_text(["é" * 400], 501).tolist() == [("é" * 250).encode()]
    failure = Failure("a", "audio", "é" * 1000)
    with tiny.open(tiny.write(failures=[failure])) as shard:
        assert shard.failures()[0].message == "é" * 250


class TestRowDigest:
    arrays: ClassVar[dict[str, npt.NDArray[Any]]] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.zeros(0, np.uint8),
    }

    def test_is_the_documented_hash(self) -> None:
        text = b"clip\na |u1 (0,)\n\nb <f4 (2, 3)\n" + self.arrays["b"].tobytes()
        assert row_digest("clip", self.arrays) == hashlib.sha256(text).digest()

    def test_does_not_depend_on_the_order_of_names_or_memory(self) -> None:
        turned = {"a": self.arrays["a"], "b": np.asfortranarray(self.arrays["b"])}
        assert row_digest("clip", turned) == row_digest("clip", self.arrays)

    @pytest.mark.parametrize(
        "change",
        [
            {"b": np.arange(6, dtype=np.float32).reshape(3, 2)},
            {"b": np.arange(6, dtype=np.int32).reshape(2, 3)},
            {"b": np.arange(1, 7, dtype=np.float32).reshape(2, 3)},
            {"a": np.zeros(1, np.uint8)},
            {"c": np.zeros(0, np.uint8)},
        ],
    )
    def test_changes_with_everything(self, change: dict[str, Any]) -> None:
        assert row_digest("clip", {**self.arrays, **change}) != row_digest("clip", self.arrays)
        assert row_digest("clap", self.arrays) != row_digest("clip", self.arrays)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Clip)])
def test_the_stored_digest_covers_every_field(
    tiny: TinyCache, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cache.format.shard, "clip_problem", lambda *_: ""
    )  # some are no row any more

    def digest(clip: Clip) -> bytes:
        with tiny.open(write_shard(tiny.folder, tiny.identity, [clip])) as shard:
            return bytes(shard.read("rows/sha256")[0].tobytes())

    row = random_row("a", 0)
    value = getattr(row, name)
    changed: dict[type, Callable[[Any], Any]] = {
        str: lambda v: v + "x",
        list: lambda v: [picture(99), *v[1:]],
        bytes: lambda v: v[::-1],
        dict: lambda v: {**v, "audio/mel": -v["audio/mel"]},
        int: lambda v: v + 1,
        float: lambda v: v / 2,
    }
    other = dataclasses.replace(row, **{name: changed[type(value)](value)})
    assert digest(row) == digest(random_row("a", 0))
    assert digest(other) != digest(row)


class TestDamage:
    @pytest.fixture
    def whole(self, tiny: TinyCache) -> tuple[TinyCache, Path]:
        path = tiny.path(tiny.write("a", "b", "c", failures=[Failure("d", "audio", "no sound")]))
        assert verify(tiny.folder).problems == []
        return tiny, path

    def places(self, path: Path) -> dict[str, tuple[int, int]]:
        """Offset and bytes a row of every dataset whose first axis is the clips."""
        found = {}
        with h5py.File(path) as file:
            for spec in (*declare(CONFIG).fields, *ROW_FIELDS):
                dataset = file[spec.name]
                found[spec.name] = dataset.id.get_offset(), dataset.nbytes // len(dataset)
        return found

    def test_a_flipped_bit_of_a_row_names_its_clip(self, whole: tuple[TinyCache, Path]) -> None:
        tiny, path = whole
        data = path.read_bytes()
        rng = np.random.default_rng(0)
        for name, (offset, size) in self.places(path).items():
            for row, clip_id in enumerate("abc"):
                place = offset + row * size + int(rng.integers(size))
                bent = bytearray(data)
                bent[place] ^= 1 << int(rng.integers(8))
                path.write_bytes(bent)
                report = verify(tiny.folder)
                assert report.damaged_ids == [clip_id], (name, row)
                assert len(report.problems) == 1
                assert str(path) in report.problems[0]
                assert f"rows {clip_id}" in report.problems[0]

    def test_a_flipped_bit_of_a_picture_names_its_clip(self, whole: tuple[TinyCache, Path]) -> None:
        tiny, path = whole
        with h5py.File(path) as file:
            start = file["video/jpeg"].id.get_offset() + int(file["video/jpeg_end"][0, 1])
        bent = bytearray(path.read_bytes())
        bent[start] ^= 4
        path.write_bytes(bent)
        assert verify(tiny.folder).damaged_ids == ["b"]

    @pytest.mark.parametrize("flips", [80, pytest.param(3000, marks=pytest.mark.slow)])
    def test_any_flipped_bit_anywhere_is_found(
        self, whole: tuple[TinyCache, Path], flips: int
    ) -> None:
        """Most in HDF5's own structures, where anything may happen on reading."""
        tiny, path = whole
        data = path.read_bytes()
        rng = np.random.default_rng(1)
        structure = np.ones(len(data), bool)
        for offset, size in self.places(path).values():
            structure[offset : offset + 3 * size] = False
        picks = rng.choice(np.flatnonzero(structure), flips)
        for place in [*picks, *rng.integers(0, len(data), flips // 8)]:
            bent = bytearray(data)
            bent[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bent)
            report = verify(tiny.folder)
            assert report.problems, place
            assert set(report.damaged_ids) <= {"a", "b", "c"}

    def test_a_cut_or_grown_file_is_found(self, whole: tuple[TinyCache, Path]) -> None:
        tiny, path = whole
        data = path.read_bytes()
        for changed in (data[:-1], data[: len(data) // 2], b"", data + b"\0"):
            path.write_bytes(changed)
            report = verify(tiny.folder)
            assert len(report.problems) == 1, len(changed)
            assert path.name in report.problems[0]

    def test_damage_that_no_row_feels_is_reported_too(self, whole: tuple[TinyCache, Path]) -> None:
        tiny, path = whole
        with h5py.File(path, "r+") as file:
            file.attrs["created_ns"] = 5
        report = verify(tiny.folder)
        assert report.damaged_ids == []
        assert "no clip's row" in report.problems[0]

    def test_progress_is_told_every_byte(self, whole: tuple[TinyCache, Path]) -> None:
        tiny, _ = whole
        tiny.write("e")
        sizes: list[int] = []
        report = verify(tiny.folder, sizes.append)
        assert sum(sizes) == sum(p.stat().st_size for p in (tiny.folder / "shards").iterdir())
        assert (report.shards, report.clips) == (2, 4)


def rewrite(path: Path, name: str, make: Callable[[h5py.File, npt.NDArray[Any]], object]) -> None:
    """Replace a dataset of a shard, as a hostile writer might."""
    with h5py.File(path, "r+") as file:
        values = file[name][()]
        del file[name]
        make(file, values)


def external_link(file: h5py.File, values: npt.NDArray[Any]) -> None:
    with h5py.File(Path(file.filename).parent / "other.bin", "w") as other:
        other["x"] = values
    file["audio/mel"] = h5py.ExternalLink("other.bin", "x")


def soft_link(file: h5py.File, values: npt.NDArray[Any]) -> None:
    file["elsewhere"] = values
    file["audio/mel"] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, values: npt.NDArray[Any]) -> None:
    raw = Path(file.filename).parent / "raw.bin"
    raw.write_bytes(values.tobytes())
    file.create_dataset(
        "audio/mel", values.shape, values.dtype, external=[(str(raw), 0, values.nbytes)]
    )


def virtual(file: h5py.File, values: npt.NDArray[Any]) -> None:
    with h5py.File(Path(file.filename).parent / "source.bin", "w") as other:
        other["x"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource("source.bin", "x", values.shape)
    file.create_virtual_dataset("audio/mel", layout)


HOSTILE: dict[str, Callable[[h5py.File, npt.NDArray[Any]], object]] = {
    "external link": external_link,
    "soft link": soft_link,
    "external storage": external_storage,
    "virtual": virtual,
    "chunked": lambda f, v: f.create_dataset("audio/mel", data=v, chunks=True),
    "compressed": lambda f, v: f.create_dataset("audio/mel", data=v, compression="gzip"),
    "object dtype": lambda f, v: f.create_dataset(
        "audio/mel", v.shape, h5py.vlen_dtype(np.float16)
    ),
    "other dtype": lambda f, v: f.create_dataset("audio/mel", data=v.astype(np.float64)),
    "other shape": lambda f, v: f.create_dataset("audio/mel", data=v[:, :-1]),
    "more rows": lambda f, v: f.create_dataset("audio/mel", data=np.concatenate([v, v])),
    "absurd shape": lambda f, v: f.create_dataset("audio/mel", (10**12, *v.shape[1:]), v.dtype),
    "a group": lambda f, v: f.create_group("audio/mel"),
    "missing": lambda f, v: None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_datasets_are_refused(tiny: TinyCache, kind: str) -> None:
    path = tiny.path(tiny.write("a", "b"))
    rewrite(path, "audio/mel", HOSTILE[kind])
    with Shard(path, tiny.identity) as shard, pytest.raises(CacheError, match="audio/mel"):
        shard.read("audio/mel")
    found = open_cache(tiny.folder)
    assert found.ids == []
    assert "audio/mel" in found.index.damaged[path.name]
    (problem,) = verify(tiny.folder).problems
    assert path.name in problem
    assert "audio/mel" in problem


def group_link(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).parent / "other.bin", "w") as other:
        file.copy("audio", other)
    del file["audio"]
    file["audio"] = h5py.ExternalLink("other.bin", "audio")


def test_a_group_that_is_a_link_is_refused(tiny: TinyCache) -> None:
    path = tiny.path(tiny.write("a"))
    with h5py.File(path, "r+") as file:
        group_link(file)
    with Shard(path, tiny.identity) as shard, pytest.raises(CacheError, match="link elsewhere"):
        shard.read("audio/mel")
    assert "link elsewhere" in load_index(tiny.folder, tiny.identity).damaged[path.name]


@pytest.mark.parametrize("name", ["rows/id", "failures/id", "video/jpeg", "video/jpeg_end"])
def test_absurd_sizes_are_refused_without_memory(tiny: TinyCache, name: str) -> None:
    """A file of some kilobytes may claim terabytes."""
    path = tiny.path(tiny.write("a", failures=[Failure("b", "audio", "x")]))
    rewrite(path, name, lambda f, v: f.create_dataset(name, (2**44,), v.dtype))
    assert name in open_cache(tiny.folder).index.damaged[path.name]


def test_attributes_of_another_kind_are_refused(tiny: TinyCache) -> None:
    """Text of variable length is read through a heap, which HDF5 does not check."""
    for name in ("format", "fingerprint", "created_ns"):
        path = tiny.path(tiny.write("a"))
        with h5py.File(path, "r+") as file:
            file.attrs[name] = "text of variable length"
        with pytest.raises(CacheError, match=f"{name} is no plain text or number"):
            summarize(path, tiny.identity)
        path.unlink()


def of_kind(name: str, dtype: Any) -> Callable[[h5py.File, npt.NDArray[Any]], object]:
    return lambda file, _: file.create_dataset(name, (1,), dtype)


def test_texts_of_another_kind_are_refused(tiny: TinyCache) -> None:
    for name, dtype in (("rows/id", h5py.string_dtype()), ("rows/id", "S5000")):
        path = tiny.path(tiny.write("a"))
        rewrite(path, name, of_kind(name, dtype))
        with pytest.raises(CacheError, match=name):
            Shard(path, tiny.identity)


@pytest.mark.parametrize("ends", [[[5, 3]], [[1, 10**9]], [[-4, 2]], [[1], [2]]])
def test_picture_bounds_are_checked(tiny: TinyCache, ends: list[list[int]]) -> None:
    path = tiny.path(tiny.write("a"))
    rewrite(path, "video/jpeg_end", lambda f, v: f.create_dataset("video/jpeg_end", data=ends))
    assert "jpeg_end" in open_cache(tiny.folder).index.damaged[path.name]


@pytest.mark.parametrize("first", [-4, 10**9, 2**63 - 1, -(2**63)])
def test_picture_bounds_are_checked_on_reading(tiny: TinyCache, first: int) -> None:
    """The first picture's end is looked at only when somebody wants it."""
    path = tiny.path(tiny.write("a"))
    with h5py.File(path, "r+") as file:
        file["video/jpeg_end"][0, 0] = first
    found = open_cache(tiny.folder)
    assert found.ids == ["a"]
    with pytest.raises(CacheError, match="jpeg_end"):
        found.jpegs("a")


def test_pictures_beyond_the_end_of_the_file_are_refused(tiny: TinyCache) -> None:
    path = tiny.path(tiny.write("a", "b"))
    tiny.store_index()
    for ends in ([2**27, 2**27 + 1, 2**27 + 2, 2**27 + 3], [0, 2**63 - 9, 2**63 - 5, 2**63 - 1]):
        with h5py.File(path, "r+") as file:
            file["video/jpeg_end"][...] = np.reshape(ends, (2, 2))
        with pytest.raises(CacheError, match="ends before"):
            open_cache(tiny.folder).jpegs("b")


def test_unknown_datasets_are_named(tiny: TinyCache) -> None:
    with tiny.open(tiny.write("a")) as shard, pytest.raises(CacheError, match=r"audio/mel"):
        shard.read("audio/smell")


def test_foreign_files_are_refused(tiny: TinyCache, tmp_path: Path) -> None:
    other = tiny_cache(tmp_path / "other", jpeg_quality=9)
    with pytest.raises(CacheError, match="a shard of another cache"):
        Shard(other.path(other.write("a")), tiny.identity)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(CacheError, match="not a shard"):
        Shard(tmp_path / "plain.h5", tiny.identity)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(CacheError, match="not a readable HDF5 file"):
        Shard(tmp_path / "text.h5", tiny.identity)
    assert issubclass(CacheError, AvelError)


def test_fingerprint_and_differences() -> None:
    config = CONFIG.resolved("0" * 64)
    base = Identity(1, config, declare(CONFIG), {})
    for name, value in config.items():
        changed = {**config, name: f"{value}x"}
        assert dataclasses.replace(base, config=changed).fingerprint != base.fingerprint, name
        assert config_differences(changed, config) == [
            f"{name}: {value}x' here, {value!r} in the cache".replace(": ", ": '", 1)
        ]
    declared = declare(CONFIG)
    others = [
        dataclasses.replace(base, feature_version=2),
        dataclasses.replace(base, format_version=1),
        dataclasses.replace(base, declaration=dataclasses.replace(declared, pictures=None)),
        dataclasses.replace(base, declaration=dataclasses.replace(declared, clip_seconds=2.0)),
        *(
            dataclasses.replace(base, declaration=dataclasses.replace(declared, fields=fields))
            for fields in (declared.fields[:-2], declared.fields[1:], declared.fields[::-1])
        ),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    alike = (
        dataclasses.replace(base, config=dict(reversed(config.items()))),
        dataclasses.replace(base, provenance={"machine": "another"}),
    )
    assert {one.fingerprint for one in alike} == {base.fingerprint}
    assert config_differences(config, config) == []
    assert config_differences({}, {"new": 1}) == ["new: none here, 1 in the cache"]
