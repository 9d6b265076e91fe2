"""Distillation losses: pure functions of tensors."""

from distill.losses.arfd import cka, consistency_loss, recalibrate
from distill.losses.cwd import cwd_loss
from distill.losses.dkd import decoupled_kd_terms, dkd_loss
from distill.losses.dwld import dwld_loss, dwld_terms
from distill.losses.kd import kd_loss

__all__ = [
    "cka",
    "consistency_loss",
    "cwd_loss",
    "decoupled_kd_terms",
    "dkd_loss",
    "dwld_loss",
    "dwld_terms",
    "kd_loss",
    "recalibrate",
]
