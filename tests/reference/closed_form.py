"""Training cost relative to dense training, in closed form: FLOPs of one sample-step over three dense forward passes.

``phi`` is the FLOP density: active over dense FLOPs of one forward pass, averaged over training where the support
moves; it is not the parameter density. The ledger counts the steps really taken and differs from these forms in the
fourth digit, because they spread one dense weight gradient over ``period + 1`` steps and updates may stop early.
"""

from collections.abc import Sequence
from statistics import fmean


def dense() -> float:
    """Return the ratio of dense training."""
    return 1.0


def static(phi: float) -> float:
    """Return the ratio of a fixed or randomly rewired support: pruning at initialisation, SET, MEST.

    Args:
        phi: FLOP density.
    """
    return _share("phi", phi)


def gmp(phis: Sequence[float]) -> float:
    """Return the ratio of gradual magnitude pruning, and of any method that is sparse in all passes: the mean density.

    Args:
        phis: FLOP density at each step, or at equally spaced moments.
    """
    if not phis:
        raise ValueError("no FLOP densities were given: give one for each step")
    return fmean(_share("phi", phi) for phi in phis)


def snfs(phi: float) -> float:
    """Return the ratio where each weight gradient is dense: SNFS, straight-through masks, LinBreg: (2 phi + 1) / 3.

    Args:
        phi: FLOP density, averaged over training.
    """
    return rigl(phi, period=0)


def linbreg(phi: float) -> float:
    """Return the ratio of LinBreg and AdaBreg: inactive duals move too, so that each weight gradient is dense.

    Args:
        phi: FLOP density, averaged over training.
    """
    return multilevel(phi, m=0)


def rigl(phi: float, *, period: int) -> float:
    """Return the ratio of RigL and DST-EE: (3 phi T + 2 phi + 1) / (3 (T + 1)), RigL (arXiv 1911.11134) appendix H.

    Args:
        phi: FLOP density.
        period: T, steps between mask updates.
    """
    if period < 0:
        raise ValueError(f"period {period} is impossible: give the number of sparse steps per dense one, 0 or more")
    phi = _share("phi", phi)
    return (3 * phi * period + 2 * phi + 1) / (3 * (period + 1))


def granet(phis: Sequence[float], *, period: int) -> float:
    """Return the ratio of GraNet: the mean density, and RigL's dense weight gradients at the updates.

    Args:
        phis: FLOP density at each step, or at equally spaced moments.
        period: steps between mask updates.
    """
    return rigl(gmp(phis), period=period)


def multilevel(phi: float, *, m: int) -> float:
    """Return the ratio of multilevel LinBreg, RigL's form: (3 m phi + 2 phi + 1) / (3 (m + 1)).

    Args:
        phi: FLOP density, averaged over training.
        m: coarse steps, with frozen support, per fine step; 0 is LinBreg.
    """
    return rigl(phi, period=m)


def ac_dc(phi: float, *, share_dense: float) -> float:
    """Return the ratio of alternating compressed and decompressed training.

    Args:
        phi: FLOP density of the compressed phases.
        share_dense: share of the steps that are decompressed.
    """
    share_dense = _share("share_dense", share_dense)
    return share_dense + (1 - share_dense) * _share("phi", phi)


def vr_pge(ratio: float, *, backwards: int = 1) -> float:
    """Return the ratio of the variance-reduced policy gradient: two forward passes of sampled networks per step.

    Args:
        ratio: mean FLOP density of the sampled networks.
        backwards: 1 as in the algorithm (4 r / 3), 2 as in the released code (2 r).
    """
    if backwards not in (1, 2):
        raise ValueError(f"backwards = {backwards} is impossible: 1 (the algorithm) or 2 (the released code)")
    return (2 + 2 * backwards) * _share("ratio", ratio) / 3


def prob_mask(*, samples: int = 2) -> float:
    """Return the ratio of ProbMask: a dense forward and backward pass for each sampled mask.

    Args:
        samples: masks sampled per step.
    """
    if samples < 1:
        raise ValueError(f"samples = {samples} is impossible: at least one mask is sampled per step")
    return float(samples)


def imp(phis: Sequence[float]) -> float:
    """Return the ratio of iterative pruning to one dense training: every cycle counts, the first one dense.

    Args:
        phis: FLOP density of each cycle, all cycles of equal length.
    """
    return gmp(phis) * len(phis)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value:g} is impossible: it is a share, between 0 and 1")
    return float(value)
