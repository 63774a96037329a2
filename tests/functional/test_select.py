"""Selections: exact counts, ties by index, strides, and equality with a slow stable sort."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional import ranking, select
from sparsebench.functional.random import generator
from sparsebench.functional.score import acquisition


def slow_top(scores, k):
    """Reference: a full stable sort in logical order."""
    order = torch.sort(scores.contiguous().reshape(-1), descending=True, stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:k]] = True
    return mask.reshape(scores.shape)


def slow_drop_and_grow(mask, drop_score, grow_score, count, allow_regrow=True):
    """Reference: Python's stable sort over indices."""
    on, drop, grow = mask.reshape(-1).tolist(), drop_score.reshape(-1).tolist(), grow_score.reshape(-1).tolist()
    active = sorted((i for i in range(len(on)) if on[i]), key=lambda i: -drop[i])
    kept = set(active[: len(active) - count])
    candidates = [i for i in range(len(on)) if i not in kept and (allow_regrow or not on[i])]
    kept |= set(sorted(candidates, key=lambda i: -grow[i])[:count])
    return torch.tensor([i in kept for i in range(len(on))]).reshape(mask.shape)


# Few distinct values, so that ties are everywhere; both zeros and both infinities.
VALUES = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, math.inf])
LISTS = st.lists(VALUES, min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(LISTS, st.data())
def test_keep_top_is_the_stable_sort(values, data):
    scores = torch.tensor(values)
    k = data.draw(st.integers(0, len(values)))
    mask = select.keep_top(scores, k)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, slow_top(scores, k))


@pytest.mark.parametrize("k", [0, 1, 500, 4999, 5000])
def test_keep_top_large_random(k):
    scores = torch.randn(5000, generator=generator(0)).round(decimals=1)
    assert torch.equal(select.keep_top(scores, k), slow_top(scores, k))


@settings(max_examples=60, deadline=None)
@given(LISTS, st.data())
def test_other_route_to_the_threshold(values, data):
    """The way taken on accelerators, by topk, gives the same threshold (kthvalue is the way on the CPU)."""
    flat = torch.tensor(values, device="cpu")
    k = data.draw(st.integers(1, len(values)))

    class Elsewhere(torch.Tensor):
        @property
        def device(self):
            return torch.device("meta")

    assert float(ranking.kth_largest(flat.as_subclass(Elsewhere), k)) == float(ranking.kth_largest(flat, k))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_types(dtype):
    scores = torch.tensor([0, 1, 0, 1, 1, 0]).to(dtype)
    assert select.keep_top(scores, 4).tolist() == [True, True, False, True, True, False]


def test_constant_scores_go_by_index():
    scores = torch.ones(3, 4)
    for k in range(13):
        assert select.keep_top(scores, k).reshape(-1).tolist() == [True] * k + [False] * (12 - k)
    parts = select.keep_top_global({"b": torch.ones(4), "a": torch.ones(3)}, 5)
    assert parts["b"].all()
    assert parts["a"].tolist() == [True, False, False]


FORMATS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4, 1, 1), (2, 4, 3, 1)])
def test_layout_changes_strides_only(layout, shape):
    plain = torch.randn(shape, generator=generator(1)).round(decimals=0)
    scores = FORMATS[layout](plain)
    mask = torch.rand(shape, generator=generator(2)) < 0.5
    grow = plain.flip(0)
    count = int(mask.sum()) // 2
    cases = [
        (select.keep_top(scores, 9), select.keep_top(plain, 9)),
        (select.keep_top_global({"a": scores}, 9)["a"], select.keep_top(plain, 9)),
        (
            select.drop_and_grow(FORMATS[layout](mask), scores, FORMATS[layout](grow), count),
            slow_drop_and_grow(mask, plain, grow, count),
        ),
    ]
    for got, wanted in cases:
        assert torch.equal(got, wanted)
        assert got.stride() == scores.stride()
        assert got.untyped_storage().nbytes() == got.numel()


