"""Paired-modality data modules: every batch holds two or more views of the same samples, by name."""

from datamodules.augmentation import PairedAugmentation
from datamodules.base import PairedDataModule
from datamodules.cityscapes import Cityscapes
from datamodules.driving_scenes import DrivingScenes
from datamodules.frames import FrameDataModule
from datamodules.gaussian_pair import GaussianPair
from datamodules.kitti_depth import KITTIDepth
from datamodules.kitti_semantics import KITTISemantics
from datamodules.masked_features import MaskedFeatures
from datamodules.missing_modality_mri import MissingModalityMRI
from datamodules.mnistm import MNISTM
from datamodules.mri_phantom import MRIPhantom
from datamodules.noisy_pair import NoisyPair
from datamodules.nyu_depth import NYUDepthV2
from datamodules.radar_optical import RadarOptical
from datamodules.ravdess import RAVDESS
from datamodules.reading.frame import Camera, Frame
from datamodules.semantic_kitti import SemanticKITTI
from datamodules.serving.datasets import Splits, TensorPairs
from datamodules.sklearn_pair import SklearnPair
from datamodules.virtual_kitti2 import VirtualKITTI2
from distill.outputs import Batch

__all__ = [
    "MNISTM",
    "RAVDESS",
    "Batch",
    "Camera",
    "Cityscapes",
    "DrivingScenes",
    "Frame",
    "FrameDataModule",
    "GaussianPair",
    "KITTIDepth",
    "KITTISemantics",
    "MRIPhantom",
    "MaskedFeatures",
    "MissingModalityMRI",
    "NYUDepthV2",
    "NoisyPair",
    "PairedAugmentation",
    "PairedDataModule",
    "RadarOptical",
    "SemanticKITTI",
    "SklearnPair",
    "Splits",
    "TensorPairs",
    "VirtualKITTI2",
]
