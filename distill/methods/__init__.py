"""The methods of the papers, one file each."""

from distill.methods.arfd import ARFD
from distill.methods.combined import Combined
from distill.methods.cwd import CWD
from distill.methods.dkd import DKD
from distill.methods.dwld import DWLD
from distill.methods.dwld import DynamicWeightController as DynamicWeightController
from distill.methods.kd import KD
from distill.methods.lix import LIX
from distill.methods.ntdh import NTDH
from distill.methods.pssm import PSSM

__all__ = ["ARFD", "CWD", "DKD", "DWLD", "KD", "LIX", "NTDH", "PSSM", "Combined"]
