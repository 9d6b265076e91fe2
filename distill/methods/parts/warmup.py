"""The share of a loss that counts in the first epochs."""

from __future__ import annotations

from distill.distributed import is_held_out


def warmup_share(epoch: int, warmup_epochs: int) -> float:
    """The share of its weight that a loss has in an epoch: it grows linearly and is 1 from ``warmup_epochs`` on.

    For a held-out batch it is 1, so that the losses of a validation can be compared over the epochs.

    Args:
        epoch: The epoch, from 0.
        warmup_epochs: How many epochs the growth takes; with 0 the share is always 1.
    """
    return 1.0 if is_held_out() else min((epoch + 1) / max(warmup_epochs, 1), 1.0)
