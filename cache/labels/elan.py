"""ELAN's `.eaf` (EAF 2.x and 3.x): one file a recording, named by it.

Each annotation that is aligned with time is an event; its value is the class, or where that is
empty its tier's name. Annotations that hang on others (of tiers that depend on one) are left out,
which is noted. A file without annotations says that nothing in the recording is an event.
(ELAN Annotation Format, Max Planck Institute for Psycholinguistics,
https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from cache.common.errors import AnnotationError
from cache.labels.files import MAX_LINE, Places, Row, event_row, whole_file
from cache.labels.media_names import recording_of

MAX_XML_BYTES = 1 << 26
_MAX_DEPTH = 16
_MAX_MS = 1 << 40


class _Refused(Exception):
    """What no file of ELAN's has."""


@dataclass
class _Annotation:
    name: str
    tier: str
    begin: str
    end: str
    value: list[str] = field(default_factory=list)


class _Document:
    """What is in an ELAN file: time slots in ms, and annotations in file order.

    XML from strangers: entities, which may expand to any size or name other files, are refused
    where they are declared; depth and texts are bounded.
    """

    def __init__(self) -> None:
        self.slots: dict[str, int | None] = {}
        self.found: list[_Annotation] = []
        self.depending = 0
        self._open: list[str] = []
        self._tier, self._depends = "", False
        self._characters = 0

    def parse(self, data: bytes) -> None:
        """Read it; _Refused or expat.ExpatError for what is no ELAN file."""
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._declared
        parser.EntityDeclHandler = self._declared
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._finish
        parser.CharacterDataHandler = self._text
        parser.Parse(data, True)

    def _declared(self, *what: object) -> None:
        raise _Refused("a document type or entity, which no file of ELAN's declares; refused")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "ANNOTATION_DOCUMENT":
            raise _Refused(f"expected ANNOTATION_DOCUMENT, found {name[:40]!r}")
        if len(self._open) == _MAX_DEPTH:
            raise _Refused("elements within elements, deeper than any of ELAN's")
        self._open.append(name)
        if name == "HEADER" and attributes.get("TIME_UNITS", "milliseconds") != "milliseconds":
            raise _Refused(f"expected times in milliseconds, found {attributes['TIME_UNITS']!r}")
        if name == "MEDIA_DESCRIPTOR" and attributes.get("TIME_ORIGIN", "0") != "0":
            raise _Refused("its media begins elsewhere than at 0 (TIME_ORIGIN); save it without")
        if name == "TIME_SLOT":
            self.slots[attributes.get("TIME_SLOT_ID", "")] = _ms(attributes.get("TIME_VALUE"))
        elif name == "TIER":
            self._tier = attributes.get("TIER_ID", "")
            self._depends = "PARENT_REF" in attributes
        elif name == "REF_ANNOTATION" or (name == "ALIGNABLE_ANNOTATION" and self._depends):
            self.depending += 1
        elif name == "ALIGNABLE_ANNOTATION":
            keys = ("ANNOTATION_ID", "TIME_SLOT_REF1", "TIME_SLOT_REF2")
            annotation, begin, end = (attributes.get(key, "") for key in keys)
            self.found.append(_Annotation(annotation, self._tier, begin, end))
            self._characters = 0

    def _finish(self, name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if self._open[-2:] == ["ALIGNABLE_ANNOTATION", "ANNOTATION_VALUE"] and not self._depends:
            self._characters += len(text)
            if self._characters > MAX_LINE:
                raise _Refused(f"a value of more than {MAX_LINE:,} characters, which no class has")
            self.found[-1].value.append(text)


def elan_rows(path: Path, notes: list[str]) -> Places:
    """The rows of an ELAN file; AnnotationError where it is none."""
    document, recording = _Document(), recording_of(path)
    try:
        document.parse(whole_file(path, MAX_XML_BYTES))
    except (_Refused, expat.ExpatError, LookupError, ValueError) as error:
        why = str(error)[:200]  # an encoding's name may be as long as the file
        raise AnnotationError(f"{path}: can't be read as a file of ELAN's: {why}") from None
    if document.depending:
        notes.append(f"{path.name}: {document.depending} annotation(s) hang on others: left out")
    for one in document.found:
        place = f"annotation {one.name[:40]!r} of the tier {one.tier[:80]!r}"
        yield place, _row(document, recording, one)
    if not document.found:
        yield "its annotations", event_row(recording, "", None)


def _row(document: _Document, recording: str, one: _Annotation) -> Row | str:
    begin, end = document.slots.get(one.begin), document.slots.get(one.end)
    if begin is None or end is None:
        slots = f"{one.begin[:40]!r} and {one.end[:40]!r}"
        return f"expected two time slots with a TIME_VALUE, found {slots}; align it in ELAN"
    category = "".join(one.value).strip() or one.tier.strip()
    if not category:
        return "expected a value, or a tier with a name: which class is it?"
    return event_row(recording, category, (begin / 1000, end / 1000))


def _ms(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 13) or int(text) > _MAX_MS:
        raise _Refused(f"expected a TIME_VALUE in whole milliseconds, found {text[:40]!r}")
    return int(text)
