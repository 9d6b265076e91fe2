"""The methods of the papers, one file each."""

from distill.methods.combined import Combined
from distill.methods.dkd import DKD
from distill.methods.kd import KD
from distill.methods.ntdh import NTDH
from distill.methods.pssm import PSSM

__all__ = ["DKD", "KD", "NTDH", "PSSM", "Combined"]
