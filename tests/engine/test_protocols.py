"""Capabilities of modules, callbacks and loggers: by protocol, each written down once."""

import lightning as L
import torch
from support import Foreign
from tiny_run import Net

from sparsebench.engine import Classifier
from sparsebench.engine.callbacks.heartbeat import Heartbeat
from sparsebench.engine.callbacks.progress import EpochLines
from sparsebench.engine.loggers import MetricsFile, close_loggers
from sparsebench.engine.protocols import Closable, Labelled, OptimizesMore


def test_who_can_do_what(tmp_path):
    classifier = Classifier(Net(), classes=4, optimizer=torch.optim.SGD, total_steps=1)
    assert isinstance(classifier, OptimizesMore)
    assert not isinstance(Foreign(), OptimizesMore)
    half = Foreign()
    half.extra_groups = []
    assert not isinstance(half, OptimizesMore)  # optimizers of a method's own would be lost
    assert isinstance(EpochLines(), Labelled)
    assert isinstance(Heartbeat(lambda **facts: None), Labelled)
    assert not isinstance(L.Callback(), Labelled)
    assert not isinstance(MetricsFile(tmp_path / "metrics.csv"), Closable)


def test_loggers_are_closed_with_the_outcome_or_finalized():
    told = []

    class Ends:
        def close(self, *, failed, summary):
            told.append((failed, summary))

    class Plain:
        def finalize(self, status):
            told.append(status)

    close_loggers([Ends(), Plain()])
    close_loggers([Ends(), Plain()], failed=True, summary={"a": 1})
    assert told == [(False, {}), "success", (True, {"a": 1}), "failed"]
