"""Training that ends before its budget: both numbers are told, whatever has ended it."""

import re
import warnings
from datetime import timedelta

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer
from support import Foreign, batches, silent_trainer

from sparsebench.engine import Sparsity
from sparsebench.methods import GMP


def told(sparsity, *callbacks, **options):
    """Train for 16 steps, or less; return the warnings."""
    trainer = silent_trainer(callbacks=[sparsity, *callbacks], max_epochs=2, **options)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.fit(Foreign(), batches(8))
    return [str(warning.message) for warning in seen if " was reached, " in str(warning.message)]


@pytest.mark.parametrize(
    ("make", "step"),
    [
        (lambda: {"callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]}, 10),
        (lambda: {"callbacks": [Timer(timedelta(microseconds=1))]}, 1),
        (lambda: {"max_time": timedelta(microseconds=1)}, 1),
    ],
    ids=["accumulation that grows", "a timer", "max_time"],
)
def test_the_target_and_what_was_reached_are_told(make, step):
    options = make()
    sparsity = Sparsity(GMP(density=0.1, every=2))
    said = told(sparsity, *options.pop("callbacks", []), **options)
    assert sparsity.step == step
    assert sparsity.target_reached is False
    assert len(said) == 1
    assert re.match(
        rf"sparsity 0\.\d+ was reached, 0\.9000 was requested: training ended at step {step} of 16", said[0]
    )
    assert sparsity.net.density > 0.101


def test_the_same_training_to_its_end_says_nothing():
    sparsity = Sparsity(GMP(density=0.1, every=2))
    assert told(sparsity) == []
    assert sparsity.target_reached is True
