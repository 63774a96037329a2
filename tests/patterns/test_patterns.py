"""Patterns: they hold, they count, they exchange in place, and they refuse what contradicts them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.functional import select
from sparsebench.functional.random import generator
from sparsebench.patterns import Blocks, Channels, FanIn, NofM, Unstructured
from sparsebench.patterns.groups import ranks

SHAPES = {"conv": (16, 8, 3, 3), "fc": (12, 16)}
PATTERNS = [
    Unstructured(), NofM(2, 4), NofM(1, 4), NofM(3, 4), NofM(2, 4, dim=0), Blocks(4, 1), Blocks(2, 4), Channels(0),
    Channels(1), FanIn(),
]  # fmt: skip


def density_of(pattern):
    return pattern.n / pattern.m if isinstance(pattern, NofM) else 0.4


def draw(shape, *path):
    return torch.rand(shape, generator=generator(0, *path))


def exchange(pattern, mask, drop_score, grow_score, count, *, allow_regrow=True):
    """Drop and grow as the methods do: prune, then grow as many (``SET.drop`` and ``SET.grow``)."""
    ones = int(mask.sum())
    kept = pattern.prune(mask, drop_score, ones - count, allow_regrow=allow_regrow)
    return pattern.grow(kept, grow_score, ones - int(kept.sum()), avoid=None if allow_regrow else mask & ~kept)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masks_hold_and_spend_the_budget(pattern, layout):
    scores = {name: draw(shape, name) for name, shape in SHAPES.items()}
    scores["conv"] = scores["conv"].to(memory_format=layout)
    densities = dict.fromkeys(SHAPES, density_of(pattern))
    pattern.refuse(SHAPES, densities)
    budget = pattern.budget(SHAPES, densities)
    masks = pattern.keep(scores, budget)
    for name, mask in masks.items():
        assert pattern.holds(mask)
        assert int(mask.sum()) == budget[name]
        assert mask.dtype == torch.bool
        assert mask.stride() == scores[name].stride()
    plain = pattern.keep({name: score.contiguous() for name, score in scores.items()}, budget)
    assert all(torch.equal(masks[name], plain[name]) for name in SHAPES)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("allow_regrow", [True, False])
def test_exchanges_keep_pattern_and_count(pattern, allow_regrow):
    budget = pattern.budget(SHAPES, dict.fromkeys(SHAPES, density_of(pattern)))
    masks = pattern.keep({name: draw(shape, name) for name, shape in SHAPES.items()}, budget)
    moved = 0
    for (name, mask), turn in itertools.product(masks.items(), range(20)):
        count = min(int(0.3 * budget[name]), mask.numel() - budget[name])
        scores = draw(mask.shape, "drop", turn, name), draw(mask.shape, "grow", turn, name)
        new = exchange(pattern, mask, *scores, count, allow_regrow=allow_regrow)
        assert pattern.holds(new)
        assert int(new.sum()) == budget[name]
        gone = int((mask & ~new).sum())
        whole = count // pattern.unit(tuple(mask.shape)) * pattern.unit(tuple(mask.shape))
        assert gone <= count if allow_regrow else gone == whole
        moved += gone
    assert moved


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_ties_and_strange_scores_keep_the_count(pattern):
    budget = pattern.budget(SHAPES, dict.fromkeys(SHAPES, density_of(pattern)))
    for value in (0.0, -1.0, 3.0):
        masks = pattern.keep({name: torch.full(shape, value) for name, shape in SHAPES.items()}, budget)
        for name, mask in masks.items():
            new = exchange(pattern, mask, torch.zeros(mask.shape), torch.full(mask.shape, value), 48)
            assert int(new.sum()) == budget[name]
            assert pattern.holds(new)
            again = exchange(pattern, mask, torch.zeros(mask.shape), torch.full(mask.shape, value), 48)
            assert torch.equal(new, again)


# -- unstructured: what it was before there were patterns ------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_unstructured_is_select_bit_for_bit(data):
    size = data.draw(st.integers(1, 24))
    values = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=size, max_size=size)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    drop, grow = torch.tensor(data.draw(values)), torch.tensor(data.draw(values))
    count, allow = data.draw(st.integers(0, int(mask.sum()))), data.draw(st.booleans())
    if not allow:
        count = min(count, size - int(mask.sum()))
    expected = select.drop_and_grow(mask, drop, grow, count, allow_regrow=allow)
    pattern = Unstructured()
    assert torch.equal(exchange(pattern, mask, drop, grow, count, allow_regrow=allow), expected)
    kept = pattern.prune(mask, drop, int(mask.sum()) - count)
    assert torch.equal(pattern.grow(kept, grow, count, avoid=None if allow else mask & ~kept), expected)


def test_unstructured_refuses_nothing():
    Unstructured().refuse(SHAPES, 0.123)


# -- units: worked by hand -------------------------------------------------------------------------------------------


def test_blocks_by_hand():
    """Sums of the 2 x 2 tiles are 4, 1, 2, 3: two tiles stay."""
    scores = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 1], [2, 0, 0, 0], [0, 0, 0, 3]])
    pattern = Blocks(2, 2)
    mask = pattern.keep({"w": scores}, {"w": 8})["w"]
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    # tile (1, 1) has strength 3 and falls; tile (0, 1) has promise 9 and grows
    promise = torch.tensor([[0.0, 0, 4, 5], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 8, 0]])
    new = exchange(pattern, mask, scores, promise, 5)  # 5 weights are one whole tile
    assert new.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_channels_by_hand():
    scores = torch.tensor([[1.0, 5, 0], [2, 0, 0], [4, 4, 0]])
    assert Channels(0).keep({"w": scores}, {"w": 6})["w"].int().tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert Channels(1).keep({"w": scores}, {"w": 3})["w"].int().tolist() == [[0, 1, 0]] * 3


def test_channels_of_all_layers_compete_by_score_per_weight():
    """Means are 3, 1 and 2, 2.5: the budget of 6 pays for the first and the last, and half a channel is left over."""
    scores = {"a": torch.tensor([[3.0, 3, 3], [1, 1, 1]]), "b": torch.tensor([[2.0, 2], [2, 3]])}
    masks = Channels(0).keep(scores, 6)
    assert masks["a"].int().tolist() == [[1, 1, 1], [0, 0, 0]]
    assert masks["b"].int().tolist() == [[0, 0], [1, 1]]


def test_blocks_of_all_layers_compete():
    scores = {name: draw(shape, name) for name, shape in SHAPES.items()}
    budget = Blocks(4, 1).budget(SHAPES, 0.25)
    masks = Blocks(4, 1).keep(scores, budget)
    assert budget == sum(int(mask.sum()) for mask in masks.values()) == 336
    assert all(Blocks(4, 1).holds(mask) for mask in masks.values())


def test_an_untiled_layer_is_dense_or_refused():
    pattern = Blocks(4, 1)
    shapes = {"fc": (10, 6)}
    pattern.refuse(shapes, {"fc": 1.0})
    assert pattern.budget(shapes, {"fc": 1.0}) == {"fc": 60}
    mask = pattern.keep({"fc": draw((10, 6), 1)}, {"fc": 60})["fc"]
    assert mask.all()
    assert exchange(pattern, mask, mask.float(), mask.float(), 20).all()
    with pytest.raises(ValueError, match=r"do not tile fc, a matrix of 10 x 6: choose pattern\.height=2 "):
        pattern.refuse(shapes, 0.5)


# -- groups ----------------------------------------------------------------------------------------------------------


def test_n_of_m_by_hand():
    """Dropped are .1 and .2, both of the first group: it grows two, the others none."""
    pattern = NofM(2, 4)
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0]]).bool()
    strength = torch.tensor([[0.1, 0.2, 9, 9, 0.5, 9, 0.6, 9]])
    promise = torch.tensor([[0.0, 3, 2, 1, 0, 9, 0, 9]])
    new = exchange(pattern, mask, strength, promise, 2)
    assert new.int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0]]
    new = exchange(pattern, mask, strength, promise, 2, allow_regrow=False)
    assert new.int().tolist() == [[0, 0, 1, 1, 1, 0, 1, 0]]


def test_a_group_without_room_gives_its_turn_to_the_next():
    """3:4 can replace one weight of each group: the second weakest, .2, must stay, and .4 goes instead."""
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0]]).bool()
    strength = torch.tensor([[0.1, 0.2, 0.3, 0, 0.4, 0.5, 0.6, 0]])
    new = exchange(NofM(3, 4), mask, strength, torch.zeros(1, 8), 2, allow_regrow=False)
    assert new.int().tolist() == [[0, 1, 1, 1, 0, 1, 1, 1]]
    with pytest.raises(ValueError, match="cannot keep -1 of 2 entries"):
        exchange(NofM(3, 4), mask, strength, torch.zeros(1, 8), 3, allow_regrow=False)


def test_n_of_m_keeps_the_largest_of_every_group():
    scores = torch.tensor([[1.0, 4, 3, 2, 5, 5, 5, 5], [0, 0, 0, 1, -1, -2, -4, -3]])
    wanted = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(NofM(2, 4).keep({"w": scores}, {"w": 8})["w"], wanted)
    assert torch.equal(NofM(2, 4, dim=0).keep({"w": scores.T.contiguous()}, {"w": 8})["w"], wanted.T)


def test_n_of_m_ties_go_by_index_in_large_groups():
    mask = NofM(7, 1000).keep({"w": torch.zeros(3, 2000)}, {"w": 42})["w"]
    assert mask.reshape(3, 2, 1000)[..., :7].all()
    assert int(mask.sum()) == 42


def test_n_of_m_groups_input_channels_for_each_kernel_position():
    scores = torch.randn(6, 8, 3, 3, generator=generator(8))
    mask = NofM(2, 4).keep({"w": scores}, {"w": scores.numel() // 2})["w"]
    for o, g, y, x in itertools.product(range(6), range(2), range(3), range(3)):
        group = slice(4 * g, 4 * g + 4)
        assert torch.equal(mask[o, group, y, x], select.keep_top(scores[o, group, y, x], 2))


def test_a_block_is_a_tile_of_outputs_by_inputs_and_kernel_positions():
    scores = torch.zeros(4, 2, 1, 3)
    scores[2, 1, 0, 0] = 1.0  # matrix position (2, 3): the lower right block of 2 x 3
    scores[1, 0, 0, 2] = 0.5  # matrix position (1, 2): the upper left one
    mask = Blocks(2, 3).keep({"w": scores}, {"w": 6})["w"].reshape(4, 6)
    assert mask[2:, 3:].all()
    assert int(mask.sum()) == 6
    assert int(Blocks(2, 3).keep({"w": torch.ones(4, 6)}, {"w": 18})["w"].sum()) == 18


def test_units_of_half_precision_are_summed_in_float32():
    """1 + 4096 * 2^-12 is 2, not 1."""
    fine = torch.full((2, 4097), 2**-12, dtype=torch.float16)
    fine[:, 0] = torch.tensor([1.5, 1.0])
    fine[0, 1:] = 0
    assert Channels(0).keep({"w": fine}, {"w": 4097})["w"][1].all()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_masks_are_copies_and_refuse_scores_that_are_no_numbers(pattern):
    shape = SHAPES["conv"]
    budget = pattern.budget({"w": shape}, {"w": density_of(pattern)})
    mask = pattern.keep({"w": draw(shape, 1)}, budget)["w"]
    assert mask.untyped_storage().nbytes() == mask.numel(), "no view of something larger, none of something repeated"
    bad = draw(shape, 1)
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        pattern.keep({"w": bad}, budget)


def test_holds_tells_2_to_4():
    assert NofM(2, 4).holds(torch.tensor([[1, 1, 0, 0]]).bool())
    assert NofM(2, 4).holds(torch.ones(1, 4).bool())
    assert not NofM(2, 4).holds(torch.tensor([[1, 0, 0, 0]]).bool())
    assert not Blocks(2, 1).holds(torch.tensor([[1, 0], [0, 0]]).bool())
    assert not Channels(0).holds(torch.tensor([[1, 0], [1, 1]]).bool())
    assert FanIn().holds(torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1]]).bool())
    assert not FanIn().holds(torch.tensor([[1, 1, 0], [0, 0, 1]]).bool())


def test_groups_refuse_unequal_growth():
    with pytest.raises(ValueError, match="cannot be divided equally over 2 groups"):
        FanIn().grow(torch.zeros(2, 4).bool(), torch.zeros(2, 4), 3)


def test_ranks_by_hand():
    values = torch.tensor([[3.0, 5, 5, 1]])
    among = torch.tensor([[True, False, True, True]])
    assert ranks(values, among)[among].tolist() == [1, 0, 2]


def test_on_the_way_n_of_m_takes_the_nearest_n():
    """Gradual pruning to 2:4 passes 3:4."""
    shapes = {"w": (8, 16)}
    assert [NofM(2, 4).budget(shapes, d)["w"] // 32 for d in (1.0, 0.9, 0.8, 0.74, 0.6, 0.5)] == [4, 4, 3, 3, 2, 2]


# -- contradictions name what would work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "density", "says"),
    [
        (NofM(2, 4), 0.1, [r"2:4 has sparsity 0.5, but 0.9 is requested", "sparsity=0.5", "2:20", "n=1 pattern.m=10"]),
        (NofM(1, 4), 0.1, ["sparsity=0.75", "pattern.n=1 pattern.m=10 (1:10)"]),
        (NofM(2, 4), 0.37, ["sparsity=0.5"]),
        (NofM(2, 4), {"conv": 0.5, "fc": 0.3}, ["gives 0.3 of fc", "distribution=uniform sparsity=0.5"]),
        (
            NofM(2, 6),
            1 / 3,
            [
                "does not fit conv, whose dimension 1 has size 8, nor fc (16)",
                "nearest M that divides them is 4",
                "exclude=[conv,fc]",
            ],
        ),
        (
            NofM(2, 4, dim=3),
            0.5,
            [
                "does not fit conv, whose dimension 3 has size 3, nor fc (1): leave these layers dense",
                "exclude=[conv,fc]",
            ],
        ),
        (
            Blocks(3, 1),
            0.5,
            ["3 x 1 do not tile conv, a matrix of 16 x 72", "pattern.height=1", "exclude=[conv]"],
        ),
    ],
)
def test_contradictions(pattern, density, says):
    with pytest.raises(ValueError) as error:
        pattern.refuse(SHAPES, density)
    text = str(error.value)
    assert "\n" not in text
    for part in says:
        assert part in text


@pytest.mark.parametrize("pattern", [NofM(2, 4), Blocks(1, 4)])
def test_all_layers_that_do_not_fit_are_named_at_once(pattern):
    shapes = {"stem": (16, 3, 1, 1), "mid": (8, 16, 1, 1), "depthwise": (16, 1, 3, 3), "odd": (8, 6)}
    with pytest.raises(ValueError, match=r"stem.*, nor depthwise.* odd \(.*exclude=\[stem,depthwise,odd\]$") as error:
        pattern.refuse(shapes, 0.5)
    assert "mid" not in str(error.value)
    pattern.refuse({"mid": shapes["mid"]}, 0.5)


def test_of_one_layer_that_does_not_fit_the_nearest_group_is_told():
    with pytest.raises(ValueError, match=r"whose dimension 3 has size 3: the nearest M that divides it is 3; choose"):
        NofM(2, 4, dim=3).refuse({"conv": (8, 8, 3, 3), "fc": (8, 8)}, {"conv": 0.5, "fc": 1.0})


def test_a_single_input_is_left_dense():
    with pytest.raises(ValueError, match=r"has size 1: leave the layer dense with prunable\.exclude=\[stem\]"):
        NofM(2, 4).refuse({"stem": (16, 1, 3, 3)}, 0.5)


def test_dense_layers_are_no_contradiction():
    NofM(2, 4).refuse({"first": (16, 3, 3, 3), "w": (8, 8)}, {"first": 1.0, "w": 0.5})
    budget = NofM(2, 4).budget({"first": (16, 3, 3, 3), "w": (8, 8)}, {"first": 1.0, "w": 0.5})
    assert budget == {"first": 432, "w": 32}
    masks = NofM(2, 4).keep({"first": draw((16, 3, 3, 3), 1), "w": draw((8, 8), 2)}, budget)
    assert masks["first"].all()
    same = exchange(NofM(2, 4), masks["first"], masks["first"].float(), masks["first"].float(), 100)
    assert same.all()


@pytest.mark.parametrize("make", [lambda: NofM(0, 4), lambda: NofM(5, 4), lambda: Blocks(0, 1), lambda: Channels(2)])
def test_impossible_patterns(make):
    with pytest.raises(ValueError, match="impossible"):
        make()
