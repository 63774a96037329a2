"""What is measured: calibration, barriers, sharpness, fresh statistics; and averaging over time."""

import math

import pytest
import torch
from torch import nn

from sparsebench.analysis.barrier import barrier, interpolate
from sparsebench.analysis.batch_norm import recalibrate_
from sparsebench.analysis.hessian import hessian_trace
from sparsebench.analysis.quality import calibration_error, qualities
from sparsebench.engine.callbacks.averaging import Averaging, anneal
from sparsebench.optim import lr_schedules as schedules


def test_calibration_error_by_hand():
    confidence = torch.tensor([0.95, 0.95, 0.55, 0.55])
    correct = torch.tensor([True, False, True, True])
    # two bins of two: |1/2 - 0.95| and |1 - 0.55|, each with weight one half
    assert calibration_error(confidence, correct) == pytest.approx((0.45 + 0.45) / 2)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0


def test_qualities_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.5001, 0.4999], [0.3, 0.7]]).log()
    found = qualities(logits, torch.tensor([0, 1, 1]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.4999) + math.log(0.7)) / 3, rel=1e-5)


def test_barrier_of_a_double_well():
    def loss(weights):
        return float((weights["w"] ** 2 - 1) ** 2)

    one, two = {"w": torch.tensor(-1.0), "n": torch.tensor(3)}, {"w": torch.tensor(1.0), "n": torch.tensor(4)}
    assert barrier(loss, one, two) == pytest.approx(1.0)
    assert barrier(loss, one, two, points=4) == pytest.approx((0.2**2 - 1) ** 2)  # at 0.4 and 0.6
    assert barrier(loss, two, two) == 0
    assert barrier(loss, one, two, ends=(0.0, 2.0)) == pytest.approx(0.0)
    assert interpolate(one, two, 0.25) == {"w": torch.tensor(-0.5), "n": torch.tensor(3)}
    with pytest.raises(ValueError, match="at least one inner point"):
        barrier(loss, one, two, points=0)


def test_hessian_trace_of_a_diagonal_is_exact_and_masked():
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    curvature = torch.tensor([1.0, 10.0, 100.0])

    def trace(masks=None):
        draw = torch.Generator().manual_seed(0)
        return hessian_trace(
            lambda: (curvature * weight**2).sum() / 2, {"w": weight}, probes=2, generator=draw, masks=masks
        )

    assert trace() == pytest.approx(111)
    assert trace({"w": torch.tensor([True, False, True])}) == pytest.approx(101)


def test_hessian_trace_is_unbiased():
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    weight = nn.Parameter(torch.ones(2))
    draw = torch.Generator().manual_seed(0)
    found = hessian_trace(lambda: weight @ matrix @ weight / 2, {"w": weight}, probes=400, generator=draw)
    assert found == pytest.approx(5, abs=0.3)


def test_recalibration_is_a_cumulative_mean_and_leaves_dropout_off():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1, momentum=0.3))
    net[1].running_mean.fill_(99)
    batches = [(torch.tensor([[1.0], [3.0]]), None), (torch.tensor([[5.0], [9.0]]), None)]
    assert recalibrate_(net, batches) == 1
    assert net[1].running_mean.item() == pytest.approx((2 + 7) / 2)
    assert net[1].running_var.item() == pytest.approx((2 + 8) / 2)
    assert net[1].momentum == 0.3
    assert not net.training
    assert not net[1].training


def test_a_network_without_norms_needs_no_pass():
    assert recalibrate_(nn.Linear(2, 2), iter(())) == 0


def test_samples_are_counted_back_from_the_last_step():
    assert Averaging(start=0.75, every=None).samples(40, 5) == [35, 40]
    assert Averaging(start=0.5, every=0.125).samples(40, 5) == [25, 30, 35, 40]
    assert Averaging(start=0.5, every=1000).samples(40, 5) == [40]
    assert Averaging(start=0.0, every=3).samples(10, 5) == [1, 4, 7, 10]


@pytest.mark.parametrize("bad", [{"start": 1.0}, {"start": -0.1}, {"every": 0}, {"rate": 0.0}])
def test_impossible_averaging_is_refused(bad):
    with pytest.raises(ValueError, match=r"is impossible|gives equal samples"):
        Averaging(**bad)


def test_the_schedule_warms_up_descends_to_the_rate_and_stays():
    factor = anneal(schedules.cosine(warmup=0.1), start=0.75, end=0.5)
    assert factor(0) == 0
    assert factor(0.075) == pytest.approx(1, abs=2e-3)
    middle = 0.75 * 0.55  # half way between the end of the warm-up and the end of the descent
    assert factor(middle) == pytest.approx(0.75, abs=2e-3)
    assert factor(0.7499) == pytest.approx(0.5, abs=1e-3)
    assert [factor(p) for p in (0.75, 0.9, 1.0)] == [0.5] * 3
    assert Averaging(rate=None).schedule(None, 0.1) is None
    steady = Averaging(rate=0.02, start=0.5).schedule(None, 0.1)
    assert [steady(p) for p in (0, 0.4)] == [1, 1]
    assert steady(0.5) == pytest.approx(0.2)
