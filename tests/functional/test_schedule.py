"""Schedules: hand-worked values, ends, clamping, direction."""

import math

import pytest

from sparsebench.functional import schedule


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (schedule.constant(0.3, 0.0, 0.7), 0.3),
        (schedule.linear(0.3, 0.1, 0.25), 0.25),
        (schedule.cosine(0.3, 0.0, 0.5), 0.15),
        (schedule.cosine(0.5, 0.005, 0.5), 0.2525),
        (schedule.cosine(1.0, 0.0, 1 / 3), 0.75),
        (schedule.cubic(0.5, 0.95, 0.5), 0.89375),
        (schedule.cubic(0.0, 0.9, 0.5), 0.7875),
        (schedule.polynomial(1.0, 0.0, 0.25, power=2), 0.5625),
        (schedule.exponential(1.0, 0.01, 0.5), 0.1),
        (schedule.sigmoid(0.5, 0.1, 0.5), 0.3),
        (schedule.sigmoid(0.0, 1.0, 0.25), 0.5 + (1 / (1 + math.exp(3)) - 0.5) / (1 - 2 / (1 + math.exp(6)))),
    ],
)
def test_values(value, wanted):
    assert value == pytest.approx(wanted, abs=1e-12)


MOVING = [schedule.linear, schedule.cosine, schedule.cubic, schedule.polynomial, schedule.exponential, schedule.sigmoid]


@pytest.mark.parametrize("function", MOVING)
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.1), (0.1, 0.95), (0.7, 0.7), (1.0, 0.02)])
def test_ends_are_exact_and_clamped_and_between_monotone(function, start, end):
    assert function(start, end, 0.0) == function(start, end, -3.0) == start
    assert function(start, end, 1.0) == function(start, end, 1.5) == end
    values = [function(start, end, i / 50) for i in range(51)]
    assert values == pytest.approx(sorted(values, reverse=start > end), abs=1e-15)


def test_polynomial_meets_its_relatives():
    assert schedule.polynomial(0.2, 0.9, 0.3, power=1) == schedule.linear(0.2, 0.9, 0.3)
    assert schedule.polynomial(0.2, 0.9, 0.3) == schedule.cubic(0.2, 0.9, 0.3)
    # Density or sparsity, the cubic is the same curve.
    assert 1 - schedule.cubic(1.0, 0.1, 0.4) == pytest.approx(schedule.cubic(0.0, 0.9, 0.4))


def test_synflow_schedule():
    for i in range(101):
        assert schedule.exponential(1.0, 0.05, i / 100) == pytest.approx(0.05 ** (i / 100), rel=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="power 0"):
        schedule.polynomial(1, 0, 0.5, power=0)
    with pytest.raises(ValueError, match="above 0"):
        schedule.exponential(1.0, 0.0, 0.5)
