"""Distillation losses: pure functions of tensors."""

from distill.losses.dkd import decoupled_kd_terms, dkd_loss
from distill.losses.kd import kd_loss

__all__ = ["decoupled_kd_terms", "dkd_loss", "kd_loss"]
