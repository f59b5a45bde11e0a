"""The Makefile takes values as given: nothing in them is expanded by make or run by a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import install_makefile

ROOT = Path(__file__).parent.parent
NASTY = [
    "holiday $(shell touch pwned).mp4",
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned; #",
    "a && touch pwned | touch pwned & touch pwned",
    "$data and $$x and ${HOME} and $@",
    '" ; touch pwned ; "',
    "'; touch pwned; '",
    'it\'s "so" \\',
    "# % * ? [a] ~ {a,b} !x = := , )",
    "two\nlines",
    "blanks  inside and at the end  ",
    "-x",
    "--help",
    "\u00fcml\u00e4ut \u72ac",
]
STUB = """
import json, os, sys
if sys.argv[1] == "-c" and "ARGS" in sys.argv[2]:
    code, sys.argv = sys.argv[2], ["-c", *sys.argv[3:]]
    exec(code)
with open("calls", "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
if sys.argv[1:4] == ["-m", "train", "features"]:
    print(next((a[6:] for a in sys.argv if a.startswith("--run=")), "runs/newest"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile beside an environment whose python notes how it was called."""
    (tmp_path / "stub.py").write_text(STUB)
    install_makefile(tmp_path, [sys.executable, "-IS", str(tmp_path / "stub.py")])
    return tmp_path


def make(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (project / "calls").unlink(missing_ok=True)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *words],
        cwd=project,
        env={**ours, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (project / "pwned").exists(), done
    return done


def calls(project: Path) -> list[list[str]]:
    """The arguments of each call that was made of python, in order."""
    return [json.loads(line) for line in (project / "calls").read_text().splitlines()]


@pytest.mark.parametrize("value", NASTY)
def test_values_arrive_as_they_were_given(project: Path, value: str) -> None:
    where = [f"{name}={value}" for name in ("DATA", "CACHE", "WEIGHTS", "JOBS", "DASK", "STORE")]
    done = make(project, "features", *where, f"PART={value}")
    assert done.returncode == 0, done
    flags = ["data", "cache", "weights", "jobs", "dask", "store", "part"]
    assert calls(project) == [["-m", "extract", *(f"--{flag}={value}" for flag in flags)]]
    done = make(project, "train", f"CACHE={value}", f"RUN={value}", f"SEEDS={value}")
    assert done.returncode == 0, done
    flags = ["cache", "run", "seeds"]
    assert calls(project) == [["-m", "train", "fit", *(f"--{flag}={value}" for flag in flags)]]
    where = [f"{name}={value}" for name in ("CACHE", "TRIALS", "OUT", "SPACE", "JOBS")]
    done = make(project, "sweep", *where)
    assert done.returncode == 0, done
    flags = ["cache", "trials", "out", "space", "jobs"]
    assert calls(project) == [["-m", "train", "sweep", *(f"--{flag}={value}" for flag in flags)]]
    words = [f"{name}={value}" for name in ("CACHE", "RUN", "SPLIT", "MEDIA")]
    done = make(project, "evaluate", *words)
    assert done.returncode == 0, done
    flags = ["cache", "run", "split", "media"]
    assert calls(project) == [["-m", "train", "evaluate", *(f"--{flag}={value}" for flag in flags)]]


@pytest.mark.parametrize("value", NASTY)
def test_predict_takes_any_file_and_any_run(project: Path, value: str) -> None:
    file = project / value
    file.touch()
    done = make(project, "predict", f"CLIP={value}", f"RUN={value}")
    assert done.returncode == 0, done
    choose, extract, predict = calls(project)
    assert choose[:4] == ["-m", "train", "features", f"--run={value}"]
    like = choose[4].removeprefix("--out=")
    clip = f"./{value}" if value.startswith("-") else value
    assert extract[:4] == ["-m", "extract", "clip", clip]
    assert extract[5] == f"--like={like}"
    assert predict == ["-m", "train", "predict", f"--run={value}", extract[4]]
    assert not Path(like).parent.exists(), "the temporary cache is gone"
    done = make(project, "predict", f"CLIP=absent {value}")
    assert done.returncode == 2
    assert f"(found: 'absent {value}')" in done.stdout


@pytest.mark.parametrize("value", NASTY)
def test_annotate_takes_any_file_run_and_folder(project: Path, value: str) -> None:
    (project / value).touch()
    out = f"out {value}"
    words = [f"MEDIA={value}", f"RUN={value}", f"OUT={out}", f"FORMATS={value}", f"HOP={value}"]
    done = make(project, "annotate", *words)
    assert done.returncode == 0, done
    choose, extract, annotate = calls(project)
    assert choose[:4] == ["-m", "train", "features", f"--run={value}"]
    like = choose[4].removeprefix("--out=")
    media = f"./{value}" if value.startswith("-") else value
    flags = [f"--cache={out}/cache", f"--like={like}", f"--hop-seconds={value}"]
    assert extract == ["-m", "extract", "clip", media, *flags]
    flags = [f"--run={value}", f"--cache={out}/cache", f"--out={out}", f"--formats={value}"]
    assert annotate == ["-m", "train", "annotate", *flags, f"--media={media}"]
    assert make(project, "annotate", *words, f"LABELS={value}").returncode == 0
    assert calls(project)[2] == ["-m", "cache", "relabel", f"{out}/cache", media]
    assert not Path(like).parent.exists(), "how to extract is no longer needed"
    done = make(project, "annotate", *words, f"LABELS=absent {value}")
    assert done.returncode == 2
    assert f"(found: 'absent {value}')" in done.stdout
    assert not (project / "calls").exists(), "nothing is extracted before that is known"


@pytest.mark.parametrize(("code", "told"), [(0, 0), (1, 1), (2, 2), (130, 130)])
def test_annotate_goes_on_where_some_files_are_unreadable(
    project: Path, code: int, told: int
) -> None:
    stub = project / "stub.py"
    stub.write_text(f'{STUB}\nif "clip" in sys.argv: sys.exit({code})\n')
    (project / "films").mkdir()
    done = make(project, "annotate", "MEDIA=films")
    assert f"Error {told}" in done.stderr if told else done.returncode == 0
    assert ("annotate" in calls(project)[-1]) is (code <= 1)
    assert calls(project)[1][-1] == "--hop-seconds=5"


def test_annotate_without_media_says_how(project: Path) -> None:
    done = make(project, "annotate", "MEDIA=absent")
    assert done.returncode == 2
    assert "make annotate MEDIA=recordings (found: 'absent')" in done.stdout
    (project / "films").mkdir()
    assert make(project, "annotate", "MEDIA=films", "OUT=").returncode == 0
    assert "--out=annotations" in calls(project)[-1]


@pytest.mark.parametrize("value", NASTY)
def test_export_takes_any_run_and_folder(project: Path, value: str) -> None:
    words = [f"RUN={value}", f"OUT={value}", "ARGS=--licence 'CC BY'"]
    assert make(project, "export", *words).returncode == 0
    expected = ["-m", "train", "export", f"--run={value}", f"--out={value}", "--licence", "CC BY"]
    assert calls(project) == [expected]
    make(project, "export")
    assert calls(project) == [["-m", "train", "export", "--out=model"]]


def test_predict_without_a_run_uses_the_trainer_s_choice(project: Path) -> None:
    (project / "a.mp4").touch()
    make(project, "predict", "CLIP=a.mp4", "ARGS=--pictures 0")
    choose, _, predict = calls(project)
    assert choose[3].startswith("--out=")
    assert predict[3] == "--run=runs/newest"
    assert predict[5:] == ["--pictures", "0"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", []),
        ('-k "audio or video"  -x', ["-k", "audio or video", "-x"]),
        ("--epochs 60\n--modality audio", ["--epochs", "60", "--modality", "audio"]),
        ("a 'b  c' d\\ e", ["a", "b  c", "d e"]),
        (
            "$(touch pwned) `touch pwned` ; touch pwned # $$x *",
            ["$(touch", "pwned)", "`touch", "pwned`", ";", "touch", "pwned", "#", "$$x", "*"],
        ),
        ("$(shell touch pwned)", ["$(shell", "touch", "pwned)"]),
    ],
)
def test_args_are_split_as_a_shell_splits_and_never_run(
    project: Path, given: str, words: list[str]
) -> None:
    assert make(project, "test", f"ARGS={given}").returncode == 0
    (called,) = calls(project)
    assert called[:2] == ["-m", "pytest"]
    assert called[len(called) - len(words) :] == words


def test_args_with_half_a_quote_are_explained(project: Path) -> None:
    done = make(project, "test", "ARGS=it's")
    assert done.returncode == 2
    assert "error: ARGS: expected words, quotes in pairs: No closing quotation" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", NASTY[:8])
def test_setup_and_demo_run_nothing_from_their_values(project: Path, value: str) -> None:
    (project / ".venv" / ".installed").unlink()
    done = make(project, "setup", f"PYTHON={value}")
    assert done.returncode == 2
    assert f"'{value}' is not that" in done.stdout
    done = make(project, "setup", "PYTHON=true", f"LOCK={value}", f"TORCH_INDEX={value}")
    assert done.returncode == 0, done
    torch, package = calls(project)
    assert torch[4:6] == [f"--index-url={value}", f"--constraint={value}"]
    assert package[4] == f"--constraint={value}"
    done = make(project, "demo", f"DEMO_CLIPS={value}", f"WEIGHTS={value}", f"JOBS={value}")
    assert calls(project)[0][3:] == [f"--clips={value}", f"--jobs={value}"]
    assert f"--weights={value}" in calls(project)[1]


def test_the_environment_is_not_listened_to(project: Path) -> None:
    make(project, "features", "DATA=d", JOBS="9", CACHE="other", ARGS="--dry-run", DASK="x")
    assert calls(project) == [["-m", "extract", "--data=d", "--cache=features"]]


def test_a_dry_run_shows_what_would_be_run_and_runs_nothing(project: Path) -> None:
    done = make(project, "-n", "predict", "CLIP=$(shell touch pwned)`touch pwned`")
    assert done.returncode == 0
    assert "train predict" in done.stdout
    assert not (project / "calls").exists()
