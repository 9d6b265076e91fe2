"""NTDH's feature mask: joint training, then the salience of each input feature."""

from distill.feature_mask.feature_mask import FeatureMask

__all__ = ["FeatureMask"]
