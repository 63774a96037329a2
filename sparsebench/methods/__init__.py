"""What differs from dense training: one family per file."""

from sparsebench.methods.base import Clock, Masked, Method, Probe
from sparsebench.methods.dynamic import DSTEE, SET, RigL
from sparsebench.methods.gradual import GMP, OneShot
from sparsebench.methods.static import Dense, Static

__all__ = ["DSTEE", "GMP", "SET", "Clock", "Dense", "Masked", "Method", "OneShot", "Probe", "RigL", "Static"]
