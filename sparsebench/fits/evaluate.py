"""Evaluate a state, one network or an ensemble, with a trainer on test or validation data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsebench.analysis.quality import Ensemble
from sparsebench.engine import Classifier
from sparsebench.fits.setup import Setup
from sparsebench.fits.state import State


def load(setup: Setup, *weights: Mapping[str, Tensor]) -> Classifier:
    """Return a classifier with these weights, or with an ensemble of several, in evaluation mode."""
    nets = [setup.network() for _ in weights]
    for net, values in zip(nets, weights, strict=True):
        net.load_state_dict(dict(values))
    return setup.classifier(nets[0] if len(nets) == 1 else Ensemble(nets), total_steps=1).eval()


def evaluate(setup: Setup, state: State, *, split: str = "test") -> dict[str, float]:
    """Measure a state on ``test`` or ``validation`` data; keys are the names logged by the classifier."""
    module, trainer = load(setup, state.weights, *state.members), setup.quiet_trainer()
    measure = trainer.test if split == "test" else trainer.validate
    (metrics,) = measure(module, datamodule=setup.data, verbose=False)
    return dict(metrics)
