from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules import MRIPhantom
from datamodules.scenes.brain import ENHANCING, NECROTIC, OEDEMA, Phantom, draw_phantom


@pytest.fixture(scope="module")
def heads() -> list[Phantom]:
    return [draw_phantom((0, 0, number), 24, 0.0) for number in range(20)]


def mean_in(heads: list[Phantom], sequence: str, label: int) -> float:
    return float(np.mean(np.concatenate([head.sequences[sequence][head.target == label] for head in heads])))


def test_each_sequence_shows_the_tumour_as_in_mri(heads: list[Phantom]) -> None:
    def healthy(sequence: str) -> float:
        parts = [head.sequences[sequence][(head.target == 0) & (head.sequences["t1n"] > 0)] for head in heads]
        return float(np.mean(np.concatenate(parts)))

    assert mean_in(heads, "t1c", ENHANCING) > 1.2 * max(healthy("t1c"), mean_in(heads, "t1c", OEDEMA))
    for sequence in ("t1n", "t2w", "t2f"):  # the rim is not the brightest part elsewhere
        others = [mean_in(heads, sequence, label) for label in (OEDEMA, NECROTIC)]
        assert mean_in(heads, sequence, ENHANCING) < max(*others, healthy(sequence))
    for sequence in ("t2w", "t2f"):
        assert mean_in(heads, sequence, OEDEMA) > 1.3 * healthy(sequence)
    assert abs(mean_in(heads, "t1n", OEDEMA) / healthy("t1n") - 1) < 0.15  # T1 shows oedema weakly


def test_the_rim_encloses_the_core_and_oedema_the_rim(heads: list[Phantom]) -> None:
    def touches(target: NDArray[np.uint8], label: int) -> set[int]:
        part = target == label
        near = np.zeros_like(part)
        for axis in range(3):
            for step in (-1, 1):
                near |= np.roll(part, step, axis)
        return {*np.unique(target[near & ~part]).tolist()}

    enclosed = [head.target for head in heads if (head.target == ENHANCING).any() and (head.target == NECROTIC).any()]
    assert len(enclosed) > 10
    assert sum(touches(target, NECROTIC) <= {ENHANCING, OEDEMA} for target in enclosed) > len(enclosed) // 2
    assert all(ENHANCING in touches(target, NECROTIC) for target in enclosed)
    assert all(OEDEMA in touches(target, ENHANCING) for target in enclosed)


def test_every_head_has_a_tumour_and_some_do_not_enhance(heads: list[Phantom]) -> None:
    assert all((head.target > 0).any() for head in heads)
    without = sum(not (head.target == ENHANCING).any() for head in heads)
    assert 0 < without < len(heads) // 2


def test_seed_split_and_number_fix_a_head_and_no_head_is_in_two_splits() -> None:
    def samples(seed: int, n_train: int) -> list[torch.Tensor]:
        module = MRIPhantom(n_train=n_train, n_val=2, n_test=2, size=8, seed=seed)
        module.setup()
        return [next(iter(loader))["t2f"] for loader in (module.val_dataloader(), module.test_dataloader())]

    first, again, other = samples(0, 1), samples(0, 3), samples(1, 1)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(*first)


def test_batches_are_those_of_the_data_on_disk() -> None:
    module = MRIPhantom(n_train=3, n_val=1, n_test=1, size=8, batch_size=3)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        **dict.fromkeys(module.modalities, (3, 1, 8, 8, 8)),
        "target": (3, 8, 8, 8),
        "index": (3,),
    }
    for name in module.modalities:
        for volume in batch[name]:
            brain = volume[volume != 0]
            assert brain.mean().item() == pytest.approx(0, abs=1e-5)
            assert brain.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert module.fixed_modalities == module.modalities