def test_masks_do_not_share_memory():
    masks = select.keep_top_global({"a": torch.rand(3), "b": torch.rand(1000)}, 500)
    assert masks["a"].untyped_storage().nbytes() == 3
    scores = torch.rand(4, 4)
    mask = select.keep_top(scores, 16)
    mask[0, 0] = False
    assert int(mask.sum()) == 15


@settings(max_examples=50, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=4), st.data())
def test_global_is_one_ranking(lists, data):
    scores = {f"l{i}": torch.tensor(values) for i, values in enumerate(lists)}
    k = data.draw(st.integers(0, sum(map(len, lists))))
    masks = select.keep_top_global(scores, k)
    assert list(masks) == list(scores)
    assert torch.equal(torch.cat(list(masks.values())), slow_top(torch.cat(list(scores.values())), k))


def test_each():
    masks = select.keep_top_each({"a": torch.tensor([1.0, 3, 2]), "b": torch.tensor([5.0, 4])}, {"a": 2, "b": 0})
    assert masks["a"].tolist() == [False, True, True]
    assert masks["b"].tolist() == [False, False]
    with pytest.raises(ValueError, match="no count for 'a'"):
        select.keep_top_each({"a": torch.ones(2)}, {})


def test_empty_global():
    assert select.keep_top_global({}, 0) == {}
    with pytest.raises(ValueError, match="cannot keep 1 of 0"):
        select.keep_top_global({}, 1)


@pytest.mark.parametrize("k", [-1, 5])
def test_bad_count(k):
    for call in (
        lambda: select.keep_top(torch.ones(4), k),
        lambda: select.keep_top_global({"a": torch.ones(4)}, k),
        lambda: select.random_mask((4,), k, generator(0)),
    ):
        with pytest.raises(ValueError, match=f"cannot keep {k} of 4"):
            call()


def test_nan_is_refused():
    bad = torch.tensor([[1.0, math.nan], [0.0, 2.0]])
    mask = torch.tensor([[True, False], [True, False]])
    for call in (
        lambda: select.keep_top(bad, 2),
        lambda: select.drop_and_grow(mask, bad.T, torch.ones(2, 2), 1),
        lambda: select.drop_and_grow(mask, torch.ones(2, 2), bad, 1),
    ):
        with pytest.raises(ValueError, match="NaN"):
            call()
    with pytest.raises(ValueError, match="of 'b' is NaN"):
        select.keep_top_global({"a": torch.ones(2), "b": bad}, 1)


# --- drop and grow --------------------------------------------------------------------------------------------------

WEIGHT = torch.tensor([0.9, -0.1, 0.5, 0.05, 0, 0, 0, 0], dtype=torch.float64)
GRADIENT = torch.tensor([0.5, -0.028, 0.4, 0.012, -0.030, 0.025, 0.010, 0.004], dtype=torch.float64)
COUNTS = torch.tensor([3, 3, 3, 1, 2, 1, 0, 0])
MASK = torch.tensor([True] * 4 + [False] * 4)


