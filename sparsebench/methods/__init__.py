"""What differs from dense training: one family per file."""

from sparsebench.methods.alternating import ACDC
from sparsebench.methods.base import Clock, Masked, Method, Probe
from sparsebench.methods.bregman import Bregman, MultilevelBregman, Proximal
from sparsebench.methods.dynamic import DSTEE, SET, RandomUnfired, RigL
from sparsebench.methods.given import Given
from sparsebench.methods.gradual import GMP, OneShot
from sparsebench.methods.granet import GraNet
from sparsebench.methods.initial import SNIP, GraSP, MagnitudeInit, Random, SynFlow
from sparsebench.methods.mest import MEST, SoftMEST
from sparsebench.methods.narrow import narrowed
from sparsebench.methods.probabilistic import VRPGE, ProbMask
from sparsebench.methods.redistribution import DSR, SNFS
from sparsebench.methods.reparameterised import SRSTE, STR
from sparsebench.methods.rewiring import DeepR
from sparsebench.methods.srigl import SRigL
from sparsebench.methods.static import Dense, Static
from sparsebench.methods.topkast import TopKAST
from sparsebench.methods.topology import CHT

__all__ = [
    "ACDC",
    "CHT",
    "DSR",
    "DSTEE",
    "GMP",
    "MEST",
    "SET",
    "SNFS",
    "SNIP",
    "SRSTE",
    "STR",
    "VRPGE",
    "Bregman",
    "Clock",
    "DeepR",
    "Dense",
    "Given",
    "GraNet",
    "GraSP",
    "MagnitudeInit",
    "Masked",
    "Method",
    "MultilevelBregman",
    "OneShot",
    "ProbMask",
    "Probe",
    "Proximal",
    "Random",
    "RandomUnfired",
    "RigL",
    "SRigL",
    "SoftMEST",
    "Static",
    "SynFlow",
    "TopKAST",
    "narrowed",
]
