from __future__ import annotations

import numpy as np
import pytest

from datamodules.serving.splitting import stratified_order, stratified_splits

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def test_every_beginning_has_the_classes_in_their_shares() -> None:
    order = stratified_order(LABELS, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(100))
    for length in range(1, 101):
        counts = np.bincount(LABELS[order[:length]], minlength=3)
        assert np.abs(counts - length * np.array([0.6, 0.3, 0.1])).max() <= 1


def test_without_a_test_set_a_tenth_and_a_fifth_are_split_off() -> None:
    train, val, test = stratified_splits(LABELS, 0, None, None, np.random.default_rng(0))
    assert (len(train), len(val), len(test)) == (70, 10, 20)
    assert sorted([*train, *val, *test]) == list(range(100))
    assert np.bincount(LABELS[test]).tolist() == [12, 6, 2]


def test_a_test_set_stays_whole_and_in_order() -> None:
    train, val, test = stratified_splits(LABELS, 10, 30, None, np.random.default_rng(0))
    assert test.tolist() == list(range(90, 100))
    assert np.bincount(LABELS[val]).tolist() == [20, 10]
    assert sorted([*train, *val]) == list(range(90))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="val_size 90 must be less than the 90 images there are"):
        stratified_splits(LABELS, 10, 90, None, np.random.default_rng(0))
    with pytest.raises(ValueError, match="test_size 5 cannot be chosen where the data have a test set of their own"):
        stratified_splits(LABELS, 10, None, 5, np.random.default_rng(0))
