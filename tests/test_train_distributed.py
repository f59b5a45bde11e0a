"""Training in several processes, started by torchrun on one host or two, against one process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from hosts import LOOPBACK, Host, two_hosts
from synthetic_cache import labels_for, make_cache
from tiny_runs import TINY
from torch import Tensor

from cache.format.schema import BACKGROUND
from train.runs.folders import BEST, LAST

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """
    --device cpu --epochs 2 --batch-size 8 --audio-feat-dim 32 --video-feat-dim 32
    --map-channels 16 --dropout 0 --input-dropout 0 --spliced-share 0 --pictures 0
""".split()  # noqa: SIM905

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch has no gloo",
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = labels_for(120, 3)
    labels.start_s[:] = np.minimum(labels.start_s / 10, 1.0)
    labels.end_s[:] = np.minimum(labels.start_s + 1, 2.0)
    labels.split[-15:] = 0  # 25 batches do not come out even
    labels.category[::7] = BACKGROUND  # so that events are counted over the processes
    labels.start_s[::7] = labels.end_s[::7] = 0.0
    folder = tmp_path_factory.mktemp("distributed") / "cache"
    return make_cache(folder, labels=labels, **TINY)


# In training the video stream draws by chance the frames it looks around in: here, in all.
LAUNCHER = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from train.__main__ import main
from train.model.layers import VideoStream
VideoStream._chosen = lambda self, frames: None
sys.exit(main())
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("launcher") / "launcher.py"
    path.write_text(LAUNCHER)
    return str(path)


def train(
    cache: Path, run: Path, processes: int, *what: str, settings: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    launch = ["--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    process = started(cache, run, launch, *what, settings=settings)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def started(
    cache: Path,
    run: Path,
    launch: Sequence[str],
    *what: str,
    host: Host = LOOPBACK,
    settings: Sequence[str] = (),
) -> subprocess.Popen[str]:
    command = [*host.enter, sys.executable]
    command += ["-m", "torch.distributed.run", *launch] if launch else []
    fit = ["fit", "--cache", str(cache), "--run", str(run), *SETTINGS, *settings]
    return subprocess.Popen(
        [*command, *what, "--", *fit],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": host.device},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def history(run: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((run / "history.json").read_text())
    return found


def weights(run: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(run / LAST, weights_only=True)["model"]
    return found


@pytest.fixture(scope="module")
def alone(cache: Path, launcher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    done = train(cache, run, 1, launcher)
    assert done.returncode == 0, done.stderr
    return run


def assert_like(run: Path, alone: Path) -> None:
    for ours, theirs in zip(history(run), history(alone), strict=True):
        for name in ours.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    found = weights(run)
    for name, value in weights(alone).items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=2e-4)
    assert (run / BEST).exists()
    assert (run / "metrics_val.json").exists()


def test_processes_train_like_one_with_the_same_global_batch(
    cache: Path, launcher: str, alone: Path, tmp_path: Path
) -> None:
    done = train(cache, tmp_path / "run", 3, launcher)
    assert done.returncode == 0, done.stderr
    assert "3 processes" in done.stdout
    assert done.stdout.count("all are in memory") == 1, "one process speaks"
    assert done.stderr.count("epoch   1/2") == 1
    assert_like(tmp_path / "run", alone)


def test_clips_of_several_events_train_alike(cache: Path, launcher: str, tmp_path: Path) -> None:
    for processes in (1, 3):
        run = tmp_path / f"run{processes}"
        done = train(cache, run, processes, launcher, settings=["--events", "several"])
        assert done.returncode == 0, done.stderr
    assert_like(tmp_path / "run3", tmp_path / "run1")


def test_two_hosts_train_like_one_process(
    cache: Path, launcher: str, alone: Path, tmp_path: Path
) -> None:
    with two_hosts(tmp_path) as hosts:
        launch = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=two"]
        launch.append(f"--rdzv_endpoint={hosts[0].address}:29400")
        both = [started(cache, tmp_path / "run", launch, launcher, host=host) for host in hosts]
        outputs = ["".join(process.communicate(timeout=300)) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "".join(outputs).count("2 processes") == 1, "one host speaks"
    assert_like(tmp_path / "run", alone)


def test_each_process_streams_its_own_shards_and_an_error_ends_all(
    cache: Path, tmp_path: Path
) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys, torch\n"
        f"sys.path[:0] = [{str(ROOT)!r}]\n"
        "from pathlib import Path\n"
        "import train.data.features, train.data.reader, train.data.stream\n"
        "from cache import open_cache\n"
        "from train.data.dataset import load_dataset, resolve\n"
        "from train.config import TrainConfig\n"
        "from train.distributed import process_group\n"
        "for module in (train.data.features, train.data.reader, train.data.stream):\n"
        "    module.PART_CLIPS = 4\n"
        "train.data.features._where = lambda *_: (30, 'streamed', False)\n"
        "with process_group(torch.device('cpu')) as group:\n"
        "    cache = open_cache(sys.argv[1])\n"
        "    config = resolve(TrainConfig(device='cpu'), cache, cache.labels.classes)\n"
        "    data = load_dataset(cache, config)\n"
        "    rows = data.splits['train']\n"
        "    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))\n"
        "    found = [(c.tolist(), n) for c, n in data.clips.epoch(order, rows.clip, 8, group)]\n"
        "    Path(sys.argv[2], f'{group.rank}.json').write_text(__import__('json').dumps(found))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    subprocess.run([*launch, str(probe), str(cache), str(tmp_path)], check=True, timeout=200)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert len({len(batches) for batches in found}) == 1, "as many steps in each process"
    every = [n for batches in found for chosen, _ in batches for n in chosen]
    assert sorted(every) == list(range(len(every)))
    for step in zip(*found, strict=True):
        assert {rows for _, rows in step} == {sum(len(chosen) for chosen, _ in step)}
    assert sum(rows for _, rows in found[0]) == len(every)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAST).write_bytes(b"")
    done = train(cache, tmp_path / "run", 2, "-m", "train")
    assert done.returncode != 0
    assert "holds a run already" in done.stderr
