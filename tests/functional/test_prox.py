"""Proximal maps and projections against their defining problems."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional.prox import group_soft_threshold, project_budget, soft_threshold


def test_soft_threshold_by_hand():
    v = torch.tensor([1.5, -1.5, 0.4, -0.5, 0.5, 0.0])
    assert soft_threshold(v, 0.5).tolist() == [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    assert torch.equal(soft_threshold(v, 0.0), v)
    limits = torch.tensor([1.0, 2.0, 0.0, 0.25, 0.5, 1.0])
    assert soft_threshold(v, limits).tolist() == pytest.approx([0.5, 0.0, 0.4, -0.25, 0.0, 0.0])
    with pytest.raises(ValueError, match="threshold -1"):
        soft_threshold(v, -1.0)


def minimise(objective, start):
    """Brute force: random search from coarse to fine; the problem is strongly convex."""
    best, random = start.clone(), torch.Generator().manual_seed(0)
    for scale in [2.0**-i for i in range(1, 22)]:
        trials = best + scale * torch.randn(400, *best.shape, generator=random, dtype=best.dtype)
        trials = torch.cat([trials, best[None], torch.zeros_like(best)[None]])
        best = trials[objective(trials).argmin()]
    return best


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_soft_threshold_minimises(threshold):
    v = torch.tensor([1.2, -0.4, 0.05], dtype=torch.float64)
    grid = torch.linspace(-2, 2, 40_001, dtype=torch.float64)[:, None]
    found = grid[(0.5 * (grid - v) ** 2 + threshold * grid.abs()).argmin(0), 0]
    torch.testing.assert_close(soft_threshold(v, threshold), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 2.0])
def test_group_minimises(threshold):
    v = torch.tensor([[1.2, -0.4, 0.3]], dtype=torch.float64)
    norm = math.sqrt(3) * threshold
    found = minimise(lambda x: (0.5 * (x - v) ** 2).sum((-1, -2)) + norm * x.norm(dim=(-1, -2)), v)
    torch.testing.assert_close(group_soft_threshold(v, threshold, groups="rows"), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 1, 1), (1, 3, 2, 2), (4, 3, 5)])
@pytest.mark.parametrize("groups", ["kernels", "filters"])
def test_groups_one_by_one(groups, shape, last):
    v = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v[0, 0] = 0.0
    if last and v.dim() == 4:
        v = v.to(memory_format=torch.channels_last)
    got = group_soft_threshold(v, 0.4, groups=groups)
    if v.dim() == 4:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            assert got.is_contiguous(memory_format=memory_format) == v.is_contiguous(memory_format=memory_format)
    parts = [(o,) for o in range(shape[0])]
    if groups == "kernels":
        parts = [(o, i) for o in range(shape[0]) for i in range(shape[1])]
    for part in parts:
        norm, limit = float(v[part].norm()), 0.4 * math.sqrt(v[part].numel())
        wanted = v[part] * max(1 - limit / norm, 0.0) if norm else torch.zeros_like(v[part])
        torch.testing.assert_close(got[part], wanted)
    if groups == "kernels" and shape[2:] == (1, 1):
        torch.testing.assert_close(got, soft_threshold(v, 0.4))


def test_group_edges():
    v = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1e-30, 0.0]])
    assert torch.equal(group_soft_threshold(v, 0.0, groups="rows"), v)
    assert torch.equal(group_soft_threshold(v, 5.0, groups="rows"), torch.zeros_like(v))
    assert group_soft_threshold(torch.tensor([[-1.0]]), 1.0, groups="rows").count_nonzero() == 0
    for shape, groups in (((3, 3, 1, 1), "rows"), ((3, 3), "kernels"), ((3, 3), "filters"), ((3,), "rows")):
        with pytest.raises(ValueError, match="do not fit"):
            group_soft_threshold(torch.ones(shape), 0.1, groups=groups)
    with pytest.raises(ValueError, match="must be one of rows, kernels, filters"):
        group_soft_threshold(v, 0.1, groups="columns")
    with pytest.raises(ValueError, match="threshold nan"):
        group_soft_threshold(v, math.nan, groups="rows")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8), st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_maps_are_firmly_non_expansive(first, second):
    a, b = (torch.tensor(x, dtype=torch.float64).reshape(2, 1, 2, 2) for x in (first, second))
    maps = [lambda v: soft_threshold(v, 0.5), lambda v: project_budget(v, 2.5), lambda v: project_budget(v, 2.5, True)]
    maps += [lambda v, g=g: group_soft_threshold(v, 0.5, groups=g) for g in ("kernels", "filters")]
    for function in maps:
        difference = function(a) - function(b)
        assert float((difference**2).sum()) <= float((difference * (a - b)).sum()) + 1e-9


# --- the budget -----------------------------------------------------------------------------------------------------


def bisect(values, budget, low):
    """Reference: the shift by bisection in float64."""
    low, high = low, float(values.max())
    for _ in range(200):
        middle = (low + high) / 2
        if float((values - middle).clamp(0, 1).sum()) > budget:
            low = middle
        else:
            high = middle
    return (values - high).clamp(0, 1)


NUMBERS = st.one_of(st.floats(-2, 3), st.sampled_from([0.0, 1.0, 0.5, 0.25]))


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=20), st.floats(0, 1), st.booleans())
def test_projection_against_bisection(numbers, share, equality):
    values = torch.tensor(numbers, dtype=torch.float64)
    budget = share * len(numbers)
    got = project_budget(values, budget, equality)
    assert float(got.min()) >= 0
    assert float(got.max()) <= 1
    if equality:
        assert float(got.sum()) == pytest.approx(budget, abs=1e-9)
        wanted = bisect(values, budget, float(values.min()) - 1)
    else:
        assert float(got.sum()) <= budget + 1e-9
        inside = float(values.clamp(0, 1).sum()) <= budget
        wanted = values.clamp(0, 1) if inside else bisect(values, budget, 0.0)
        if inside:
            assert torch.equal(got, values.clamp(0, 1))
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(project_budget(got, budget, equality), got, atol=1e-9, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_projection_is_the_nearest_feasible_point(numbers, share, equality, seed):
    """Variational inequality: (values - p) . (q - p) <= 0 for every feasible q."""
    values, budget = torch.tensor(numbers, dtype=torch.float64), share * len(numbers)
    nearest = project_budget(values, budget, equality)
    other = torch.rand(len(numbers), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    feasible = project_budget(other, budget, equality)
    assert float((values - nearest) @ (feasible - nearest)) <= 1e-9


def test_projection_by_hand():
    values = torch.tensor([0.5, 0.9, 1.4, -0.2], dtype=torch.float64)
    assert project_budget(values, 1.5).tolist() == pytest.approx([1 / 15, 7 / 15, 29 / 30, 0.0])
    assert project_budget(values, 3.0).tolist() == [0.5, 0.9, 1.0, 0.0]
    assert project_budget(values, 3.0, equality=True).tolist() == pytest.approx([0.85, 1.0, 1.0, 0.15])


@pytest.mark.parametrize("equality", [False, True])
def test_projection_edges(equality):
    values = torch.tensor([[0.5, 0.2], [1.7, -3.0]])
    assert torch.equal(project_budget(values, 0, equality), torch.zeros(2, 2))
    full = project_budget(values, 4, equality)
    assert torch.equal(full, torch.ones(2, 2) if equality else values.clamp(0, 1))
    ties = project_budget(torch.full((7,), 0.9), 3.5, equality)
    assert torch.equal(ties, torch.full((7,), 0.5))
    large = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    got = project_budget(large, 1234.5, equality)
    assert got.dtype == torch.float32
    assert float(got.double().sum()) == pytest.approx(1234.5, abs=1e-6 * 20_000)


def test_projection_errors():
    values = torch.tensor([0.5, 0.5])
    for budget, equality in ((-0.1, False), (2.5, True), (math.nan, False)):
        with pytest.raises(ValueError, match=f"budget {budget}"):
            project_budget(values, budget, equality)
    assert torch.equal(project_budget(values, 9.0), values)
    with pytest.raises(ValueError, match="finite"):
        project_budget(torch.tensor([math.inf, 0.0]), 1.0)
