"""Networks of the papers that no library ships, and duplex ones on the libraries that do."""

from distill.models.duplex_unet import DuplexUNet
from distill.models.mfnet import MFNet
from distill.models.mlp import MLP
from distill.models.off_net import OFFNet
from distill.models.sne_roadseg import SNERoadSeg

__all__ = ["MLP", "DuplexUNet", "MFNet", "OFFNet", "SNERoadSeg"]
