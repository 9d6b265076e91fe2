"""Paired-modality data modules: every batch holds two or more views of the same samples, by name."""

from datamodules.base import Batch, PairedDataModule, Splits, TensorPairs
from datamodules.gaussian_pair import GaussianPair
from datamodules.mnistm import MNISTM
from datamodules.sklearn_pair import SklearnPair

__all__ = ["MNISTM", "Batch", "GaussianPair", "PairedDataModule", "SklearnPair", "Splits", "TensorPairs"]
