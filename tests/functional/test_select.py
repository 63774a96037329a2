"""Selections: exact counts, ties by index, strides, and equality with a slow stable sort."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional import select
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

    assert float(select._kth_largest(flat.as_subclass(Elsewhere), k)) == float(select._kth_largest(flat, k))


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
        (select.n_of_m(scores, 1, 2), select.n_of_m(plain, 1, 2)),
        (select.blocks(scores, 2, (2, 2)), select.blocks(plain, 2, (2, 2))),
        (select.channels(scores, 1), select.channels(plain, 1)),
        (select.channels(scores, 2, dim=1), select.channels(plain, 2, dim=1)),
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
    for mask in (select.keep_top(scores, 16), select.channels(scores, 4), select.n_of_m(scores, 2, 2)):
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
        lambda: select.channels(torch.ones(4, 2), k),
    ):
        with pytest.raises(ValueError, match=f"cannot keep {k} of 4"):
            call()


def test_nan_is_refused():
    bad = torch.tensor([[1.0, math.nan], [0.0, 2.0]])
    mask = torch.tensor([[True, False], [True, False]])
    for call in (
        lambda: select.keep_top(bad, 2),
        lambda: select.n_of_m(bad, 1, 2),
        lambda: select.blocks(bad, 1, (1, 1)),
        lambda: select.channels(bad, 1),
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


# --- random masks and patterns --------------------------------------------------------------------------------------


def test_random_mask_exact_reproducible_uniform():
    masks = [select.random_mask((3, 2), 2, generator(7, i)) for i in range(3000)]
    assert all(int(mask.sum()) == 2 for mask in masks)
    assert torch.equal(masks[4], select.random_mask((3, 2), 2, generator(7, 4)))
    # 15 equally likely masks; 3000 draws give 200 each, standard deviation 13.7.
    tally = dict.fromkeys(itertools.combinations(range(6), 2), 0)
    for mask in masks:
        tally[tuple(mask.reshape(-1).nonzero().reshape(-1).tolist())] += 1
    assert max(abs(count - 200) for count in tally.values()) < 60


def test_n_of_m_by_hand():
    scores = torch.tensor([[1.0, 4, 3, 2, 5, 5, 5, 5], [0, 0, 0, 1, -1, -2, -4, -3]])
    wanted = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(select.n_of_m(scores, 2, 4), wanted)
    assert torch.equal(select.n_of_m(scores.T.contiguous(), 2, 4, dim=0), wanted.T)


def test_n_of_m_ties_go_by_index_in_large_groups():
    mask = select.n_of_m(torch.zeros(3, 2000), 7, 1000)
    assert mask.reshape(3, 2, 1000)[..., :7].all()
    assert int(mask.sum()) == 42


def test_n_of_m_convolution_groups_input_channels_per_position():
    scores = torch.randn(6, 8, 3, 3, generator=generator(8))
    mask = select.n_of_m(scores, 2, 4)
    for o, g, y, x in itertools.product(range(6), range(2), range(3), range(3)):
        group = scores[o, 4 * g : 4 * g + 4, y, x]
        assert torch.equal(mask[o, 4 * g : 4 * g + 4, y, x], slow_top(group, 2))


def test_n_of_m_errors():
    with pytest.raises(ValueError, match=r"groups of 4 do not divide dimension 1 of shape \(8, 3\); use groups of 3"):
        select.n_of_m(torch.ones(8, 3), 2, 4)
    with pytest.raises(ValueError, match="5 of 4"):
        select.n_of_m(torch.ones(8, 8), 5, 4)


def test_blocks_by_hand():
    scores = torch.zeros(4, 2, 1, 3)
    scores[2, 1, 0, 0] = 1.0  # matrix position (2, 3): the lower right block of 2 x 3
    scores[1, 0, 0, 2] = 0.5  # matrix position (1, 2): the upper left one
    mask = select.blocks(scores, 1, (2, 3)).reshape(4, 6)
    assert mask[2:, 3:].all()
    assert int(mask.sum()) == 6
    assert int(select.blocks(torch.ones(4, 6), 3, (2, 3)).sum()) == 18
    with pytest.raises(ValueError, match=r"blocks of 4 x 4 do not tile a matrix of 6 x 6; blocks of \(2, 2\) do"):
        select.blocks(torch.ones(6, 6), 1, (4, 4))


def test_channels_by_hand():
    scores = torch.tensor([[1.0, 1], [3, 0], [0, 2]])
    assert select.channels(scores, 2).tolist() == [[True, True], [True, True], [False, False]]
    assert select.channels(scores, 1, dim=1).tolist() == [[True, False]] * 3
    # half precision sums in float32: 1 + 4096 * 2^-12 is 2, not 1
    fine = torch.full((2, 4097), 2**-12, dtype=torch.float16)
    fine[:, 0] = torch.tensor([1.5, 1.0])
    fine[0, 1:] = 0
    assert select.channels(fine, 1)[1].all()
