import math

import pytest
import torch

from sparsebench.cost import speed
from sparsebench.cost.speed import Stopwatch, hardware, peak_memory_mb


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(speed.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_warm_up_and_pauses_do_not_count(clock):
    watch = Stopwatch(warmup=2)
    watch.start()
    for seconds in (50.0, 20.0, 1.0, 3.0):  # two of warm-up, two that count
        clock.now += seconds
        watch.lap(8)
    watch.pause()
    clock.now += 1000  # validation
    watch.start()
    clock.now += 4
    watch.lap(16)
    assert (watch.seconds, watch.samples, watch.steps) == (8.0, 32, 3)
    assert watch.images_per_second == 4.0
    assert watch.seconds_per_step == pytest.approx(8 / 3)


def test_a_pause_in_the_warm_up(clock):
    watch = Stopwatch(warmup=2)
    watch.start()
    clock.now += 9
    watch.lap(8)
    watch.pause()
    clock.now += 9
    watch.start()
    clock.now += 9
    watch.lap(8)
    watch.pause()
    watch.pause()
    assert watch.seconds == 0
    watch.start()
    watch.start()
    clock.now += 2
    watch.lap(8)
    assert (watch.seconds, watch.samples) == (2.0, 8)


def test_resumption_warms_up_again(clock):
    first, second = Stopwatch(warmup=0), Stopwatch(warmup=1)
    first.start()
    clock.now += 2
    first.lap(10)
    second.load_state_dict(first.state_dict())
    second.start()
    for seconds in (100, 3):
        clock.now += seconds
        second.lap(10)
    assert (second.seconds, second.samples, second.steps) == (5.0, 20, 2)


def test_nothing_measured_is_nan():
    watch = Stopwatch()
    assert math.isnan(watch.images_per_second)
    assert math.isnan(watch.seconds_per_step)


def test_misuse():
    with pytest.raises(ValueError, match="start"):
        Stopwatch().lap(1)
    with pytest.raises(ValueError, match="warmup = -1"):
        Stopwatch(warmup=-1)


def test_peak_memory_is_in_mebibytes():
    peak = peak_memory_mb()
    assert 50 < peak < 1_000_000  # a process with torch; bytes or pages would leave this range
    assert peak_memory_mb("cpu") >= peak


def test_hardware_is_plain_data():
    found = hardware()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert all(value is None or isinstance(value, str | int) for value in found.values())
