"""Setup: numbers are asked once, networks are built to be trained or measured, and nothing else is built."""

from functools import partial

import lightning as L
import pytest
import torch
from tiny_run import Net, tiny_run, trainer

from sparsebench.app.plan.rehearsal import Length, Rehearsal
from sparsebench.fits.length import epochs_of, steps_of_epoch, steps_of_fit, used_batches
from sparsebench.functional.distribution import uniform
from sparsebench.methods import Dense, Given
from sparsebench.recipes import CycleChecks, imp_ensemble, prune_finetune, swamp

QUICK = {"share": 0.5, "rewind_to": 0.25}


class Count:
    """Call through, and count."""

    def __init__(self, made):
        self.made, self.calls = made, 0

    def __call__(self, **arguments):
        self.calls += 1
        return self.made(**arguments)


@pytest.fixture
def counted(tmp_path):
    def build(**changes):
        trainers, networks = Count(trainer), Count(Net)
        return tiny_run(tmp_path, trainer=trainers, network=networks, **changes), trainers, networks

    return build


def test_a_recipe_builds_one_trainer_more_than_it_trains(counted):
    run, trainers, networks = counted()
    swamp(run, particles=2, look=CycleChecks(hessian=1, barrier=2), **QUICK)
    fits, cycles = 1 + 3 * 2, 3
    assert len(run.journal.fits) == fits
    assert trainers.calls == fits + 1  # the one that is asked for numbers
    assert networks.calls == fits + cycles + 1  # one for all measurements of a cycle, and one for its shapes
    swamp(tiny_run(run.stages.folder, trainer=trainers, network=networks), particles=2, look=CycleChecks(), **QUICK)
    assert (trainers.calls, networks.calls) == (fits + 2, fits + cycles + 2)  # read from disk


def test_solutions_of_an_ensemble_share_numbers_and_shapes(counted):
    run, trainers, networks = counted(density=0.5)
    settings = {"cycles": 1, "hit_target": "geometric", "rewind_to": 0.25}
    imp_ensemble(run, solutions=2, look=CycleChecks(barrier=0), **settings)
    assert trainers.calls == len(run.journal.fits) + 1 == 2 * 3 + 1
    assert networks.calls == 6 + 2 * 2 + 1


def test_the_numbers_are_those_of_the_trainer(tmp_path):
    setup = tiny_run(tmp_path, trainer=partial(trainer, limit_train_batches=5, accumulate_grad_batches=2)).setup
    assert (setup.epoch_steps(), setup.total_steps(), setup.total_steps(max_epochs=4)) == (3, 6, 12)
    assert setup.total_steps(max_steps=4) == 4
    assert setup.numbers().limits == (5, 1.0)
    assert setup.numbers().device == torch.device("cpu")
    run = tiny_run(tmp_path, trainer=setup.trainer, method=Dense())
    state = run.fit("stage")
    assert (state.facts["steps"], state.facts["epochs"]) == (6, 2)
    assert run.fit("part", max_steps=4).facts["epochs"] == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("budget", "says"),
    [({"max_epochs": -1}, "training has no end"), ({"max_epochs": 0}, "0 optimizer steps train nothing")],
)
def test_training_without_an_end_or_a_step_is_refused(tmp_path, budget, says):
    with pytest.raises(ValueError, match=says) as refusal:
        tiny_run(tmp_path).setup.total_steps(**budget)
    assert "\n" not in str(refusal.value)


def test_length():
    assert [used_batches(7, 5), used_batches(7, 9), used_batches(7, 0.5), used_batches(7, 1.0)] == [5, 7, 3, 7]
    assert [steps_of_epoch(6, 2), steps_of_epoch(7, 2)] == [3, 4]
    assert [steps_of_fit(3, 4, -1), steps_of_fit(3, None, 5), steps_of_fit(3, 4, 5)] == [12, 5, 5]
    assert epochs_of(6, 3) == 2
    assert isinstance(epochs_of(6, 3), int)
    assert epochs_of(7, 2) == 3.5


def test_other_parts_are_asked_anew_and_another_seed_is_not(counted):
    run, trainers, _ = counted()
    setup = run.setup
    assert setup.total_steps() == 12
    assert setup.replace(seed=3).total_steps() == 12
    assert trainers.calls == 1
    assert setup.replace(trainer=partial(trainers, max_epochs=5)).total_steps() == 30
    assert trainers.calls == 2


def test_shapes_and_names_need_no_memory_and_the_rate_needs_no_network(counted):
    run, _, networks = counted()
    assert run.setup.blank.shapes == {"conv.weight": (6, 1, 3, 3), "fc.weight": (4, 96)}
    assert all(p.is_meta for p in run.setup.blank.params.values())
    assert run.setup.parameters == {n for n, _ in Net().named_parameters()}
    assert networks.calls == 1
    assert [run.setup.rate(0.0), run.setup.rate(1.0)] == pytest.approx([0.1, 0.0])
    assert networks.calls == 1


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        (prune_finetune, {}),
        (swamp, {"particles": 2, "share": 0.7, "rewind_to": 0.25}),
        (imp_ensemble, {"cycles": 1, "hit_target": "geometric", "rewind_to": 0.25}),
    ],
)
def test_a_rehearsal_reads_no_images_builds_no_trainer_and_costs_what_the_recipe_costs(counted, recipe, settings):
    settings = {**settings, "look": CycleChecks(hessian=1)}
    method = Given(density=0.3, distribution=uniform)  # counts that do not depend on the values of weights
    run, _, _ = counted(method=method)
    real = recipe(run, **settings)
    again, trainers, _ = counted(method=method)
    rehearsal = Rehearsal.of(
        again.setup, length=Length(images=96, batch=16), settings={"max_epochs": 2, "max_steps": -1}
    )
    planned = recipe(rehearsal, **settings)
    for key in ("steps", "epochs", "train_flops", "train_flops_dense", "executed_flops", "fits"):
        assert planned.facts[key] == real.facts[key]
    assert list(rehearsal.journal.fits) == list(run.journal.fits)
    assert trainers.calls == 0
    assert again.setup.data.reads == {"train": 0, "test": 0}


class Named(L.Callback):
    label = ""

    def __init__(self, seen):
        self.seen = seen

    def on_train_start(self, trainer, module):
        self.seen.append(self.label)


@pytest.mark.parametrize(("name", "alone"), [("single", False), ("single", True), ("whole", True)])
def test_loggers_and_labels_follow_what_was_asked_and_no_name(tmp_path, name, alone):
    opened, seen = [], []

    def loggers(folder, *, run, stage):
        opened.append((folder, run, stage))
        return ()

    parts = {"method": Dense(), "loggers": loggers, "progress": lambda: [Named(seen)]}
    run = tiny_run(tmp_path / "run--0123abcd", **parts).replace(prefix="first-")
    run.fit(name, alone=alone)
    folder = run.stages.folder
    if alone:
        assert opened == [(folder, "run--0123abcd", None)]
        assert seen == [""]
    else:
        assert opened == [(folder / "stages" / "first-single", "run--0123abcd", "first-single")]
        assert seen == ["first-single: "]
