"""The notebooks are stored without outputs and run to the end on a demo set and a short run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from extract.__main__ import main as extract
from extract.demo.__main__ import make_demo_set
from train.__main__ import main as train

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = {"explore_cache": 3, "read_attention": 9}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, from 32 clips and one epoch: cache/ and run/."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo_set(folder / "data", 32, 0, jobs=1)
    cache, run = str(folder / "cache"), str(folder / "run")
    argv = ["--data", str(folder / "data"), "--cache", cache, "--weights", "random:0"]
    assert extract([*argv, "--max-failures", "1", "--jobs", "1"]) == 0
    assert train(["fit", "--cache", cache, "--run", run, "--epochs", "1", "--pictures", "0"]) == 0
    return folder


def test_there_are_the_two_that_the_readme_names() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_bare(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert not cell.outputs
            assert "def " not in cell.source, "logic belongs into the packages"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.system
def test_notebooks_run_to_the_end(
    path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "AVEL_CACHE": demo / "cache",
        "AVEL_RUN": demo / "run",
        "IPYTHONDIR": tmp_path,
        "JUPYTER_RUNTIME_DIR": tmp_path,
        "PYTHONWARNINGS": "error::UserWarning,error::RuntimeWarning",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MPLBACKEND")  # as in Jupyter, where pictures are shown inline
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not any(out.get("name") == "stderr" for out in outputs), "no warnings"
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == PICTURES[path.stem]
