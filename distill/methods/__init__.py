"""The methods of the papers, one file each."""

from distill.methods.afkd import AFKD
from distill.methods.alkd import ALKD
from distill.methods.arfd import ARFD
from distill.methods.at import AT
from distill.methods.cc import CC
from distill.methods.combined import Combined
from distill.methods.crd import CRD
from distill.methods.cwd import CWD
from distill.methods.dimensional_structure import DimensionalStructure
from distill.methods.dkd import DKD
from distill.methods.dwld import DWLD
from distill.methods.dwld import DynamicWeightController as DynamicWeightController
from distill.methods.fitnet import FitNet
from distill.methods.fsp import FSP
from distill.methods.ft import FT
from distill.methods.kd import KD
from distill.methods.lix import LIX
from distill.methods.nst import NST
from distill.methods.ntdh import NTDH
from distill.methods.pkt import PKT
from distill.methods.pssm import PSSM
from distill.methods.res_kd import ResKD
from distill.methods.rkd import RKD
from distill.methods.semckd import SemCKD
from distill.methods.sp import SP
from distill.methods.tie_kd import TIEKD
from distill.methods.two_d_pass import TwoDPASS
from distill.methods.vid import VID

__all__ = [
    "AFKD",
    "ALKD",
    "ARFD",
    "AT",
    "CC",
    "CRD",
    "CWD",
    "DKD",
    "DWLD",
    "FSP",
    "FT",
    "KD",
    "LIX",
    "NST",
    "NTDH",
    "PKT",
    "PSSM",
    "RKD",
    "SP",
    "TIEKD",
    "VID",
    "Combined",
    "DimensionalStructure",
    "FitNet",
    "ResKD",
    "SemCKD",
    "TwoDPASS",
]
