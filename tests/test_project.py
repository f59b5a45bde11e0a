"""The rules that hold the project together: who may import whom, help, forbidden words."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("cache", "extract", "train")
MAY_NOT_IMPORT = {
    "cache": {"extract", "train", "torch", "torchvision", "librosa", "cv2", "av", "soundfile"},
    "extract": {"train"},
    "train": {"extract", "librosa", "cv2", "av", "joblib", "soundfile"},
}


def imported(source: str, package: str = "") -> set[str]:
    """Top-level names of everything that a module imports, at whatever depth it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else (node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            values = [a.value for a in node.args if isinstance(a, ast.Constant)]
            names |= {value.split(".")[0] for value in values if isinstance(value, str)}
    return names


def modules() -> list[Path]:
    return [path for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py"))]


def text_files() -> list[Path]:
    kinds = {".py", ".md", ".toml", ".txt", ".ipynb", ".json", ".yml", ".yaml"}
    skipped = re.compile(r"\.|.*\.egg-info$|(demo|features|runs|build|dist)$")
    found = [ROOT / "Makefile", ROOT / ".gitignore"]
    for top in sorted(path for path in ROOT.iterdir() if not skipped.match(path.name)):
        found += [path for path in (top, *top.rglob("*")) if path.suffix in kinds]
    return found


def test_import_walk_finds_hidden_imports() -> None:
    source = "def f():\n    import train.config\n    from av import open\nimport_module('cv2.x')\n"
    assert imported(source) == {"train", "av", "cv2"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_data(path: Path) -> None:
    stage = path.relative_to(ROOT).parts[0]
    against = imported(path.read_text(encoding="utf-8"), stage) & MAY_NOT_IMPORT[stage]
    assert not against, f"{path.relative_to(ROOT)} imports {sorted(against)}"


def test_texts_reach_a_terminal_through_say() -> None:
    printing = {
        str(path.relative_to(ROOT))
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "sys.stderr.write"}
    }
    assert printing == {"cache/common/cli.py"}


def test_files_and_functions_are_short() -> None:
    for path in modules():
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 300, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 40, f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"


def test_every_stage_was_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in modules()} == set(STAGES)


def test_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    line = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert line is not None
    phony = set(line[1].split())
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets == phony
    assert set(re.findall(r"^  make (\w+) +\S", shown, re.M)) == phony
    wanted = "setup demo features train evaluate predict test check bench clean"
    assert set(wanted.split()) <= phony


def test_constraints_name_every_requirement() -> None:
    def names(file: str) -> set[str]:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        return {re.split(r"[<>=~ ;]", line)[0].lower() for line in lines if line[:1].isalpha()}

    assert len(names("requirements.txt")) > 10
    assert names("requirements.txt") <= names("constraints.txt")


def test_no_forbidden_words() -> None:
    forbidden = {
        "a mark of unfinished work": r"\bTO" + r"DO\b|\bFIX" + r"ME\b",
        "a path of one machine": r"(?<![\w.>)}$])/(work|home|root|Users)/|\.\./" + "shared",
        "a package host": r"(py" + r"pi|python" + r"hosted|pyt" + r"orch)\.org",
    }
    files = text_files()
    assert {ROOT / "README.md", ROOT / "extract/demo/__main__.py", ROOT / "pyproject.toml"} <= set(
        files
    )
    for path in files:
        text = path.read_text(encoding="utf-8")
        for what, pattern in forbidden.items():
            hit = re.search(pattern, text)
            assert hit is None, f"{path.relative_to(ROOT)}: {what}: {hit}"
