"""Patterns: constraints on where zeros may lie, independent of the method.

A method scores single weights and counts in weights; a pattern says which weights are active or zero together (a unit),
or how many of a group stay. The score of a unit is the sum over its members. All patterns answer the same questions:

``refuse(shapes, density)``            is the request contradictory? ``budget(shapes, densities)``          how many
weights, as near as the pattern can express? ``keep(scores, budget)``               which masks use this budget?
``prune(mask, score, count)``          which active weights stay? ``grow(mask, score, count)``           which inactive
weights become active? ``holds(mask)``                        does a mask obey the pattern?
"""

from sparsebench.patterns.base import Pattern, Unstructured
from sparsebench.patterns.blocks import Blocks
from sparsebench.patterns.channels import Channels
from sparsebench.patterns.groups import FanIn, NofM

__all__ = ["Blocks", "Channels", "FanIn", "NofM", "Pattern", "Unstructured"]
