"""The networks of the distillation literature for images of about 32 x 32, in the forms in which CRD released them."""

from distill.models.cifar.mobilenet_v2 import MobileNetV2
from distill.models.cifar.resnet import CifarResNet, ResNet8x4, ResNet20, ResNet32x4, ResNet56, ResNet110
from distill.models.cifar.shufflenet_v1 import ShuffleNetV1
from distill.models.cifar.shufflenet_v2 import ShuffleNetV2
from distill.models.cifar.vgg import VGG8, VGG13, CifarVGG
from distill.models.cifar.wide_resnet import WideResNet, WRN16x2, WRN40x2

__all__ = [
    "VGG8",
    "VGG13",
    "CifarResNet",
    "CifarVGG",
    "MobileNetV2",
    "ResNet8x4",
    "ResNet20",
    "ResNet32x4",
    "ResNet56",
    "ResNet110",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "WRN16x2",
    "WRN40x2",
    "WideResNet",
]
