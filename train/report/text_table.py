"""Columns of scores as text; where a terminal is too narrow for all, in blocks one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Columns = Mapping[str, Mapping[str, str]]
"""Texts by score, by the column's heading."""
Groups = Mapping[str, Mapping[str, str]]
"""Labels of scores, by what they are of; "" has no line of its own."""
_MISSING, _GAP = "–", "  "


def laid_out(columns: Columns, groups: Groups, width: int | None = None) -> str:
    """A line of headings, then the groups of scores, a line each, numbers to the right.

    width: letters in a line; each block has the labels, and as many columns as fit, at least one.
    """
    label = max(len(text) for labels in groups.values() for text in labels.values())
    return "\n\n".join(
        "\n".join(_block(columns, groups, label, widths))
        for widths in _fitting(columns, groups, label, width)
    )


def _fitting(
    columns: Columns, groups: Groups, label: int, width: int | None
) -> Iterator[dict[str, int]]:
    """The headings of each block with the widths of their columns."""
    keys = [key for labels in groups.values() for key in labels]
    block: dict[str, int] = {}
    for name, texts in columns.items():
        wide = max(len(name), *(len(texts.get(key, _MISSING)) for key in keys))
        used = label + sum(len(_GAP) + taken for taken in [*block.values(), wide])
        if block and width is not None and used > width:
            yield block
            block = {}
        block[name] = wide
    yield block


def _block(columns: Columns, groups: Groups, label: int, widths: Mapping[str, int]) -> list[str]:
    def line(first: str, cells: Sequence[str]) -> str:
        padded = [cell.rjust(wide) for cell, wide in zip(cells, widths.values(), strict=True)]
        return _GAP.join([first.ljust(label), *padded])

    lines = [line("", [*widths])]
    for name, labels in groups.items():
        lines += [f"{name}:"] if name else []
        lines += [
            line(text, [columns[one].get(key, _MISSING) for one in widths])
            for key, text in labels.items()
        ]
    return lines
