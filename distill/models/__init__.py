"""Networks of the papers that no library has, and duplex networks built on libraries."""

from distill.models.adabins import AdaBins
from distill.models.aic_net import AICNet
from distill.models.bts import BTS
from distill.models.cifar import (
    VGG8,
    VGG13,
    MobileNetV2,
    ResNet8x4,
    ResNet20,
    ResNet32x4,
    ResNet56,
    ResNet110,
    ShuffleNetV1,
    ShuffleNetV2,
    WRN16x2,
    WRN40x2,
)
from distill.models.depth_unet import DepthUNet
from distill.models.duplex_unet import DuplexUNet
from distill.models.early_fusion import EarlyFusion
from distill.models.emotion_net import EmotionNet
from distill.models.flip_averaged import FlipAveraged
from distill.models.hugging_face import HuggingFaceDepth
from distill.models.mfnet import MFNet
from distill.models.mlp import MLP
from distill.models.off_net import OFFNet
from distill.models.pmf import PMF, CameraStream, LidarStream
from distill.models.sne_roadseg import SNERoadSeg
from distill.models.stored_teacher import StoredTeacher
from distill.models.unet3d import UNet3d

__all__ = [
    "BTS",
    "MLP",
    "PMF",
    "VGG8",
    "VGG13",
    "AICNet",
    "AdaBins",
    "CameraStream",
    "DepthUNet",
    "DuplexUNet",
    "EarlyFusion",
    "EmotionNet",
    "FlipAveraged",
    "HuggingFaceDepth",
    "LidarStream",
    "MFNet",
    "MobileNetV2",
    "OFFNet",
    "ResNet8x4",
    "ResNet20",
    "ResNet32x4",
    "ResNet56",
    "ResNet110",
    "SNERoadSeg",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "StoredTeacher",
    "UNet3d",
    "WRN16x2",
    "WRN40x2",
]
