"""Networks of the papers that no library ships."""

from distill.models.mlp import MLP

__all__ = ["MLP"]
