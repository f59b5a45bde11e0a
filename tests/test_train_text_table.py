"""Columns of scores as text, on wide and on narrow terminals."""

from __future__ import annotations

from train.report.text_table import laid_out

COLUMNS = {"model": {"a": "0.9 ± 0.1", "b": "1"}, "plain": {"a": "0.5"}, "x": {"b": "0.25"}}
GROUPS = {"": {"a": "first"}, "rest": {"b": "second score"}}


def test_numbers_stand_below_their_heading() -> None:
    assert laid_out(COLUMNS, GROUPS).splitlines() == [
        "                  model  plain     x",
        "first         0.9 ± 0.1    0.5     –",
        "rest:",
        "second score          1      –  0.25",
    ]


def test_where_they_don_t_fit_they_stand_in_blocks_each_with_the_labels() -> None:
    whole = laid_out(COLUMNS, GROUPS)
    widest = max(map(len, whole.splitlines()))
    assert laid_out(COLUMNS, GROUPS, widest) == whole
    first, second = laid_out(COLUMNS, GROUPS, widest - 1).split("\n\n")
    assert first == laid_out({name: COLUMNS[name] for name in ("model", "plain")}, GROUPS)
    assert second == laid_out({"x": COLUMNS["x"]}, GROUPS)
    assert len(laid_out(COLUMNS, GROUPS, 1).split("\n\n")) == 3, "one at least in each"
