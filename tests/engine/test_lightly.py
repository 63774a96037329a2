"""The running sums of an epoch: equal to torchmetrics', and read from checkpoints that hold metric objects."""

import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from sparsebench.engine.lightly import Running, Unprofiled, sums_before


def _batches(seed=0):
    random = torch.Generator().manual_seed(seed)
    for size in (7, 7, 3):
        logits = torch.randn(size, 4, generator=random)
        labels = torch.randint(0, 4, (size,), generator=random)
        yield torch.nn.functional.cross_entropy(logits, labels), logits, labels


def _metrics():
    loss, accuracy = MeanMetric(), MulticlassAccuracy(num_classes=4, average="micro")
    for value, logits, labels in _batches():
        loss.update(value, len(labels))
        accuracy.update(logits, labels)
    return loss, accuracy


def test_means_equal_those_of_metric_objects():
    running = Running()
    for batch in _batches():
        running.update(*batch)
    loss, accuracy = _metrics()
    assert running.means(running.sums) == (loss.compute(), accuracy.compute())
    running.reset()
    assert running.sums == {}


def test_sums_of_an_older_checkpoint():
    module = torch.nn.ModuleDict(dict(zip(("train_loss", "train_accuracy"), _metrics(), strict=True)))
    for metric in module.values():
        metric.persistent(True)
    state = {**module.state_dict(), "net.weight": torch.ones(1)}
    loss, accuracy = _metrics()
    assert Running.means(sums_before(state)) == (loss.compute(), accuracy.compute())
    assert list(state) == ["net.weight"]  # the rest is loaded strictly


def test_one_context_for_every_action():
    profiler = Unprofiled()
    assert profiler.profile("a") is profiler.profile("b")
    with profiler.profile("a"), profiler.profile("b"):
        pass
