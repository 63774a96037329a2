"""Updates that replace a step leave no gradient: clipping, of either kind, has nothing to clip then."""

import pytest
import torch
from support import Foreign, batches, silent_trainer

from sparsebench.engine import Sparsity
from sparsebench.methods import RigL


@pytest.mark.parametrize("algorithm", ["value", "norm"])
def test_an_update_in_the_place_of_a_step_under_clipping(algorithm):
    module, sparsity = Foreign(), Sparsity(RigL(density=0.3, every=2))
    before = Foreign.configure_gradient_clipping
    trainer = silent_trainer(
        max_epochs=2, gradient_clip_val=0.1, gradient_clip_algorithm=algorithm, callbacks=[sparsity]
    )
    trainer.fit(module, batches())
    assert sparsity.step == 16
    assert sparsity.net.density == pytest.approx(0.3, abs=0.01)
    assert sparsity.net.version > 2  # it was updated
    assert "configure_gradient_clipping" not in vars(module)
    assert Foreign.configure_gradient_clipping is before


def test_a_step_with_gradients_is_clipped():
    seen = []

    class Watched(Foreign):
        def on_before_zero_grad(self, optimizer):
            seen.extend(float(p.grad.abs().max()) for p in self.parameters() if p.grad is not None)

    silent_trainer(
        gradient_clip_val=1e-4, gradient_clip_algorithm="value", callbacks=[Sparsity(RigL(density=0.3, every=3))]
    ).fit(Watched(), batches())
    assert seen
    assert max(seen) <= 1e-4 + torch.finfo(torch.float32).eps
