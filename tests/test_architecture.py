"""docs/architecture.md draws the rooms as the imports have them, and names what is there."""

from __future__ import annotations

import re
from pathlib import Path

from floors import FLOORS
from test_floors import OURS, imports, room_of, tree

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
Arrows = set[tuple[str, str]]


def imported() -> Arrows:
    """From which room to which modules import; a package's face has the package's name."""
    pairs = {
        (".".join(room_of(module)).rstrip("."), ".".join(room_of(other)).rstrip("."))
        for module, path in OURS.items()
        for other, _ in imports(tree(path))
    }
    return {(here, there) for here, there in pairs if here != there}


def drawn() -> Arrows:
    """The arrows of the page's picture; `a --> b & c` are two."""
    (picture,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split("-->") for line in picture.splitlines() if "-->" in line]
    return {(a.strip(), b.strip()) for a, ends in lines for b in ends.split("&")}


def reach(arrows: Arrows) -> Arrows:
    """The arrows with all that can be reached along them."""
    found = set(arrows)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found


def test_the_picture_has_each_import_and_no_arrow_that_others_lead_round_to() -> None:
    arrows = imported()
    whole = reach(arrows)
    rooms = {room for arrow in arrows for room in arrow}
    around = {(a, b) for a, b in arrows if any({(a, c), (c, b)} <= whole for c in rooms)}
    missing = "\n".join(f"{a} --> {b}" for a, b in sorted(arrows - around - drawn()))
    assert drawn() == arrows - around, f"draw\n{missing}\nnot {sorted(drawn() - arrows)}"


def test_what_is_named_is_there() -> None:
    files = set(re.findall(r"`((?:cache|extract|train|tests|docs)/[\w/.]+)`", PAGE))
    assert len(files) > 30
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    for stage, floors in FLOORS.items():
        (table,) = re.findall(rf"\| `{stage}` \|.*?\n\n", PAGE, re.DOTALL)
        for room in (room for row in floors for room in row):
            assert f"`{room}`" in table, f"{stage}/{room} is in no row"
    for name, path in re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", PAGE):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (name, path)
