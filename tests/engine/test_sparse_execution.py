"""Training through products that skip zeros: the same masks and weights as with dense ones, resumption, the ledger."""

import pytest
import torch
from support import Foreign, batches, silent_trainer

from sparsebench.cost.flops import layer_costs
from sparsebench.cost.ledger import Ledger
from sparsebench.engine import Sparsity
from sparsebench.execution import SparseNetwork, direct
from sparsebench.methods import ACDC, DSTEE, GMP, SET, RigL, Static

pytestmark = pytest.mark.skipif(not direct.available(), reason="needs a C++ compiler")


def fit(method, execution, *, epochs=4, **options):
    module = Foreign()
    ledger = Ledger(layer_costs(module, torch.zeros(1, 1, 8, 8)))
    sparsity = Sparsity(method, seed=3, execution=execution, ledger=ledger, total_steps=options.pop("total", None))
    trainer = silent_trainer(callbacks=[sparsity], max_epochs=epochs, **options)
    return sparsity, module, trainer


METHODS = [
    Static(density=0.2),
    SET(density=0.2, every=4),
    RigL(density=0.2, every=4),
    DSTEE(density=0.2, every=4, c=0.01),
    GMP(density=0.2, every=4),
    ACDC(density=0.2),
]


@pytest.mark.parametrize("execution", ["direct", "csr", "auto"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_masks_and_weights_are_those_of_dense_products(method, execution):
    fits = []
    for way in (execution, "masked"):
        sparsity, module, trainer = fit(method, way)
        trainer.fit(module, batches(8))
        fits.append((sparsity, module))
    (ours, one), (theirs, two) = fits
    assert ours.net.digest() == theirs.net.digest()
    assert ours.net.version == theirs.net.version
    for name, value in two.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_the_ledger_counts_what_is_multiplied():
    sparsity, module, trainer = fit(Static(density=0.2), "direct")
    trainer.fit(module, batches(8))
    assert isinstance(sparsity.net.runtime.backend, SparseNetwork)
    assert set(sparsity.net.runtime.backend.chosen.values()) <= {"direct", "masked"}
    assert "direct" in sparsity.net.runtime.backend.chosen.values()
    assert sparsity.ledger.executed_flops_ratio < 0.75
    rigl, module, trainer = fit(RigL(density=0.2, every=1, until=1.0), "direct")
    trainer.fit(module, batches(8))
    assert rigl.ledger.executed_flops_ratio > sparsity.ledger.executed_flops_ratio  # dense gradients at every update


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    method = RigL(density=0.2, every=4)
    whole, module, trainer = fit(method, "direct", epochs=4)
    trainer.fit(module, batches(8))
    _, first, trainer = fit(method, "direct", epochs=2, total=32)
    trainer.fit(first, batches(8))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, second, trainer = fit(method, "direct", epochs=4)
    trainer.fit(second, batches(8), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert resumed.net.digest() == whole.net.digest()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), second.parameters(), strict=True))


def test_checkpoints_of_one_execution_continue_in_another(tmp_path):
    method = SET(density=0.2, every=4)
    _, first, trainer = fit(method, "direct", epochs=2, total=32)
    trainer.fit(first, batches(8))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, second, trainer = fit(method, "masked", epochs=4)
    trainer.fit(second, batches(8), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    whole, _, trainer = fit(method, "masked", epochs=4)
    trainer.fit(Foreign(), batches(8))
    assert resumed.net.digest() == whole.net.digest()
