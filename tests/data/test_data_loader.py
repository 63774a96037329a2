from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsebench.data.loader import EvalLoader, TrainLoader
from sparsebench.data.resident import Resident, Shift


def make_source(count=22):
    images = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Resident(images, torch.arange(count), mean=(0.5,), std=(0.25,), shift=Shift(padding=2))


def make_loader(count=22, batch_size=4, **options):
    return TrainLoader(make_source(count), batch_size=batch_size, **options)


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )


def run(loader, epochs):
    """What Lightning does: create the iterator first, then tell the epoch."""
    batches = []
    for epoch in epochs:
        iterator = iter(loader)
        loader.sampler.set_epoch(epoch)
        batches.append(list(iterator))
    return batches


def test_batches_have_the_promised_form():
    loader = make_loader()
    batches = list(loader)
    assert len(loader) == len(batches) == 5  # 22 images, the ragged batch of 2 dropped
    for images, labels in batches:
        assert images.shape == (4, 1, 4, 4)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
    assert len({int(label) for _, labels in batches for label in labels}) == 20


def test_a_set_smaller_than_the_batch_makes_one_batch():
    loader = make_loader(count=3, batch_size=8)
    ((images, labels),) = list(loader)
    assert len(loader) == 1
    assert sorted(labels.tolist()) == [0, 1, 2]
    assert len(images) == 3


def test_epochs_depend_on_seed_and_epoch_alone():
    first, again = run(make_loader(order_seed=5), range(3)), run(make_loader(order_seed=5), range(3))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert same(run(make_loader(order_seed=5), [2])[0], first[2])  # whatever was iterated before
    assert not same(first[0], first[1])
    assert not same(first[0], run(make_loader(order_seed=6), [0])[0])


def test_the_epoch_is_read_when_the_first_batch_is_asked_for():
    loader, expected = make_loader(), run(make_loader(), [7])[0]
    iterator = iter(loader)
    loader.sampler.set_epoch(7)
    assert same(list(iterator), expected)


def test_without_set_epoch_epochs_follow_each_other():
    loader = make_loader()
    assert all(same(list(loader), expected) for expected in run(make_loader(), range(3)))
    loader.set_epoch(1)
    assert same(list(loader), run(make_loader(), [1])[0])


def test_the_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(make_loader())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert same(first, list(make_loader()))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("lightning", [True, False])
def test_resuming_anywhere_equals_never_stopping(lightning, world):
    options = {"world": world, "rank": world - 1, "order_seed": 3}
    whole = run(make_loader(**options), range(3))
    for epoch in range(2):
        for used in range(1, 6):
            stopped = make_loader(**options)
            stopped.set_epoch(epoch)
            iterator = iter(stopped)
            for _ in islice(iterator, used):
                pass
            state = stopped.state_dict()
            assert state == {"epoch": epoch, "position": used}

            resumed = make_loader(**options)
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
            assert len(resumed) == 5
            if lightning:
                rest, following = run(resumed, [epoch, epoch + 1])
                assert same(rest, whole[epoch][used:])
                assert same(following, whole[epoch + 1])
            else:
                expected = whole[epoch][used:] or whole[epoch + 1]
                assert same(list(resumed), expected)


def test_a_resumed_loader_can_be_stopped_and_resumed_again():
    whole = run(make_loader(), [1])[0]
    loader = make_loader()
    loader.load_state_dict({"epoch": 1, "position": 2})
    next(iter(loader))
    assert loader.state_dict() == {"epoch": 1, "position": 3}
    again = make_loader()
    again.load_state_dict(loader.state_dict())
    assert same(list(again), whole[3:])


def test_a_finished_epoch_that_is_insisted_on_yields_nothing():
    loader = make_loader()
    loader.load_state_dict({"epoch": 1, "position": 5})
    rest, following = run(loader, [1, 2])
    assert rest == []
    assert same(following, run(make_loader(), [2])[0])


def test_another_epoch_forgets_the_loaded_position():
    loader = make_loader()
    loader.load_state_dict({"epoch": 1, "position": 2})
    assert same(run(loader, [3])[0], run(make_loader(), [3])[0])


@pytest.mark.parametrize("state", [{"epoch": 0, "position": 6}, {"epoch": -1, "position": 0}])
def test_a_position_that_does_not_exist_is_refused(state):
    with pytest.raises(ValueError, match="5 batches here"):
        make_loader().load_state_dict(state)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_interleave_to_the_batch_of_one(world):
    alone = run(make_loader(), [2])[0]
    ranks = [run(make_loader(rank=rank, world=world), [2])[0] for rank in range(world)]
    for position, (images, labels) in enumerate(alone):
        for rank in range(world):
            assert torch.equal(ranks[rank][position][0], images[rank::world])
            assert torch.equal(ranks[rank][position][1], labels[rank::world])


def test_ranks_share_a_small_set_evenly():
    parts = [list(make_loader(count=7, batch_size=8, rank=rank, world=2)) for rank in range(2)]
    assert [len(labels) for ((_, labels),) in parts] == [3, 3]
    assert not set(parts[0][0][1].tolist()) & set(parts[1][0][1].tolist())


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match="multiple of 3, for example 6"):
        make_loader(world=3)


def test_fewer_images_than_ranks_are_refused():
    with pytest.raises(ValueError, match="1 training images for 2 ranks"):
        make_loader(count=1, world=2)
    with pytest.raises(ValueError, match="1 images to evaluate for 2 ranks"):
        EvalLoader(make_source(1), batch_size=4, world=2)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), world=st.integers(1, 4))
def test_evaluation_sees_every_image_once_in_equally_many_batches(count, batch_size, world):
    if count < world or batch_size < world:
        return
    loaders = [EvalLoader(make_source(count), batch_size=batch_size, rank=r, world=world) for r in range(world)]
    seen = [[labels for _, labels in loader] for loader in loaders]
    assert len({len(batches) for batches in seen}) == 1
    assert all(len(loader) == len(batches) for loader, batches in zip(loaders, seen, strict=True))
    assert all(len(labels) > 0 for batches in seen for labels in batches)
    assert sorted(torch.cat([labels for batches in seen for labels in batches]).tolist()) == list(range(count))


def test_evaluation_keeps_order_and_the_ragged_batch():
    batches = list(EvalLoader(make_source(10), batch_size=4))
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_without_augmentation_pixels_are_those_of_evaluation():
    ((plain, _),) = EvalLoader(make_source(), batch_size=22)
    for images, labels in make_loader(augment=False):
        for image, label in zip(images, labels, strict=True):
            assert torch.equal(image, plain[label])
