"""The methods of the papers, one file each."""

from distill.methods.arfd import ARFD
from distill.methods.at import AT
from distill.methods.combined import Combined
from distill.methods.cwd import CWD
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
from distill.methods.pssm import PSSM
from distill.methods.res_kd import ResKD
from distill.methods.semckd import SemCKD
from distill.methods.tie_kd import TIEKD
from distill.methods.vid import VID

__all__ = [
    "ARFD",
    "AT",
    "CWD",
    "DKD",
    "DWLD",
    "FSP",
    "FT",
    "KD",
    "LIX",
    "NST",
    "NTDH",
    "PSSM",
    "TIEKD",
    "VID",
    "Combined",
    "FitNet",
    "ResKD",
    "SemCKD",
]
