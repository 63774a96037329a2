"""Two ranks: equal masks and weights for every method without talking, disjoint data, and divergence that is caught."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support import command, environment_of

from sparsebench.app.config.compose import compose_config
from sparsebench.app.config.tree import conf_dir
from sparsebench.app.process.console import quieten

sys.path.insert(0, str(Path(__file__).parent))
from two_ranks import Rows, run_of, start_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ranks,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot be distributed"),
]
SCRIPT = Path(__file__).with_name("two_ranks.py")
METHODS = [
    path.stem
    for path in sorted((conf_dir() / "method").glob("*.yaml"))
    if "_target_" in yaml.safe_load(path.read_text())
]


def two_ranks(folder, *arguments, timeout=150):
    """Run the script on two ranks and return the finished process."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        cwd=folder, env=environment_of(), capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agree")
    done = two_ranks(folder, "agree", *METHODS)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def reason_against(method):
    import hydra.utils

    target = hydra.utils.get_class(compose_config([f"method={method}"])["method"]["_target_"])
    return target.exceptions.get("ranks")


@pytest.mark.parametrize("method", METHODS)
def test_ranks_agree(ranks, method):
    if reason_against(method):
        pytest.skip(reason_against(method))
    first, second = (told[method] for told in ranks)
    assert first["masks"] == second["masks"]
    assert first["weights"] == second["weights"]


def test_ranks_see_disjoint_data_and_all_of_it(ranks, tmp_path):
    quieten()
    rows = Rows()
    run = run_of("static", tmp_path / "one").replace(progress=lambda: [rows])
    run.fit("single")
    first, second = (told["static"]["rows"] for told in ranks)
    assert len(first) == len(second) == len(rows.seen) == 16
    for own, other, whole in zip(first, second, rows.seen, strict=True):
        assert len(own) == len(other) == 16
        assert sorted(own + other) == sorted(whole)


@pytest.mark.parametrize(
    "method", [m for m in ("static", "set", "rigl", "dst_ee", "gmp", "snip", "grasp") if m in METHODS]
)
def test_one_rank_makes_the_same_masks_as_two(ranks, method, tmp_path):
    quieten()
    run = run_of(method, tmp_path / method)
    state = run.fit("single", start_of(run))
    from sparsebench.sparse import digest

    assert digest(state.masks) == ranks[0][method]["masks"]
    assert state.facts["train_flops_dense"] == ranks[0][method]["samples"], "the ledger counts samples over all ranks"


def test_a_rank_that_goes_astray_stops_training(tmp_path):
    done = two_ranks(tmp_path, "diverge", timeout=100)
    assert done.returncode != 0
    assert "differ between ranks after step" in done.stderr
    assert "rank 0: " in done.stderr
    assert "only one rank was changed" in done.stderr


def test_an_interrupted_epoch_goes_on_with_what_all_ranks_had_counted(tmp_path):
    done = two_ranks(tmp_path, "resume")
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        whole, resumed = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert resumed["weights"] == whole["weights"]
        assert (len(whole["epochs"]), len(resumed["epochs"])) == (4, 3)
        for told, expected in zip(resumed["epochs"], whole["epochs"][1:], strict=True):
            assert told == pytest.approx(expected, rel=1e-6)


def test_the_command_line_trains_on_two_ranks(tmp_path):
    arguments = [
        "model=mlp", "model.hidden=[16]", "dataset.limit=128", "dataset.batch_size=32", "sparsity=0.5", "every=4",
        "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=2", "progress=lines",
    ]  # fmt: skip
    done = command("train", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("epoch 2/2  ") == 1, "one rank speaks"
    (result,) = (tmp_path / "outputs").rglob("result.json")
    told = json.loads(result.read_text())
    assert told["steps"] == 8
    assert told["sparsity"] == pytest.approx(0.5)
    assert (result.parent / "DONE").exists()
    assert (result.parent / "metrics.csv").read_text().count("\n") == 4  # header, start, two epochs
