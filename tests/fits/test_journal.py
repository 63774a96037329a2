"""Journal: what fits cost, what cycles measured, in order, and closed to writing from outside."""

import json

import pytest
import torch

from sparsebench.fits import Journal, State


def cycle(stage, density, **facts):
    return State({"w": torch.zeros(1)}, {}, {"stage": stage, "density": density, "look_seconds": 1.0, **facts})


def fit(steps, flops, seconds=2.0, **facts):
    return {
        "steps": steps,
        "train_flops": flops,
        "train_flops_dense": 10 * steps,
        "seconds": seconds,
        "executed_flops": flops,
        **facts,
    }


@pytest.fixture
def journal(tmp_path):
    kept = Journal(tmp_path)
    kept.note_fit("ticket", fit(2, 20))
    kept.note_fit("cycle0", fit(8, 80, images_per_second=10.0))
    kept.note_cycle(cycle("cycle0-measured", 1.0, val_accuracy=0.5))
    kept.note_fit("cycle1", fit(8, 40, seconds=6.0, images_per_second=30.0, explored=0.75))
    kept.note_cycle(cycle("cycle1-measured", 0.5, val_accuracy=0.25))
    return kept


def test_each_cycle_has_its_own_cost_and_the_cost_so_far(journal, tmp_path):
    first, second = journal.records()
    assert (first["steps"], first["train_flops"], first["stages"]) == (10, 100, {"ticket": 2, "cycle0": 8})
    assert (second["steps"], second["train_flops"], second["stages"]) == (8, 40, {"cycle1": 8})
    assert (first["seconds"], first["seconds_so_far"]) == (4.0, 5.0)  # measuring counts too
    assert (second["seconds_so_far"], second["train_flops_so_far"]) == (12.0, 140)
    assert second["sparsity"] == 0.5
    assert json.loads((tmp_path / "cycles.json").read_text()) == [first, second]
    assert [cycle.fits_before for cycle in journal.cycles] == [2, 3]


def test_the_conclusion_counts_every_fit(journal):
    end = State({"w": torch.ones(1)}, {}, members=[{"w": torch.zeros(1)}])
    final = journal.conclude(end, total_steps=9)
    assert (final.weights, final.members) == (end.weights, end.members)
    facts = final.facts
    assert (facts["steps"], facts["train_flops"], facts["fits"]) == (18, 140, 3)
    assert facts["train_flops_dense"] == 10 * 9  # one dense run of the budget of one fit
    assert facts["seconds"] == 2 + 2 + 6 + 2
    assert facts["images_per_second"] == (2 * 10 + 6 * 30) / 8
    assert (facts["val_accuracy"], facts["explored"]) == (0.25, 0.75)
    assert facts["cycles"] == journal.records()


def test_a_fit_read_again_is_not_counted_twice(journal):
    journal.note_fit("cycle1", fit(8, 40, seconds=6.0))
    assert len(journal.fits) == 3
    assert journal.records()[1]["steps"] == 8


def test_nobody_writes_from_outside(journal):
    with pytest.raises(TypeError):
        journal.fits["other"] = {}
    with pytest.raises(AttributeError):
        journal.cycles.append(None)


def test_the_previous_network_is_of_the_same_recipe():
    journal = Journal()
    assert journal.previous() is None
    journal.note_cycle(cycle("solution0-cycle0-measured", 1.0))
    assert journal.previous("solution0-") is not None
    assert journal.previous("solution1-") is None


def test_seconds_are_those_of_fits_that_were_missing(journal):
    assert journal.seconds_trained() is None
    journal.note_missing("cycle1")
    journal.note_missing("cycle2")
    assert journal.seconds_trained() == 6.0
