"""Bent annotation files: labels that keep every law, or one error that names file and line."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from cache.common.errors import AnnotationError
from cache.format.names import check_class, check_id, look
from cache.labels.annotations import Labels, read_annotations
from cache.labels.store import read_labels, write_labels

ROUNDS = 400
CLIP_SECONDS = 10.0
CSV = '''id,category,start,end,split,remark
-abc,"Speech, man",0,10,train,
café,Bark,1.5,4,val,"a ""b"""
x 1,Bark,0,0,test,
-abc,Horn,2,12,,"two
lines"
'''.encode()
PLAIN = b"id,category,start,end\n" + b"".join(b"c%d,A%d,0,%d\n" % (n, n % 3, n) for n in range(9))
AVE = b"""Category&VideoID&Quality&StartTime&EndTime
Train horn&-abc&good&0&10
Male speech, man speaking&x_1&bad&2&7
Accordion&-abc&good&1.5&4
Bark&caf\xc3\xa9&good&0&0
"""
PIECES = [
    *(b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b",", b";", b"&", b'"', b'""', b"\\", b"/", b".."),
    *(b"\xff", b"\xe9", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"),
    *(text.encode() for text in ("\u2028", "\u2029", "\x85", "\u202e", "\u200b", "\xa0", "\u3000")),
    *(text.encode() for text in ("e\u0301", "\u0301", "\uff11", "\U0001f600", "\u017f", "\u0130")),
    *(b"nan", b"inf", b"-inf", b"1e400", b"1e-400", b"-1", b"-0", b"1_0", b"0x1p3", b"1e", b"+"),
    *(b"9" * 5000, b"A" * 300, b"A" * 70_000, b'"' * 999, b"," * 999, b"&" * 999, b"\n" * 99),
    *(b"split", b"id", b"start", b"train", b"category", b"Bark", b"bark", b"-abc", b"="),
    *(b"<", b"&amp;", b"&#0;", b"&b;", b"<a>" * 99, b'<!DOCTYPE a [<!ENTITY b "c">]>', b"<!--"),
    *(b"{", b"[" * 999, b'"', b"null", b"NaN", b'"segment"', b'"t2"', b"\\ud800", b"e309", b"]}"),
]
RAVEN = b"""Selection\tView\tBegin Time (s)\tEnd Time (s)\tSpecies\tBegin File\tFile Offset (s)
1\tWaveform 1\t61.5\t63\tBark\tx/r 1.wav\t1.5
2\tSpectrogram 1\t2,5\t4\tHorn\tcaf\xc3\xa9.wav\t2,5
3\tSpectrogram 1\t\t\t\tr2.wav\t0
"""
AUDACITY = b"1.250000\t3.000000\tBark\n\\\t100.0\t-1.0\n2,5\t2,5\tDog, big\n0\t9\tHorn\n"
JSON = b"""{"version": "1", "database": {
"-v1": {"subset": "training", "duration": 9, "annotations": [{"segment": [0, 2.5], "label": "A"},
{"segment": [1e0, 20], "label": "caf\\u00e9"}]}, "v2": {"subset": "testing", "annotations": []},
"v3": {"annotations": [{"segment": [3, 3], "label": "B"}]}}}
"""
STUDIO = b"""[{"id": 1, "data": {"media": "/data/local-files/?d=a%20b.mp4"}, "annotations": [
{"was_cancelled": false, "result": [{"type": "labels", "value": {"start": 0, "end": 2.5, "channel":
0, "labels": ["Bark", "Horn"]}}, {"type": "choices"}]}]}, {"data": {"media": "c.wav"},
"annotations": [{"result": []}]}, {"data": {"media": "d.wav"}, "annotations": []}]
"""
ELAN = b"""<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT>
<HEADER TIME_UNITS="milliseconds"/>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="t2"
TIME_VALUE="1500"/></TIME_ORDER><TIER TIER_ID="Bark"><ANNOTATION><ALIGNABLE_ANNOTATION
ANNOTATION_ID="a1" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>Bark &amp; co
</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION><ANNOTATION><ALIGNABLE_ANNOTATION
ANNOTATION_ID="a2" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t1"><ANNOTATION_VALUE/>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>
"""
BACKGROUND = "-b1&train\ncafé 2\n\nb3 & Test\n".encode()
NAMES = ("set.csv", "plain.csv", "Annotations.txt", "trainSet.txt", "background.txt")
OTHERS = {
    "raven.txt": RAVEN,
    "dcase.tsv": PLAIN.replace(b",", b"\t"),
    "r_1.txt": AUDACITY,
    "a.json": JSON,
    "tasks.json": STUDIO,
    "r_1.eaf": ELAN,
}
BESIDE = ("trainSet.txt", "background.txt")


def bent(rng: random.Random, data: bytes) -> bytes:
    """The file with one to four changes: bytes flipped, cut, doubled, moved, pieces put in."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + rng.choice([1, 1, 4, 30, 1000]))
        piece = rng.choice(PIECES)
        data = rng.choice(
            [
                data[:a] + bytes(rng.randrange(256) for _ in data[a:b]) + data[b:],
                data[:a] + data[b:],
                data[:a] + data[a:b] * 2 + data[b:],
                data[b:] + data[:b],
                data[:a] + piece + data[a:],
                data[:a] + piece + data[b:],
                data.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\n"])),
            ]
        )
    return data


def assert_laws(labels: Labels) -> None:
    rows = len(labels.ids)
    assert rows > 0
    assert {c.shape for c in (labels.category, labels.start_s, labels.end_s, labels.split)} == {
        (rows,)
    }
    assert not any(map(check_id, labels.ids))
    assert not any(map(check_class, labels.classes))
    assert len({look(name) for name in labels.classes}) == len(labels.classes)
    named = labels.category[~labels.background]
    assert sorted(set(named.tolist())) == list(range(len(labels.classes)))
    start_s, end_s = labels.start_s[~labels.weak], labels.end_s[~labels.weak]
    assert np.isnan(labels.end_s[labels.weak]).all()
    assert not np.any((labels.start_s + labels.end_s)[labels.background])
    assert np.all((start_s >= 0) & (start_s <= end_s))
    assert np.all((end_s <= CLIP_SECONDS) & (start_s < CLIP_SECONDS))
    assert set(labels.split.tolist()) <= {-1, 0, 1, 2}
    times = (np.where(labels.weak, -1, column) for column in (labels.start_s, labels.end_s))
    columns = (labels.category, *times, labels.split)
    events = list(zip(labels.ids, *(column.tolist() for column in columns), strict=True))
    assert len(set(events)) == len(events)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_labels_or_one_clear_error(tmp_path: Path, name: str) -> None:
    """What stands beside annotations is bent beside whole ones, the others alone."""
    rng = random.Random(name)
    known = {"set.csv": CSV, "plain.csv": PLAIN, "background.txt": BACKGROUND, **OTHERS}
    data = known.get(name, AVE)
    (tmp_path / "Annotations.txt").write_bytes(AVE)
    path = tmp_path / ("Annotations.txt" if name in BESIDE else name)
    told, labels = {True: 0, False: 0}, None
    for number in range(ROUNDS):
        (tmp_path / name).write_bytes(bent(rng, data))
        try:
            labels = read_annotations(path, CLIP_SECONDS, number % 3, labels)
        except AnnotationError as error:
            told[False] += 1
            text = str(error)
            assert text.startswith(str(tmp_path))
            assert len(text) < 3000
            assert re.search(
                r"line \d+: |expected one event a line|no event begins|not in the annotation file"
                r"|said to have no event, and one as well"
                r"|this is not JSON|found no database|video '|task \d+"
                r"|as a file of ELAN's|annotation '",
                text,
            )
        else:
            told[True] += 1
            assert_laws(labels)
            if number % 100 == 0:
                write_labels(tmp_path, labels)
                stored = read_labels(tmp_path)
                assert stored is not None
                assert stored.equals(labels)
    assert min(told.values()) > ROUNDS / 40
