"""Wanda and SparseGPT beside loops over single weights with written-out inverses."""

import pytest
import torch

from sparsebench.functional.one_shot import inverse_factor, keep_rows, sparsegpt, wanda


def inputs(columns=6, samples=40, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(columns, samples).double()
    return x + 0.5 * x.roll(1, dims=0)  # correlated


def test_wanda_is_magnitude_times_input_norm():
    x, weight = inputs(), torch.randn(3, 6).double()
    wanted = [[abs(float(w)) * float((x[j] ** 2).sum()) ** 0.5 for j, w in enumerate(row)] for row in weight]
    torch.testing.assert_close(wanda(weight, x.norm(dim=1)), torch.tensor(wanted).double())


@pytest.mark.parametrize("kept", [0, 1, 5, 6, 7, 11, 18])
def test_rows_keep_equal_numbers_and_the_best_rows_one_more(kept):
    torch.manual_seed(kept)
    scores = torch.rand(3, 6)
    mask = keep_rows(scores, kept)
    assert int(mask.sum()) == kept
    each = kept // 3
    next_best = {row: sorted(scores[row].tolist(), reverse=True)[each] for row in range(3)} if each < 6 else {}
    more = sorted(next_best, key=lambda row: -next_best[row])[: kept % 3]
    for row in range(3):
        count = each + (row in more)
        assert mask[row].tolist() == [
            score in sorted(scores[row].tolist(), reverse=True)[:count] for score in scores[row].tolist()
        ]


def remaining_inverse(hessian, j):
    """Inverse of the Hessian of columns j and later, earlier ones being settled."""
    return torch.linalg.inv(hessian[j:, j:])


def damped(x, share):
    hessian = x @ x.T
    return hessian + share * hessian.diagonal().mean() * torch.eye(len(hessian)).double()


def test_rows_of_the_factor_are_those_of_the_remaining_inverse():
    x = inputs()
    hessian, factor = damped(x, 0.01), inverse_factor(x @ x.T, 0.01)
    for j in range(6):
        inverse = remaining_inverse(hessian, j)
        torch.testing.assert_close(factor[j, j:] * factor[j, j], inverse[0])
        assert not factor[j, :j].any()


@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_sparsegpt_prunes_and_compensates_as_published(step):
    x = inputs()
    torch.manual_seed(2)
    weight, hessian = torch.randn(3, 6).double(), damped(x, 0.01)

    def choose(scores, reached):
        """Keep the better half of the columns just reached, over all rows."""
        part = scores[:, reached]
        best = part.reshape(-1).topk(part.numel() // 2).indices
        chosen = torch.zeros(part.numel(), dtype=torch.bool).index_fill_(0, best, True).reshape(part.shape)
        return torch.zeros_like(scores, dtype=torch.bool).masked_scatter_(reached, chosen)

    new, mask = sparsegpt(weight, x @ x.T, choose, step=step, damp=0.01)
    w, wanted = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    for j in range(6):
        if j % step == 0:
            block = range(j, min(j + step, 6))
            cost = {
                (row, k): float(w[row, k] ** 2 / remaining_inverse(hessian, k)[0, 0]) for row in range(3) for k in block
            }
            for place in sorted(cost, key=lambda p: cost[p])[: len(cost) - len(cost) // 2]:
                wanted[place] = False
        inverse = remaining_inverse(hessian, j)
        for row in range(3):
            if not wanted[row, j]:
                w[row, j:] -= w[row, j] / inverse[0, 0] * inverse[0]
    assert torch.equal(mask, wanted)
    torch.testing.assert_close(new, w * wanted)
    error = (((new - weight) @ x) ** 2).sum()
    assert error < (((weight * mask - weight) @ x) ** 2).sum(), "compensation must help"


def test_inputs_that_are_never_on_lose_their_weights():
    x = inputs()
    x[2] = 0.0
    new, _ = sparsegpt(torch.ones(2, 6), x @ x.T, lambda scores, reached: torch.ones_like(scores, dtype=torch.bool))
    assert not new[:, 2].any()
    assert (new[:, [0, 1, 3, 4, 5]] == 1).all()
