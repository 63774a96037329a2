"""The grid through launchers of others: the same digits as one after another, and nothing is repeated."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from grids import GRID, TINY
from support import REPOSITORY


def needs(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed: sparsebench[launchers] or [ray] brings it")


def finishes(bench, reference, *launcher, **environment):
    answer = bench.train(*GRID, *launcher, **environment)
    assert answer.code == 0, answer.out + answer.err
    assert bench.results() == reference
    before = bench.moments()
    again = bench.train(*GRID, *launcher, **environment)
    assert "4 runs: 4 finished, 0 to do" in again.out
    assert bench.moments() == before
    return answer


@pytest.mark.slow
@needs("hydra_plugins.hydra_joblib_launcher")
def test_joblib(bench, reference):
    finishes(bench, reference, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.parametrize("sweeper", ["grid", pytest.param("basic", marks=pytest.mark.slow)])
@needs("hydra_plugins.hydra_joblib_launcher")
def test_failures_in_other_processes_come_back(bench, sweeper):
    cells = ["method=static", "optimizer.lr=1e30,0.1", f"hydra/sweeper={sweeper}"]
    answer = bench.train(*cells, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert answer.code == 1
    assert "1 of the runs failed: " in answer.err
    assert "FloatingPointError: the training loss is" in answer.err
    assert len(bench.results()) == 1


@pytest.mark.slow
@needs("hydra_plugins.hydra_submitit_launcher")
def test_submitit_on_this_machine(bench, reference):
    finishes(bench, reference, "hydra/launcher=local")


@pytest.mark.slow
@needs("hydra_plugins.hydra_ray_launcher")
def test_ray(bench, reference):
    finishes(bench, reference, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")


@pytest.fixture(scope="module")
def slurm():
    """A real SLURM of one node; a running one is used, and left running."""
    if os.environ.get("SLURM_CONF"):
        yield os.environ["SLURM_CONF"]
        return
    if shutil.which("sbatch") is None:
        pytest.skip("SLURM is not installed: apt-get install slurm-wlm munge")
    base = Path(tempfile.mkdtemp(prefix="slurm"))
    base.chmod(0o755)  # munge is another user
    environment = {**os.environ, "SLURM_SINGLE_NODE": str(base)}
    script = REPOSITORY / "scripts" / "slurm-single-node"
    started = subprocess.run([script, "start"], env=environment, capture_output=True, text=True, timeout=120)
    if started.returncode == 77:
        pytest.skip(f"no SLURM here: {started.stderr.strip()}")
    if started.returncode:
        pytest.skip(f"SLURM is installed but does not start: {started.stderr.strip()}")
    yield started.stdout.strip()
    subprocess.run([script, "stop"], env=environment, capture_output=True, timeout=120)


@pytest.mark.slow
@needs("hydra_plugins.hydra_submitit_launcher")
def test_slurm(bench, reference, slurm):
    finishes(bench, reference, "hydra/launcher=slurm", SLURM_CONF=slurm)


@pytest.mark.slow
@needs("hydra_plugins.hydra_submitit_launcher")
def test_slurm_with_two_processes_per_run(bench, slurm):
    """Once started by Lightning within a task of SLURM, and once by SLURM itself, a task for each."""
    both = ["method=rigl", "seed=0,1", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    answer = bench.train(*both, "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=2", "name=own", SLURM_CONF=slurm)
    assert answer.code == 0, answer.out + answer.err
    tasks = ["hydra.launcher.tasks_per_node=2", "hydra.launcher.cpus_per_task=1"]
    answer = bench.train(*both, "hydra/launcher=slurm", *tasks, "name=theirs", SLURM_CONF=slurm)
    assert answer.code == 0, answer.out + answer.err
    assert len(bench.results("own")) == 2
    assert bench.results("own") == bench.results("theirs")


def test_a_missing_launcher_is_one_clear_line(cli):
    answer = cli("train", "-m", *TINY, "seed=0,1", "hydra/launcher=nowhere")
    assert answer.code == 2
    assert answer.err.startswith("sparsebench: error: ")
    assert answer.err.count("\n") == 1
    assert "unknown hydra/launcher 'nowhere'; available are" in answer.err
