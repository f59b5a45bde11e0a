"""A comparison of runs as Markdown, LaTeX or CSV: a row for each run, ready to be pasted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

from cache.common.cli import printable
from train.report.compared import Compared, Row
from train.report.estimates import legend
from train.report.tables import caveats, scored
from train.score.named import MODEL

BEST = (
    "bold: the best, where it beats every other row, baselines too, beyond the 95 % interval of "
    "the differences, paired by clip"
)
_ABOVE_SEEDS = "±: standard deviation over seeds"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{"±": r"$\pm$", "–": "--", "≤": r"$\leq$", "×": r"$\times$", "↓": r"$\downarrow$"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def markdown(compared: Compared) -> str:
    """A table as GitHub shows it, and what must be known to read it below."""
    rows = compared.rows()
    names, cells = _head(compared, rows), _cells(compared, rows, _in_markdown, "**{}**")
    right = ["---" if name in ("run", "settings") else "---:" for name in names]
    lines = [_in_markdown(name) for name in names], right, *cells
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *(_in_markdown(note) for note in notes(compared, rows))])


def latex(compared: Compared) -> str:
    """A table of the package booktabs, its caption saying what must be known to read it."""
    rows = compared.rows()
    names = [_in_latex(name) for name in _head(compared, rows)]
    cells = _cells(compared, rows, _in_latex, r"\textbf{{{}}}")
    models = sum(not row.trivial for row in rows)
    kinds = "".join("l" if name in ("run", "settings") else "r" for name in names)
    lines = [rf"{' & '.join(line)} \\" for line in (names, *cells)]
    ruled = [lines[0], r"\midrule", *lines[1 : models + 1]]
    ruled += [r"\midrule", *lines[models + 1 :]] if len(lines) > models + 1 else []
    below = ". ".join(_in_latex(note[:1].upper() + note[1:]) for note in notes(compared, rows))
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{below}.}}",
            r"\centering",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            *ruled,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def comma_separated(compared: Compared) -> str:
    """All scores as CSV: of each its mean, deviation over seeds, and the ends of its interval."""
    rows = compared.rows()
    keys = list(dict.fromkeys(key for row in rows for key in row.scores))
    ends = ("", "_sd", "_low", "_high")
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["run", "settings", "split", *(f"{key}{end}" for key in keys for end in ends)])
    for row in rows:
        values: list[float | None] = []
        for key in keys:
            mean, deviation = row.scores.get(key, (None, None))
            sure = row.sure.get(key, {})
            values += [mean, deviation, sure.get("low"), sure.get("high")]
        table.writerow(printable([row.name, row.settings, compared.split]) + values)
    return out.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Compared], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
}


def _head(compared: Compared, rows: Sequence[Row]) -> list[str]:
    settings = ["settings"] if any(row.settings for row in rows) else []
    return ["run", *settings, *compared.labels.values()]


def _cells(
    compared: Compared, rows: Sequence[Row], escaped: Callable[[str], str], bold: str
) -> list[list[str]]:
    """The table's text: row by row, its name, settings and headline scores."""
    settings = any(row.settings for row in rows)
    found = []
    for row in rows:
        line = [escaped(row.name), *([escaped(row.settings)] * settings)]
        for key in compared.labels:
            text, ends = row.shown(key)
            marked = bold.format(escaped(text)) if key in row.best else escaped(text)
            line.append(f"{marked} {ends}".rstrip())
        found.append(line)
    return found


def notes(compared: Compared, rows: Sequence[Row]) -> list[str]:
    """What must be known to read the table, what was scored first."""
    first = compared.first
    several = any(deviation is not None for row in rows for _, deviation in row.scores.values())
    told = [
        f"{n}: {text}" for n, (seeds, _) in compared.stored.items() for text in caveats(seeds[0])
    ]
    brackets = legend(first.get("intervals", {}).get(MODEL, {}))
    known = [scored(first), _ABOVE_SEEDS * several, brackets, BEST * bool(compared.paired), *told]
    return [note for note in known if note]


def _in_markdown(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", printable(text))


def _in_latex(text: str) -> str:
    """Text in which nothing is a command, nor an option of the line's end before it."""
    guard = "{}" if text[:1] in ("[", "*") else ""
    return guard + "".join(_LATEX.get(letter, letter) for letter in printable(text))
