"""Distillation losses: pure functions of tensors."""

from distill.losses.adversarial import deception_loss, discriminator_loss
from distill.losses.arfd import cka, consistency_loss, recalibrate
from distill.losses.attention_transfer import at_loss
from distill.losses.binary_kd import binary_kd_loss
from distill.losses.cc import cc_loss
from distill.losses.crd import nce_log_normalizer, nce_loss
from distill.losses.cwd import cwd_loss
from distill.losses.depth import silog_loss, ssim_loss
from distill.losses.dice import dice_loss
from distill.losses.dkd import decoupled_kd_terms, dkd_loss
from distill.losses.dpm import bin_centers, decode_depth, depth_probability_map, dpm_loss
from distill.losses.ds import cross_correlation, dcm_loss, dcm_terms, rbf_log_mean, sem_loss, sem_terms
from distill.losses.dwld import dwld_loss, dwld_terms
from distill.losses.factor import factor_loss
from distill.losses.fsp import fsp_loss, fsp_matrix
from distill.losses.hint import hint_loss
from distill.losses.kd import kd_loss
from distill.losses.lovasz import lovasz_loss
from distill.losses.nst import nst_loss
from distill.losses.pkt import pkt_loss
from distill.losses.rkd import rkd_angle_loss, rkd_distance_loss
from distill.losses.semckd import semckd_loss
from distill.losses.sp import sp_loss
from distill.losses.vid import vid_loss

__all__ = [
    "at_loss",
    "bin_centers",
    "binary_kd_loss",
    "cc_loss",
    "cka",
    "consistency_loss",
    "cross_correlation",
    "cwd_loss",
    "dcm_loss",
    "dcm_terms",
    "deception_loss",
    "decode_depth",
    "decoupled_kd_terms",
    "depth_probability_map",
    "dice_loss",
    "discriminator_loss",
    "dkd_loss",
    "dpm_loss",
    "dwld_loss",
    "dwld_terms",
    "factor_loss",
    "fsp_loss",
    "fsp_matrix",
    "hint_loss",
    "kd_loss",
    "lovasz_loss",
    "nce_log_normalizer",
    "nce_loss",
    "nst_loss",
    "pkt_loss",
    "rbf_log_mean",
    "recalibrate",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "sem_loss",
    "sem_terms",
    "semckd_loss",
    "silog_loss",
    "sp_loss",
    "ssim_loss",
    "vid_loss",
]
