"""Calls of ``torch.cuda`` that only a GPU carries out, made against a stand-in that takes arguments as torch does."""

import inspect

import pytest
import torch

from sparsebench.app.cli.bench import main
from sparsebench.app.cli.bench.protocol import peak_bytes
from sparsebench.cost.speed import Stopwatch, peak_memory_mb, reset_peak_memory
from sparsebench.engine.callbacks.checkpoint import Continuation

GPU = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch):
    """Two devices; every call must fit the signature of the function that it stands for."""
    calls = []

    def stand_in(name, value=None):
        real = inspect.signature(getattr(torch.cuda, name))

        def call(*args, **kwargs):
            real.bind(*args, **kwargs)
            calls.append((name, *args))
            return value

        monkeypatch.setattr(torch.cuda, name, call)

    stand_in("is_initialized", True)
    stand_in("device_count", 2)
    stand_in("synchronize")
    stand_in("memory_allocated", 100)
    stand_in("max_memory_allocated", 3 * 2**20)
    stand_in("reset_peak_memory_stats")
    stand_in("get_rng_state_all", [torch.tensor([1]), torch.tensor([2])])
    stand_in("set_rng_state")
    return calls


def named(calls):
    return [call[0] for call in calls]


def test_the_watch_waits_where_time_starts_or_stops_and_never_at_each_step(cuda):
    watch = Stopwatch(warmup=1, device=GPU)
    watch.start()
    for _ in range(20):
        watch.lap(4)
    watch.pause()
    assert cuda == [("synchronize", GPU)] * 3  # start, end of the warm-up, pause


def test_peak_memory_is_that_of_one_fit(cuda):
    reset_peak_memory(GPU)
    reset_peak_memory(torch.device("cpu"))
    assert peak_memory_mb(GPU) == 3.0
    assert cuda == [("reset_peak_memory_stats", GPU), ("max_memory_allocated", GPU)]
    assert peak_bytes(lambda: None, device=GPU) == 3 * 2**20 - 100
    assert named(cuda)[2:] == [
        "synchronize", "memory_allocated", "reset_peak_memory_stats", "synchronize", "max_memory_allocated",
    ]  # fmt: skip


@pytest.mark.parametrize("saved", [0, 1, 2, 3])
def test_random_states_are_restored_on_the_devices_that_are_there(saved, cuda, tmp_path):
    continuation = Continuation(tmp_path / "c.ckpt", seconds=60)
    state = continuation.state_dict()
    assert len(state["cuda"]) == 2
    states = [torch.tensor([number]) for number in range(saved)]
    continuation.load_state_dict({**state, "cuda": states})
    cuda.clear()
    continuation.on_train_batch_start(None, None, None, 0)
    told = [call for call in cuda if call[0] == "set_rng_state"]
    assert [(int(value), device) for _, value, device in told] == [(n, n) for n in range(min(2, saved))]


def test_a_run_on_the_processor_wakes_no_gpu(tmp_path):
    if torch.cuda.is_initialized():
        pytest.skip("CUDA is awake already")
    assert Continuation(tmp_path / "c.ckpt", seconds=60).state_dict()["cuda"] == []
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("subject", ["channels", "epochs", "overhead", "updates", "input", "loop", "nm"])
def test_benchmarks_refuse_a_gpu_that_is_not_there(subject, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        main([subject, "--device", "cuda"])
    assert "device=cuda is impossible without a GPU: choose --device cpu" in capsys.readouterr().err
