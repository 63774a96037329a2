"""All training methods, one family per file."""

from sparsebench.methods.ac_dc import ACDC
from sparsebench.methods.at_init import SNIP, GraSP, MagnitudeInit, Random
from sparsebench.methods.base import Clock, Masked, Method, Probe
from sparsebench.methods.bregman import Bregman, MultilevelBregman, Proximal
from sparsebench.methods.cht import CHT
from sparsebench.methods.chts import CHTs
from sparsebench.methods.cram import CrAM
from sparsebench.methods.deep_r import DeepR
from sparsebench.methods.dsr import DSR
from sparsebench.methods.dst_ee import DSTEE
from sparsebench.methods.dynamic import SET, RandomUnfired, RigL
from sparsebench.methods.executor import Executor
from sparsebench.methods.given import Given
from sparsebench.methods.gradual import GMP, OneShot
from sparsebench.methods.granet import GraNet
from sparsebench.methods.gse import GSE
from sparsebench.methods.loop import Loop
from sparsebench.methods.mest import MEST, SoftMEST
from sparsebench.methods.powerpropagation import Powerpropagation
from sparsebench.methods.probmask import ProbMask
from sparsebench.methods.redistribution import SNFS
from sparsebench.methods.reparameterised import SRSTE, STR
from sparsebench.methods.spred import PILoT, Spred
from sparsebench.methods.srigl import SRigL
from sparsebench.methods.static import Dense, Static
from sparsebench.methods.synflow import SynFlow
from sparsebench.methods.top_kast import TopKAST
from sparsebench.methods.trainable_thresholds import TrainableThresholds
from sparsebench.methods.vr_pge import VRPGE

__all__ = [
    "ACDC",
    "CHT",
    "DSR",
    "DSTEE",
    "GMP",
    "GSE",
    "MEST",
    "SET",
    "SNFS",
    "SNIP",
    "SRSTE",
    "STR",
    "VRPGE",
    "Bregman",
    "CHTs",
    "Clock",
    "CrAM",
    "DeepR",
    "Dense",
    "Executor",
    "Given",
    "GraNet",
    "GraSP",
    "Loop",
    "MagnitudeInit",
    "Masked",
    "Method",
    "MultilevelBregman",
    "OneShot",
    "PILoT",
    "Powerpropagation",
    "ProbMask",
    "Probe",
    "Proximal",
    "Random",
    "RandomUnfired",
    "RigL",
    "SRigL",
    "SoftMEST",
    "Spred",
    "Static",
    "SynFlow",
    "TopKAST",
    "TrainableThresholds",
]