@pytest.mark.parametrize(
    ("c", "eps", "time", "regrow", "grown", "scores"),
    [
        (0.0, 1.0, 1000, True, {1, 4}, [0.028, 0.012, 0.030, 0.025, 0.010, 0.004]),
        (0.0, 1.0, 1000, False, {4, 5}, [0.028, 0.012, 0.030, 0.025, 0.010, 0.004]),
        (1e-3, 1.0, 1000, True, {1, 4}, [0.02973, 0.01545, 0.03230, 0.02845, 0.01691, 0.01091]),
        (5e-3, 1.0, 1000, True, {5, 6}, [0.03663, 0.02927, 0.04151, 0.04227, 0.04454, 0.03854]),
        (1e-2, 1.0, 1000, True, {6, 7}, [0.04527, 0.04654, 0.05303, 0.05954, 0.07908, 0.07308]),
        (1e-4, 0.01, 1000, True, {6, 7}, [0.02823, 0.01268, 0.03034, 0.02568, 0.07908, 0.07308]),
        (5e-3, 1.0, 2, True, {1, 4}, [0.02887, 0.01373, 0.03116, 0.02673, 0.01347, 0.00747]),
        (5e-3, 1.0, 1, True, {1, 4}, [0.028, 0.012, 0.030, 0.025, 0.010, 0.004]),
    ],
)
def test_golden_dst_ee_update(c, eps, time, regrow, grown, scores):
    score = acquisition(GRADIENT, COUNTS, c=c, eps=eps, time=time)
    assert [round(float(score[i]), 5) for i in (1, 3, 4, 5, 6, 7)] == scores
    new = select.drop_and_grow(MASK, WEIGHT.abs(), score, 2, allow_regrow=regrow)
    assert set(new.nonzero().reshape(-1).tolist()) == {0, 2} | grown


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), VALUES, VALUES), min_size=1, max_size=24), st.booleans(), st.data())
def test_drop_and_grow_is_the_slow_one(entries, regrow, data):
    mask = torch.tensor([entry[0] for entry in entries])
    drop, grow = (torch.tensor([entry[i] for entry in entries]) for i in (1, 2))
    nnz = int(mask.sum())
    count = data.draw(st.integers(0, nnz if regrow else min(nnz, len(entries) - nnz)))
    new = select.drop_and_grow(mask, drop, grow, count, allow_regrow=regrow)
    assert torch.equal(new, slow_drop_and_grow(mask, drop, grow, count, regrow))
    assert int(new.sum()) == nnz


@pytest.mark.parametrize("value", [0.0, -math.inf])
def test_worthless_candidates_are_grown_all_the_same(value):
    """Kept entries never take part, even where every candidate scores zero or -inf."""
    mask = torch.tensor([True, True, True, False, False, False])
    grow = torch.full((6,), value)
    drop = torch.tensor([3.0, 2.0, 1.0, 9.0, 9.0, 9.0])
    assert select.drop_and_grow(mask, drop, grow, 1, allow_regrow=False).tolist() == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert torch.equal(select.drop_and_grow(mask, drop, grow, 1), mask)  # the just-dropped has the smallest index


def test_drop_and_grow_thousand_updates_keep_the_count():
    random = generator(5)
    mask = select.random_mask((20, 10), 31, random)
    for _ in range(1000):
        drop, grow = torch.rand(2, 20, 10, generator=random).round(decimals=1)
        mask = select.drop_and_grow(mask, drop, grow, 9)
    assert int(mask.sum()) == 31


def test_drop_and_grow_input_unchanged_and_errors():
    mask = MASK.clone()
    select.drop_and_grow(mask, WEIGHT.abs(), GRADIENT.abs(), 2)
    assert torch.equal(mask, MASK)
    with pytest.raises(ValueError, match="cannot exchange 5 of 4 active entries; at most 4"):
        select.drop_and_grow(MASK, WEIGHT, WEIGHT, 5)
    with pytest.raises(ValueError, match="at most 1 can be"):
        select.drop_and_grow(torch.tensor([True, True, False]), torch.ones(3), torch.ones(3), 2, allow_regrow=False)
    with pytest.raises(ValueError, match="boolean mask"):
        select.drop_and_grow(MASK.float(), WEIGHT, WEIGHT, 1)
    with pytest.raises(ValueError, match="boolean mask"):
        select.drop_and_grow(MASK, WEIGHT[:4], WEIGHT, 1)


# --- random masks --------------------------------------------------------------------------------------


def test_random_mask_exact_reproducible_uniform():
    masks = [select.random_mask((3, 2), 2, generator(7, i)) for i in range(3000)]
    assert all(int(mask.sum()) == 2 for mask in masks)
    assert torch.equal(masks[4], select.random_mask((3, 2), 2, generator(7, 4)))
    # 15 equally likely masks; 3000 draws give 200 each, standard deviation 13.7.
    tally = dict.fromkeys(itertools.combinations(range(6), 2), 0)
    for mask in masks:
        tally[tuple(mask.reshape(-1).nonzero().reshape(-1).tolist())] += 1
    assert max(abs(count - 200) for count in tally.values()) < 60
