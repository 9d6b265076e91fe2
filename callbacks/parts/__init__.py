"""What the callbacks share: figures, sums over an epoch, and the base of those that evaluate."""
