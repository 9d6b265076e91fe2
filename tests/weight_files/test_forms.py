"""The forms in which others save weights: which part of a file is taken, and what is said about it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch
from torch import Tensor, nn

from distill import Supervised, Weights
from distill.checkpoint import load_network, load_weights
from tests.test_checkpoint import Payload, assert_equal_weights
from tests.toys import Net, make

State = dict[str, Tensor]

OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
LIGHTNING = {"pytorch-lightning_version": "2.6.0", "epoch": 3, "global_step": 40, "optimizer_states": [OPTIMIZER]}
OTHERS = {"criterion.weight": torch.ones(4), "accuracy.total": torch.ones(()), "head.weight": torch.ones(2, 2)}
ARGS = argparse.Namespace(arch="net", lr=0.1, nested=argparse.Namespace(epochs=3))


def named(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def wrapped(state: State) -> State:
    """As of a network whose first layer alone was compiled."""
    first = next(iter(state)).partition(".")[0]
    return {name.replace(f"{first}.", f"{first}._orig_mod.", 1): value for name, value in state.items()}


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a state_dict": (lambda state: state, ""),
    "a state_dict beside numbers": (lambda state: state | {"epoch": 3}, ""),
    "timm": (
        lambda state: {"state_dict": state, "arch": "net", "epoch": 3, "optimizer": OPTIMIZER, "args": ARGS},
        "took 'state_dict'",
    ),
    "timm, the average": (lambda state: {"state_dict_ema": state, "metric": 0.7}, "took 'state_dict_ema'"),
    "torchvision": (
        lambda state: {"model": state, "optimizer": OPTIMIZER, "lr_scheduler": {"last_epoch": 3}, "args": ARGS},
        "took 'model'",
    ),
    "torchvision, the average": (
        lambda state: {"model_ema": {"n_averaged": torch.tensor(3), **named(state, "module.")}},
        "took 'model_ema', left off the prefix 'module.'",
    ),
    "a tutorial of torch": (
        lambda state: {"model_state_dict": state, "optimizer_state_dict": OPTIMIZER, "loss": torch.ones(())},
        "took 'model_state_dict'",
    ),
    "DDP": (lambda state: named(state, "module."), "left off the prefix 'module.'"),
    "torch.compile": (lambda state: named(state, "_orig_mod."), "left off '_orig_mod.'"),
    "a compiled layer": (wrapped, "left off '_orig_mod.'"),
    "DDP of torch.compile": (
        lambda state: {"state_dict": named(state, "module._orig_mod.")},
        "took 'state_dict', left off the prefix 'module.' and '_orig_mod.'",
    ),
    "torch.compile of DDP": (
        lambda state: {"model": named(state, "_orig_mod.module.")},
        "took 'model', left off the prefix 'module.' and '_orig_mod.'",
    ),
    "keys in keys": (
        lambda state: {"checkpoint": {"ema": {"state_dict": named(state, "module.")}}},
        "took 'checkpoint.ema.state_dict', left off the prefix 'module.'",
    ),
    "a LightningModule": (
        lambda state: LIGHTNING | {"state_dict": named(state, "model.") | OTHERS},
        "took 'state_dict', left off the prefix 'model.'",
    ),
    "a compiled part of a LightningModule": (
        lambda state: LIGHTNING | {"state_dict": named(state, "net.backbone._orig_mod.") | OTHERS},
        "took 'state_dict', left off the prefix 'net.backbone.' and '_orig_mod.'",
    ),
    "a LightningModule that is the network": (lambda state: LIGHTNING | {"state_dict": state}, "took 'state_dict'"),
    "a network under two names": (
        lambda state: LIGHTNING | {"state_dict": named(state, "net.") | named(state, "compiled._orig_mod.")},
        "took 'state_dict', left off the prefix 'net.' and '_orig_mod.'",
    ),
    "Hugging Face, with a head beside the base model": (
        lambda state: named(state, "bert.") | {"classifier.weight": torch.ones(2, 2)},
        "left off the prefix 'bert.'",
    ),
    "a tuple": (lambda state: (state, {"epoch": 3}), "took '0'"),
    "before num_batches_tracked": (
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        "",
    ),
    "this library": (lambda state: LIGHTNING | {"state_dict": named(state, "network.") | OTHERS}, ""),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small": lambda: Net(4),
    "timm": lambda: timm.create_model("test_efficientnet", num_classes=4),
}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("distill.checkpoint.rank_zero_info", lines.append)
    return lines


@pytest.fixture(scope="module")
def originals() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: make_network() for name, make_network in NETWORKS.items()}


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_every_form_is_loaded_by_teacher_and_student_and_one_line_says_what_was_unwrapped(
    role: Literal["teacher", "student"],
    network: str,
    form: str,
    originals: dict[str, nn.Module],
    said: list[str],
    tmp_path: Path,
) -> None:
    make_content, line = FORMS[form]
    path = saved(tmp_path, make_content(dict(originals[network].state_dict())))
    module = make("KD", **{role: NETWORKS[network](), f"{role}_checkpoint": path})
    assert_equal_weights(getattr(module, role), originals[network])
    assert said == ([f"{path}: {line}"] if line else [])


def test_supervised_starts_from_weights(originals: dict[str, nn.Module], said: list[str], tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": originals["small"].state_dict()})
    module = Supervised(Net(4), network_checkpoint=path)
    assert module.network is not None
    assert_equal_weights(module.network, originals["small"])
    assert said == [f"{path}: took 'model'"]


def test_what_a_wrapper_puts_before_all_names_of_a_network_is_put_before_those_of_the_file(
    originals: dict[str, nn.Module], said: list[str], tmp_path: Path
) -> None:
    wrapper = nn.ModuleDict({"network": Net(4)})
    path = saved(tmp_path, named(dict(originals["small"].state_dict()), "module."))
    load_network(wrapper, path)
    assert_equal_weights(wrapper["network"], originals["small"])
    assert said == [f"{path}: left off the prefix 'module.', put 'network.' before the names"]


@pytest.mark.parametrize("form", FORMS)
def test_code_in_any_form_is_refused_and_does_not_run(form: str, tmp_path: Path) -> None:
    content = FORMS[form][0](dict(Net(4).state_dict()))
    payload = {"args": Payload(tmp_path / "trace")}
    path = saved(tmp_path, content | payload if isinstance(content, dict) else (*content, payload))
    with pytest.raises(ValueError, match=r"loading anything else could run its code \(it names (posix|nt)\.mkdir\)"):
        load_network(Net(4), path)
    assert not (tmp_path / "trace").exists()


def test_a_class_beside_the_weights_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": Net(4).state_dict(), "args": argparse.Namespace(data=tmp_path)})
    sentence = (
        r"it names pathlib\.\w+\): where you trust it, load it .*, and save its state_dict with torch\.save or as"
    )
    with pytest.raises(ValueError, match=sentence):
        load_network(Net(4), path)


def trained(seed: int) -> State:
    torch.manual_seed(seed)
    return dict(Net(4).state_dict())


ONE, TWO = trained(1), trained(2)
AMBIGUOUS: dict[str, tuple[Any, str, dict[str, str]]] = {
    "timm with an average": (
        {"state_dict": ONE, "state_dict_ema": TWO},
        "'state_dict' and 'state_dict_ema': give key with the path, as in {path: PATH, key: state_dict}",
        {"key": "state_dict_ema"},
    ),
    "torchvision with an average": (
        {"model": ONE, "model_ema": named(TWO, "module.") | {"n_averaged": torch.tensor(3)}},
        "'model' and 'model_ema' with the prefix 'module.': give key",
        {"key": "model_ema"},
    ),
    "a LightningModule with two networks": (
        LIGHTNING | {"state_dict": named(ONE, "net.") | named(TWO, "ema.")},
        "and 'state_dict' with the prefix 'ema.': give prefix with the path, as in {path: PATH, prefix: net.}",
        {"prefix": "ema."},
    ),
    "both": ({"a": named(ONE, "net.") | named(TWO, "ema.")}, "give prefix", {"key": "a", "prefix": "ema"}),
    "one in the other": (
        {"state_dict": named(ONE, "net.") | named(TWO, "net.ema._orig_mod.")},
        "'state_dict' with the prefix 'net.ema.'",
        {"prefix": "net.ema._orig_mod."},
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_several_parts_that_fit_are_refused_by_name_and_an_option_chooses(case: str, tmp_path: Path) -> None:
    content, sentence, options = AMBIGUOUS[case]
    path = saved(tmp_path, content)
    network = Net(4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    if case != "one in the other":
        with pytest.raises(ValueError, match="holds weights of Net in 2 places") as refusal:
            make("KD", student=network, student_checkpoint=path)
        assert str(refusal.value).startswith(f"the student_checkpoint {path} holds")
        assert sentence.replace("PATH", str(path)) in str(refusal.value)
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    load_network(network, Weights(path, **options))
    assert all(torch.equal(TWO[name], value) for name, value in network.state_dict().items())


def test_the_network_of_this_library_comes_before_another_beside_it_and_that_is_said(
    said: list[str], tmp_path: Path
) -> None:
    path = saved(tmp_path, LIGHTNING | {"state_dict": named(TWO, "average.") | named(ONE, "network.")})
    network = Net(4)
    load_network(network, path)
    assert all(torch.equal(ONE[name], value) for name, value in network.state_dict().items())
    assert said == [f"{path}: took 'state_dict', left off the prefix 'network.'"]


LACKS = {name: value for name, value in ONE.items() if name != "head.bias"}
REFUSED: dict[str, tuple[Any, dict[str, str], str]] = {
    "a name that is missing": (
        {"model": named(LACKS, "module."), "epoch": 3},
        {},
        "PATH ('model' with the prefix 'module.') does not fit Net: it lacks 'head.bias'; the file holds 'model' (8 ",
    ),
    "another network": (
        {"epoch": 3, "model": {"stem.weight": torch.ones(1)}},
        {},
        "and has the unexpected 'stem.weight'; the file holds 'model' (1 tensor, first 'stem.weight') and 'epoch'",
    ),
    "another shape": (
        {"state_dict": Net(5).state_dict()},
        {},
        "PATH ('state_dict') does not fit Net: first.weight has shape (6, 5) in the file and (6, 4) in the network",
    ),
    "more beside a network without a prefix": (
        LIGHTNING | {"state_dict": ONE | {"criterion.weight": torch.ones(4)}},
        {},
        "PATH ('state_dict') does not fit Net: it has the unexpected 'criterion.weight'; the file holds 'state_dict'",
    ),
    "no weights": (
        {"epoch": 3, "config": {"lr": 0.1}},
        {},
        "PATH holds neither a state_dict nor a Lightning checkpoint: it holds 'epoch' and 'config'",
    ),
    "a list": ([torch.ones(1)], {}, "it holds a list"),
    "an unknown key": (
        {"model": ONE, "epoch": 3},
        {"key": "modl"},
        "PATH has no 'modl': it holds 'model' (9 tensors, first 'first.weight') and 'epoch'",
    ),
    "a key without tensors": ({"model": ONE, "epoch": 3}, {"key": "epoch"}, "PATH has no tensors in 'epoch': it holds"),
    "an unknown prefix": (
        {"state_dict": named(ONE, "net.") | named(TWO, "ema.")},
        {"prefix": "model."},
        "PATH has no names of weights that start with the prefix 'model.': they start with 'net.' and 'ema.'",
    ),
    "a prefix of something else": (
        {"state_dict": named(ONE, "net.") | {"ema.first.weight": torch.ones(1)}},
        {"prefix": "ema."},
        "PATH ('state_dict' with the prefix 'ema.') does not fit Net: it lacks 'first.bias' and 7 more",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_the_file_holds(case: str, tmp_path: Path) -> None:
    content, options, sentence = REFUSED[case]
    path = saved(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(sentence.replace("PATH", str(path)))) as refusal:
        load_network(Net(4), Weights(path, **options))
    assert "\n" not in str(refusal.value)


def test_weights_without_a_meaning_are_refused_in_another_form(tmp_path: Path) -> None:
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "has no meaning without its scale": lambda value: value.to(torch.int8),
        "holds complex numbers in": lambda value: value * 1j,
        "holds zeros only": torch.zeros_like,
        "holds NaN in 'first.weight'": lambda value: value.float() * torch.nan,
        "holds 'first.weight' as a sparse tensor": lambda value: value.to_sparse(),
        "holds 'first.weight' without values": lambda value: value.to("meta"),
    }
    for sentence, change in changes.items():
        path = saved(tmp_path, {"model": {f"module.{name}": change(value) for name, value in ONE.items()}})
        with pytest.raises(ValueError, match=sentence):
            load_network(Net(4), path)


def test_an_empty_key_and_prefix_mean_the_file_itself(tmp_path: Path) -> None:
    network = Net(4)
    load_network(network, Weights(saved(tmp_path, TWO | {"model": ONE}), key="", prefix=""))
    assert all(torch.equal(TWO[name], value) for name, value in network.state_dict().items())


def test_the_classes_of_a_file_of_another_form_are_known(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": ONE, "class_names": ["cat", "dog"]})
    assert load_network(Net(4), path) == ("cat", "dog")


def test_without_a_network_key_and_prefix_say_what_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path, {"ema": named(ONE, "net.") | OTHERS})
    assert load_weights(Weights(path, key="ema", prefix="net.")).keys() == ONE.keys()


@pytest.mark.parametrize("options", [{"prefix": "net"}, {"prefix": "net."}, {"key": "state_dict", "prefix": "net"}])
def test_without_a_network_a_prefix_means_what_it_means_with_one(options: dict[str, str], tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": named(wrapped(ONE), "net.") | {"network.bias": torch.ones(1)}, "epoch": 3})
    read = load_weights(Weights(path, **options))
    assert read.keys() == ONE.keys()
    assert all(torch.equal(ONE[name], value) for name, value in read.items())


def test_without_a_network_several_tables_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": named(ONE, "net."), "b": named(TWO, "net.")})
    with pytest.raises(ValueError, match=r"holds weights in 2 places, 'a' and 'b': give key with the path"):
        load_weights(Weights(path, prefix="net"))
