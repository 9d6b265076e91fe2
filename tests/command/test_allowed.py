"""What a configuration, which may be a stranger's, can name: objects of known kinds, and no code beside it."""

from __future__ import annotations

import copy
import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, SequentialLR

from distill import Supervised
from distill.allowed import KINDS, check_object, command_of
from distill.cli import main
from distill.command.command_line import fit_parser
from distill.command.errors import ConfigurationError
from distill.command.parser import trusted_modules
from distill.models import MLP
from tests.study.test_study import STUDY, write

STUDENT = "configs/mnistm/dkd_pssm.yaml"


def config_with(part: dict[str, Any], folder: Path) -> list[str]:
    """The arguments that read a recipe and then this part of a configuration."""
    path = folder / "part.yaml"
    path.write_text(yaml.safe_dump(part))
    return ["--config", STUDENT, "--config", str(path)]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def model(**arguments: Any) -> dict[str, Any]:
    return {"model": {"init_args": arguments}}


def called(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def schedule(function: Any) -> dict[str, Any]:
    return model(lr_scheduler=called("torch.optim.lr_scheduler.LambdaLR", lr_lambda=function))


def callbacks(*parts: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": list(parts)}}


COMMAND = {"cmd": "touch sprung"}
WAYS_OUT = {
    "a command as an optimiser": model(optimizer=called("subprocess.getoutput", **COMMAND)),
    "by dict_kwargs": model(optimizer={"class_path": "subprocess.getoutput", "dict_kwargs": COMMAND}),
    "os.system": model(optimizer=called("os.system", command="touch sprung")),
    "where it is defined": model(optimizer=called("posix.system", command="touch sprung")),
    "through a module of this project": model(optimizer=called("distill.atomic.os.system", command="touch sprung")),
    "through torch": model(optimizer=called("torch.serialization.os.system", command="touch sprung")),
    "eval": model(optimizer=called("builtins.eval", source="1")),
    "exec": model(optimizer=called("builtins.exec", source="1")),
    "partial": model(optimizer=called("functools.partial", func="os.system")),
    "Python's own tests": model(optimizer=called("test.support.run_in_subinterp", code="open('sprung', 'w')")),
    "a folder deleted": model(optimizer={"class_path": "test.support.os_helper.rmtree", "init_args": {"path": "."}}),
    "an extension of Python's tests": model(optimizer=called("_testcapi.run_in_subinterp", code="1")),
    "pickle": model(optimizer=called("pickle.load", file="x")),
    "runpy": model(optimizer=called("runpy.run_path", path_name="x.py")),
    "importlib": model(optimizer=called("importlib.import_module", name="x")),
    "torch.hub as an optimiser": model(optimizer=called("torch.hub.load", repo_or_dir=".", model="x", source="local")),
    "torch.hub as a network": model(student=called("torch.hub.load", repo_or_dir=".", model="x", source="local")),
    "torch.load": model(optimizer=called("torch.load", f="x", weights_only=False)),
    "torch.jit.load": model(optimizer=called("torch.jit.load", f="x")),
    "a package of torch": model(optimizer=called("torch.package.PackageImporter", file_or_buffer="x")),
    "a function for a schedule": schedule("os.system"),
    "a call for a schedule": schedule(called("subprocess.getoutput", **COMMAND)),
    "a call in a list": schedule([called("subprocess.getoutput", **COMMAND)]),
    "a function for a callback": callbacks(called("lightning.pytorch.callbacks.LambdaCallback", setup="os.system")),
    "a call as a callback": callbacks(called("subprocess.getoutput", **COMMAND)),
    "a call for a logger": {"trainer": {"logger": called("subprocess.getoutput", **COMMAND)}},
    "a call for data": {"data": called("subprocess.getoutput", **COMMAND)},
    "a function of this project": model(optimizer=called("distill.cli.main", args=["fit"])),
    "a class of this project": schedule(called("distill.command.command_line.CLI", args=["fit"])),
    "a main module": model(optimizer=called("pip.__main__.main")),
    "code of a repository by a text": model(
        student={"class_path": "timm.create_model", "dict_kwargs": {"model_name": "x", "trust_remote_code": "yes"}}
    ),
    "code of a repository": model(
        student={"class_path": "timm.create_model", "dict_kwargs": {"model_name": "x", "trust_remote_code": True}}
    ),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_configuration_refuses_every_way_to_code(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = config_with(WAYS_OUT[way], tmp_path)
    arguments[1] = str(Path(STUDENT).absolute())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"docs/security\.md|would run the code"):
        fit_parser().parse_args(arguments)
    assert not list(tmp_path.rglob("sprung"))


def test_a_checkpoint_is_not_unpickled_by_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = config_with({"weights_only": False, "ckpt_path": "file:///x.ckpt"}, tmp_path)
    assert "weights_only: false would run the code" in error_of(["fit", *arguments], capsys)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_all_commands_refuse_the_same(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of([command, *config_with(WAYS_OUT["a call for a schedule"], tmp_path)], capsys)
    assert "subprocess.getoutput belongs to Python itself and could run any command" in line


@pytest.mark.parametrize("way", ["a command as an optimiser", "a function for a callback", "a call in a list"])
def test_a_study_refuses_the_same(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {"student": STUDY["rows"]["student"], "odd one": WAYS_OUT[way]}
    line = error_of(write(tmp_path, rows=rows, columns={"": {}}, teacher=None), capsys)
    assert line.startswith("error: row 'odd one', column '': ")
    assert "belongs to Python itself and could run any command" in line
    assert not (tmp_path / "sprung").exists()


def test_tags_of_python_objects_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("model: {init_args: {x: !!python/object/apply:os.system [touch sprung]}}")
    line = error_of(["fit", "--config", STUDENT, "--config", str(tmp_path / "x.yaml")], capsys)
    assert "x.yaml: line 1, column 24: could not determine a constructor for the tag" in line


OF_LIBRARIES = {
    "timm": model(student={"class_path": "timm.create_model", "dict_kwargs": {"model_name": "resnet10t"}}),
    "a model of timm": model(student=called("timm.models.resnet.resnet18")),
    "torchvision": model(student=called("torchvision.models.resnet18")),
    "smp": model(student=called("segmentation_models_pytorch.Unet", encoder_name="resnet18")),
    "an activation": model(
        student=called("torch.nn.TransformerEncoderLayer", d_model=4, nhead=1, activation="torch.nn.functional.gelu")
    ),
    "a norm": model(
        student=called("torchvision.models.resnet18") | {"dict_kwargs": {"norm_layer": "torch.nn.Identity"}}
    ),
    "a strategy": {"trainer": {"strategy": called("lightning.pytorch.strategies.DDPStrategy")}},
    "a profiler": {"trainer": {"profiler": called("lightning.pytorch.profilers.SimpleProfiler")}},
    "a plugin": {"trainer": {"plugins": [called("lightning.pytorch.plugins.environments.SLURMEnvironment")]}},
    "a chain": model(
        lr_scheduler=called("torch.optim.lr_scheduler.StepLR", step_size=1),
        optimizer=called("timm.optim.Lamb", lr=0.1),
    ),
    "a network of transformers": model(
        student=called("transformers.ResNetModel", config=called("transformers.ResNetConfig", depths=[1]))
    ),
    "weights of transformers": model(
        student=called("transformers.ResNetModel.from_pretrained", pretrained_model_name_or_path="x/y")
    ),
    "weights of a class that is found out": model(
        student={
            "class_path": "transformers.AutoModel.from_pretrained",
            "dict_kwargs": {"pretrained_model_name_or_path": "x/y"},
        }
    ),
    "weights of smp": model(
        student=called("segmentation_models_pytorch.Unet.from_pretrained", pretrained_model_name_or_path="x/y")
    ),
    "a sequence of schedules": model(lr_scheduler=f"{__name__}.warm_up"),
    "an own function": schedule(f"{__name__}.half"),
    "an own network": model(student=called(f"{__name__}.OwnNetwork")),
    "an own data module": {"data": called("tests.toys.ToyData")},
}


def half(epoch: int) -> float:
    return 0.5**epoch


def warm_up(optimizer: Optimizer) -> SequentialLR:
    return SequentialLR(optimizer, [LinearLR(optimizer), ExponentialLR(optimizer, 0.9)], milestones=[1])


class OwnNetwork(nn.Module):
    """A user's network."""


@pytest.mark.parametrize("case", OF_LIBRARIES)
def test_classes_and_factories_of_libraries_and_own_ones_are_allowed(case: str, tmp_path: Path) -> None:
    fit_parser().parse_args(config_with(OF_LIBRARIES[case], tmp_path))


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("torch.optim.lr_scheduler.SequentialLR", r"name a function .*, \(optimizer: Optimizer\) -> SequentialLR"),
        ("torch.optim.lr_scheduler.ChainedScheduler", r"\(optimizer: Optimizer\) -> ChainedScheduler"),
        ("transformers.get_cosine_schedule_with_warmup", r"choose a class of torch\.optim\.lr_scheduler"),
        ("timm.scheduler.CosineLRScheduler", r"choose a class of torch\.optim\.lr_scheduler"),
        ("transformers.AutoModel.from_config", r"name the class of the network, .* and give its argument config"),
    ],
)
def test_what_no_configuration_can_give_is_refused_with_what_it_can(path: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"{re.escape(path)} .*{advice}"):
        fit_parser().parse_args(config_with(model(lr_scheduler=called(path)), tmp_path))


@pytest.mark.parametrize("value", [torch.float16, nn.ReLU, torch.nn.functional.relu, half, functools.partial(half)])
def test_an_object_of_a_known_kind_is_allowed(value: Any) -> None:
    check_object("a.b", value)


@pytest.mark.parametrize(
    "value", [print, functools.partial(print), Path, Path(), yaml, torch.load, torch.hub.load, main]
)
def test_another_object_is_not(value: Any) -> None:
    with pytest.raises(ValueError, match=r"a\.b is not allowed: no configuration can name a \w+ of this kind"):
        check_object("a.b", value)


def test_every_kind_is_the_path_of_a_class() -> None:
    for path in KINDS:
        module, _, name = path.rpartition(".")
        __import__(module)
        assert vars(sys.modules[module])[name].__module__ == module


BROUGHT = """
from pathlib import Path
Path(__file__).with_name("sprung").touch()
from distill.models import MLP
class Net(MLP): pass
"""


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a module, which Python can import."""
    (tmp_path / "brought.py").write_text(BROUGHT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brought", raising=False)
    return tmp_path


def test_a_module_beside_the_configuration_is_imported_only_if_the_user_names_it(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = config_with(model(student=called("brought.Net", in_features=2352, num_classes=10)), bundle)
    line = error_of(["fit", *arguments], capsys)
    assert f"brought.Net is code that lies with a configuration file in {bundle}" in line
    assert line.endswith("if you trust it, add --trust brought to the command")
    assert not (bundle / "sprung").exists()
    for named in (["--trust", "brought"], ["--trust=brought"], ["--model.student", "brought.Net"]):
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *arguments, *named, "--print_config"])
        assert exit_.value.code == 0
        assert (bundle / "sprung").exists()
        (bundle / "sprung").unlink()
        del sys.modules["brought"]


def test_a_study_imports_no_module_beside_its_file(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = called("brought.Net", in_features=4, num_classes=4)
    rows = {"student": {"model": {"class_path": "distill.Supervised", "init_args": {"network": network}}}}
    line = error_of(write(bundle, rows=rows, columns={"": {}}, teacher=None), capsys)
    assert "add --trust brought to the command" in line
    assert not (bundle / "sprung").exists()


def test_a_module_elsewhere_is_the_users_own(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    arguments = config_with(model(student=called("brought.Net", in_features=2352, num_classes=10)), folder)
    with command_of(()):
        fit_parser().parse_args(arguments)
    assert (bundle / "sprung").exists()


def test_a_module_above_the_configuration_is_imported_only_from_the_working_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "configs/kd").mkdir(parents=True)
    arguments = config_with(
        model(student=called("brought.Net", in_features=2352, num_classes=10)), bundle / "configs/kd"
    )
    arguments[1] = str(Path(STUDENT).absolute())
    monkeypatch.chdir(bundle.parent)
    with command_of(()), pytest.raises(ConfigurationError, match="would run it"):
        fit_parser().parse_args(arguments)
    assert not (bundle / "sprung").exists()
    monkeypatch.chdir(bundle)
    with command_of(()):
        fit_parser().parse_args(arguments)
    assert (bundle / "sprung").exists()


@pytest.mark.parametrize("named", ["", "RECORD", "top_level.txt"])
def test_a_library_in_a_folder_of_the_path_is_no_code_of_the_user(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shelf" + named.partition("_")[0].casefold()
    (tmp_path / f"{name}.py").write_text("def edit(command: str): pass\n")
    description = tmp_path / f"{name}-1.0.dist-info"
    description.mkdir()
    (description / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {'other' if named else name}\nVersion: 1.0\n")
    if named:
        (description / named).write_text(f"{name}.py,,\n" if named == "RECORD" else name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with command_of(()), pytest.raises(ConfigurationError, match=rf"{name}\.edit is not allowed"):
        fit_parser().parse_object(
            model(optimizer=called(f"{name}.edit", command="x")) | {"data": called("datamodules.MNISTM")}
        )


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        (["fit", "--model", "own.method.KD"], {"own"}),
        (["fit", "--model=own.KD", "--config", "other.yaml"], {"own"}),
        (["fit", "--trainer.callbacks+={class_path: own.C, init_args: {}}"], {"own"}),
        (["fit", "--name", "own.v1", "--version=own.v1", "--data.root", "own.v1", "--ckpt_path", "own.ckpt"], set()),
        (["study", "--name", "x", "own.v1", "--base.model.init_args.student", "own.Net"], {"own"}),
        (["fit", "--trainer.callbacks+=own.C", "--data.class_path", "data.Mine"], {"own", "data"}),
        (["fit", "--logs_dir", "/tmp/own.logs", "--model.lr=0.1"], set()),
    ],
)
def test_the_modules_that_the_command_line_names_are_trusted(arguments: list[str], modules: set[str]) -> None:
    kept, named = trusted_modules(arguments)
    assert kept == arguments
    assert named == modules


def test_trust_needs_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--trust takes the name of a module, such as my_method, got ''" in error_of(["fit", "--trust"], capsys)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("command", ["fit", "study", "rank"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "aliases stand for more than 100000 values"),
        ("a: " + "[" * 500 + "]" * 500, "nested more than 100 levels"),
    ],
)
def test_a_file_that_unfolds_without_end_is_refused_at_once(
    command: str, text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    line = error_of([command, "--config", str(tmp_path / "bomb.yaml")], capsys)
    assert "bomb.yaml" in line
    assert sentence in line


def test_a_bomb_in_an_included_file_and_a_bomb_of_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    (tmp_path / "study.yaml").write_text("include: bomb.yaml\n")
    assert "values" in error_of(["study", "--config", str(tmp_path / "study.yaml")], capsys)
    (tmp_path / "0.yaml").write_text("name: x\n")
    for level in range(1, 9):
        (tmp_path / f"{level}.yaml").write_text(f"include: {[f'{level - 1}.yaml'] * 9}\n")
    assert "more than 200 files" in error_of(["study", "--config", str(tmp_path / "8.yaml")], capsys)


def checkpoint_naming(path: Path, **changes: Any) -> Path:
    hyper_parameters = {
        "_class_path": "distill.Supervised",
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        "network": called("distill.models.MLP", in_features=4, num_classes=4),
        "task": called("distill.Classification", num_classes=4),
        **changes,
    }
    weights = {f"network.{name}": value for name, value in MLP(4, 4).state_dict().items()}
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": weights, "hyper_parameters": hyper_parameters}
    torch.save(content, path)
    return path


def test_a_checkpoint_names_no_code_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(Supervised.load_from_checkpoint(checkpoint_naming(tmp_path / "fine.ckpt")), Supervised)
    path = checkpoint_naming(
        tmp_path / "x.ckpt", optimizer=called("subprocess.getoutput", cmd=f"touch {tmp_path}/sprung")
    )
    line = error_of(["test", "--config", "configs/mnistm/teacher.yaml", "--ckpt_path", str(path)], capsys)
    assert "subprocess.getoutput belongs to Python itself" in line
    with pytest.raises(ValueError, match=r"x\.ckpt: subprocess\.getoutput belongs to Python itself"):
        Supervised.load_from_checkpoint(path)
    other = checkpoint_naming(tmp_path / "y.ckpt", _instantiator="os.system")
    with pytest.raises(ValueError, match=r"y\.ckpt names os\.system to be called"):
        Supervised.load_from_checkpoint(other)
    assert not (tmp_path / "sprung").exists()


def test_the_parser_of_another_program_is_left_alone() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--function", type=object)
    parser.add_argument("--kind", type=type)
    assert parser.parse_args(["--kind", "collections.OrderedDict"]).kind is not None
    with pytest.raises(ConfigurationError):
        fit_parser().parse_args(["--config", STUDENT, "--model.optimizer", "collections.OrderedDict"])


def test_the_configuration_that_a_user_gives_is_not_changed() -> None:
    before = copy.deepcopy(WAYS_OUT["a call in a list"])
    with pytest.raises(ConfigurationError):
        fit_parser().parse_object(WAYS_OUT["a call in a list"] | {"data": called("datamodules.MNISTM")})
    assert WAYS_OUT["a call in a list"] == before
