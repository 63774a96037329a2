import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsebench.data.split import order_balanced, split_balanced


@settings(max_examples=40, deadline=None)
@example(counts=[1, 2, 3, 9, 21], share=0.859375, seed=0)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(sum),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
)
def test_the_split_is_disjoint_complete_exact_and_balanced(counts, share, seed):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    train, held_out = split_balanced(labels, share, seed=seed)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(len(labels)))
    assert len(held_out) == round(share * len(labels))
    per_class = torch.bincount(labels[held_out], minlength=len(counts))
    sizes = torch.tensor(counts)
    expected = sizes * len(held_out) / len(labels)
    bound = (1 + int((sizes > 0).sum()) * sizes / len(labels)) / 2
    assert ((per_class - expected).abs() <= bound + 1e-6).all()


def test_equal_classes_are_shared_exactly():
    labels = torch.arange(1000) % 10
    assert torch.bincount(labels[split_balanced(labels, 0.1, seed=3)[1]]).tolist() == [10] * 10


def test_every_prefix_is_balanced():
    labels = torch.arange(60) // 20
    order = order_balanced(labels, seed=0)
    for length in range(61):
        counts = torch.bincount(labels[order[:length]], minlength=3)
        assert counts.max() - counts.min() <= 1


def test_the_seed_and_nothing_else_decides():
    labels = torch.arange(200) % 7
    torch.manual_seed(1)
    first = split_balanced(labels, 0.2, seed=0)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second, other = split_balanced(labels, 0.2, seed=0), split_balanced(labels, 0.2, seed=1)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])
    torch.manual_seed(1)
    split_balanced(labels, 0.2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["split", "digits-test"])
def test_names_keep_orders_apart(name):
    labels = torch.zeros(50, dtype=torch.int64)
    same = torch.equal(order_balanced(labels, seed=0, name=name), order_balanced(labels, seed=0))
    assert same == (name == "split")
