from __future__ import annotations

import numpy as np
import pytest

from datamodules.serving.splitting import (
    check_disjoint,
    check_groups,
    held_out_groups,
    split_by_shares,
    stratified_order,
    stratified_splits,
)

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


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (200, (7, 3), [140, 60]),
        (10, (7, 3), [7, 3]),
        (1500, (6, 1, 3), [900, 150, 450]),
        (11, (6, 1, 3), [6, 1, 4]),
    ],
)
def test_parts_have_their_shares_cover_all_and_share_nothing(
    count: int, shares: tuple[int, ...], sizes: list[int]
) -> None:
    parts = split_by_shares(range(count), shares, seed=3)
    assert [len(part) for part in parts] == sizes
    assert sorted(item for part in parts for item in part) == list(range(count))
    assert all(part == sorted(part) for part in parts)


def test_the_seed_decides_who_goes_where() -> None:
    splits = [split_by_shares(range(200), (7, 3), seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    # of 60 drawn out of 200, 18 are expected in both
    assert 6 < len(set(splits[0][1]) & set(splits[2][1])) < 32


def test_a_count_draws_from_all_and_leaves_the_rest_out() -> None:
    parts = split_by_shares(range(1000), (6, 1, 3), seed=0, count=100)
    assert [len(part) for part in parts] == [60, 10, 30]
    drawn = {item for part in parts for item in part}
    assert len(drawn) == 100
    assert min(drawn) < 100
    assert max(drawn) >= 900


def test_too_few_to_draw_or_to_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1500 images cannot be drawn from the 10 there are; None takes all"):
        split_by_shares(range(10), (6, 1, 3), seed=0, count=1500)
    with pytest.raises(ValueError, match=r"^a split 6:1:3 leaves a part empty: there are too few images, 4$"):
        split_by_shares(range(4), (6, 1, 3), seed=0)
    with pytest.raises(ValueError, match=r"^a split 6:1:3 leaves a part empty: there are too few images, 4$"):
        split_by_shares(range(100), (6, 1, 3), seed=0, count=4)


def test_held_out_groups_depend_on_the_seed_and_not_on_the_order_of_the_groups() -> None:
    names = [f"drive {number}" for number in range(20)]
    held_out = held_out_groups(names, 5, 0, "val_drives", "training drives")
    assert len(held_out) == 5
    assert held_out < set(names)
    assert held_out == held_out_groups(reversed(names), 5, 0, "val_drives", "training drives")
    assert held_out != held_out_groups(names, 5, 1, "val_drives", "training drives")
    assert held_out_groups(names, 0, 0, "val_drives", "training drives") == set()


def test_some_group_is_left_to_train_on() -> None:
    with pytest.raises(ValueError, match=r"^val_drives 2 must be less than the 2 training drives, or none is left to"):
        held_out_groups(("a", "b"), 2, 0, "val_drives", "training drives")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([], r"val_actors must be one or more different actors, got \[\]"),
        ([3, 3], r"val_actors must be one or more different actors, got \[3, 3\]"),
        ([3, 25], r"val_actors must lie in \[1, 24\], got 25"),
        ([0], r"val_actors must lie in \[1, 24\], got 0"),
    ],
)
def test_groups_are_different_numbers_in_their_range(numbers: list[int], message: str) -> None:
    check_groups("val_actors", [1, 24], "actors", 1, 24)
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_groups("val_actors", numbers, "actors", 1, 24)


def test_the_first_group_in_both_splits_is_named() -> None:
    check_disjoint("actor", val_actors=[1, 2], test_actors=[3])
    with pytest.raises(ValueError, match=r"^actor 2 is in val_actors and in test_actors$"):
        check_disjoint("actor", val_actors=[1, 5, 2], test_actors=[5, 2])
