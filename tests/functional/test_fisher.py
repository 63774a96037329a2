"""Block Fisher matrices beside written-out inverses, and their prunings beside brute force over the quadratic loss."""

import pytest
import torch

from sparsebench.functional.fisher import (
    BlockFisher,
    chained_saliency,
    compensated,
    fishers,
    obert,
    saliency,
)

DAMP = 1e-2


def drawn(size=11, count=7, block=4, seed=0):
    """Return a weight, the inverse built gradient by gradient, and the matrix itself, written out."""
    torch.manual_seed(seed)
    weight, slopes = torch.randn(size).double(), torch.randn(count, size).double()
    fisher = BlockFisher(size, count=count, block=block, damp=DAMP)
    for slope in slopes:
        fisher.add(slope)
    whole = slopes.T @ slopes / count + DAMP * torch.eye(size).double()
    near = torch.arange(size) // block
    return weight, fisher, torch.where(near[:, None] == near[None], whole, 0.0)


def test_the_inverse_is_that_of_the_damped_matrix_of_each_block():
    weight, fisher, matrix = drawn()
    inverse = torch.linalg.inv(matrix)
    for number, found in enumerate(fisher.inverse):
        part = slice(4 * number, min(4 * number + 4, len(weight)))
        size = part.stop - part.start
        torch.testing.assert_close(found[:size, :size], inverse[part, part])
    torch.testing.assert_close(saliency(weight, fisher), weight**2 / (2 * inverse.diagonal()))


def quadratic(weight, matrix, lost):
    """Least rise of the quadratic loss when some weights go, and the weights then: solved for those that stay."""
    stay = [i for i in range(len(weight)) if i not in lost]
    move = torch.zeros_like(weight)
    move[list(lost)] = -weight[list(lost)]
    if stay and lost:
        right = -matrix[stay][:, list(lost)] @ move[list(lost)]
        move[stay] = torch.linalg.solve(matrix[stay][:, stay], right)
    return float(move @ matrix @ move / 2), weight + move


def test_compensation_is_the_best_move_of_those_that_stay():
    weight, fisher, matrix = drawn()
    mask = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1]).bool()
    lost = (~mask).nonzero().reshape(-1).tolist()
    torch.testing.assert_close(compensated(weight, fisher, mask), quadratic(weight, matrix, lost)[1])


def test_compensation_alone_is_the_sum_of_single_moves():
    weight, fisher, matrix = drawn()
    mask = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1]).bool()
    wanted = weight.clone()
    for i in (~mask).nonzero().reshape(-1).tolist():
        wanted += quadratic(weight, matrix, [i])[1] - weight
    torch.testing.assert_close(compensated(weight, fisher, mask, jointly=False), wanted * mask)


@pytest.mark.parametrize("seed", range(4))
def test_chained_scores_are_losses_along_the_greedy_removals_of_each_block(seed):
    weight, fisher, matrix = drawn(seed=seed)
    wanted = torch.zeros_like(weight)
    for block in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]):
        lost = []
        while len(lost) < len(block):
            costs = {i: quadratic(weight, matrix, [*lost, i])[0] for i in block if i not in lost}
            lost.append(min(costs, key=lambda i: costs[i]))
            wanted[lost[-1]] = costs[lost[-1]]
    torch.testing.assert_close(chained_saliency(weight, fisher), wanted)


def test_weights_that_are_gone_already_cost_nothing_and_leave_the_matrix():
    weight, _, _ = drawn()
    mask = torch.arange(11) % 3 != 0
    slopes = torch.randn(7, 11).double() * mask
    fisher = BlockFisher(11, count=7, block=11, damp=DAMP)
    for slope in slopes:
        fisher.add(slope)
    scores = chained_saliency(weight * mask, fisher, mask)
    assert not scores[~mask].any()
    small = BlockFisher(int(mask.sum()), count=7, block=11, damp=DAMP)
    for slope in slopes:
        small.add(slope[mask])
    torch.testing.assert_close(scores[mask], chained_saliency(weight[mask], small))


def test_the_score_of_objectives_is_that_of_their_gradients():
    torch.manual_seed(1)
    params = {"a": torch.randn(3, 2).double(), "b": torch.randn(4).double()}
    slopes = [{name: torch.randn_like(p) for name, p in params.items()} for _ in range(5)]
    objectives = [
        lambda weights, g=g: torch.stack([(g[n] * w).sum() for n, w in weights.items()]).sum() for g in slopes
    ]
    found = fishers(slopes, params, count=5, block=3, damp=DAMP)
    scores = obert(objectives, params, block=3, damp=DAMP)
    for name, weight in params.items():
        torch.testing.assert_close(scores[name], saliency(weight, found[name]))


def test_impossible_matrices_are_refused():
    with pytest.raises(ValueError, match="all must be above 0"):
        BlockFisher(4, count=2, damp=0.0)
