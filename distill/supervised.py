"""A LightningModule that trains one network on hard labels; distillation extends it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.parsing import collect_init_args
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric, MetricCollection

from distill.checkpoint import check_class_names
from distill.distributed import all_gather_objects, mean, rank_part
from distill.errors import UserError, UserKeyError
from distill.outputs import Batch, autocast_off, full_precision, prediction_of
from distill.resume.random_state import rng_states, set_rng_states
from distill.tasks import Task
from distill.training.finite import LossWatch
from distill.training.losses import EpochLosses
from distill.training.optimization import ParameterSettings, parameter_groups, stepped_as_lightning_wants


class Supervised(LightningModule):
    """Trains one network on the labels: a teacher, or the student without distillation.

    ``self(*inputs)`` is the network. Steps return ``prediction`` and ``inputs`` for the callbacks, and ``loss`` in
    training.

    Args:
        network: Any module; called with the modalities in the order of ``inputs``, it returns the prediction as a
            tensor, or as ``logits`` or ``out`` of a mapping (Hugging Face, torchvision).
        task: The hard loss and the metrics.
        inputs: The names of the modalities that the network sees.
        optimizer: Given the trained parameters, makes the optimiser.
        lr_scheduler: Given the optimiser, makes the schedule; stepped each epoch, cyclic ones each step.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        task: Task | None = None,
        inputs: Sequence[str] = (),
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self._save_plain_hyperparameters()
        self.network = network
        self.task = task
        self.inputs = tuple(inputs)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._rng_states: dict[str, Any] | None = None
        self._epoch_losses = EpochLosses()
        self._loss_watch = LossWatch()
        self.scores = nn.ModuleDict()
        self.hard = nn.ModuleDict()
        if task is not None:
            for stage in ("val", "test"):
                self.scores[stage] = task.metrics().clone(prefix=f"{stage}/")
                self.hard[stage] = MeanMetric()

    def forward(self, *inputs: Tensor) -> Tensor:
        """The prediction of the deployed network for the modalities it was trained on."""
        return prediction_of(self._require("network")(*inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The loss of a batch, logged with its parts."""
        loss, parts, seen = self.training_losses(batch)
        self._log_losses(loss, parts, batch)
        return {"loss": loss, **seen}

    def training_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """The loss of a batch, its parts by name, and what the step returns for the callbacks; logs nothing."""
        prediction = self.predict(batch)
        loss = self.hard_loss(prediction, batch)
        return loss, {"hard": loss}, {"prediction": prediction.detach(), "inputs": self._inputs(self.inputs, batch)}

    def on_after_backward(self) -> None:
        """Raises a ValueError where the loss is not finite, before the optimiser takes a step with it."""
        when = f"in epoch {self.current_epoch}, step {self.global_step}"
        self._loss_watch.check(self._require("network"), when=when)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Scores a batch of the validation split."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Scores a batch of the test split."""
        return self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the validation split."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test split."""
        self._log_scores("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The prediction for a batch, with the ``index`` and ``target`` of its samples where the batch has them."""
        known = {key: batch[key] for key in ("index", "target") if key in batch}
        return {"prediction": self.predict(batch)} | known

    def configure_callbacks(self) -> list[Callback]:
        """What hears when an epoch ends and logs its mean losses."""
        return [] if self._epoch_losses in self.trainer.callbacks else [self._epoch_losses]  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        """The optimiser over all trained parameters, and the schedule if one is asked for."""
        return self.optimizer_over(self.parameter_groups())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trained parameters with the settings that some of them have; see :meth:`parameter_settings`."""
        parts = [part for part in self.modules() if isinstance(part, Supervised)]
        return parameter_groups(self.parameters(), chain.from_iterable(part.parameter_settings() for part in parts))

    def optimizer_over(self, groups: list[dict[str, Any]]) -> Any:
        """The optimiser, and the schedule if one is asked for, over these groups of parameters."""
        rates = [group["lr"] for group in groups if "lr" in group]
        optimizer = self._require("optimizer")(groups)
        if self.lr_scheduler is None:
            return optimizer
        schedule = stepped_as_lightning_wants(self.lr_scheduler(optimizer), rates, self._trainer)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """Parameters that the optimiser treats otherwise than it is set to, as ``{"weight_decay": 0.0}``; none here.

        A schedule scales a learning rate given here as it does the optimiser's own; cyclic ones, which would overwrite
        it, are refused.
        """
        return ()

    def setup(self, stage: str) -> None:
        """Runs one small real batch through everything that training will run, before it starts.

        Lazy adaptors find their channel counts here, ahead of the optimiser and of a checkpoint's weights.

        Raises:
            KeyError: The batch lacks a modality, or a network a layer.
            ValueError: Predictions, labels and task do not fit each other.
        """
        for argument in ("network", "task", *(["optimizer"] if stage == "fit" else [])):
            self._require(argument)
        for metric in self.modules():
            if isinstance(metric, Metric):
                metric.reset()  # validate() leaves states made in inference mode, which a fit cannot update
        if stage == "predict":
            return
        self._task.check_network(self._require("network"), model=self._described("network"))
        classes = getattr(self.trainer.datamodule, "num_classes", None)  # type: ignore[attr-defined]
        expected = getattr(self.task, "num_classes", classes)
        if classes is not None and classes != expected:
            data = type(self.trainer.datamodule).__name__  # type: ignore[attr-defined]
            raise UserError(
                f"{data} has {classes} classes, but the task is {type(self.task).__name__}(num_classes={expected})"
            )
        loops: dict[str, Any] = {
            "fit": self.trainer.fit_loop,
            "validate": self.trainer.validate_loop,
            "test": self.trainer.test_loop,
        }
        # Lightning moves the module only after this; collectives and some layers need its device already
        self.to(self.trainer.strategy.root_device)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        # the random numbers taken here are given back, so that the probe does not change what follows
        with torch.no_grad(), isolate_rng():
            batch = _small_batch(loops[stage]._data_source.dataloader(), stage)
            self._probe({name: value.to(self.device) for name, value in batch.items()})
        for module, mode in modes.items():
            module.training = mode

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the random state: a resumed run shuffles and drops as one that was never stopped.

        The names of the classes, where the data have some, are kept as well.
        """
        checkpoint["rng_states"] = all_gather_objects(rng_states())
        if names := self._class_names():
            checkpoint["class_names"] = list(names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the random state for :meth:`on_fit_start`.

        Raises:
            ValueError: The data have the same classes in another order.
        """
        check_class_names(checkpoint.get("class_names", ()), self._class_names(), model="checkpoint")
        states = checkpoint.get("rng_states")
        if isinstance(states, dict):  # of one process, as older checkpoints hold
            states = [states]
        self._rng_states = rank_part(states, states[0]) if states else None

    def on_fit_start(self) -> None:
        """Goes on with the random numbers of the checkpoint, before anything is shuffled."""
        if self._rng_states is not None and self.trainer.ckpt_path is not None:
            set_rng_states(self._rng_states)
        self._rng_states = None
        if self.network is not None and not self.network.training:
            self.network.train()  # from_pretrained of Hugging Face leaves networks in eval mode
        if self.dtype in (torch.float16, torch.bfloat16):  # as with precision bf16-true, but losses stay in float32
            for part in self.children():
                if part is not self.network:
                    part.float()

    @torch.compiler.set_stance("force_eager")  # nothing is compiled for a batch of one
    def on_train_start(self) -> None:
        """Shows the network one sample, where the last batch of an epoch has no more, and leaves no trace in it.

        Raises:
            ValueError: It cannot train on that, as with BatchNorm over one value a channel.
        """
        loader: Any = self.trainer.train_dataloader
        steps = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        if not _ends_with_one_sample(loader):
            return
        if self.trainer.num_training_batches < len(loader) or 0 <= steps < len(loader):  # no epoch gets there
            return
        network: nn.Module = self._require("network")
        tables = [(module._buffers, dict(module._buffers)) for module in network.modules()]
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        precision = self.trainer.precision_plugin
        try:
            with torch.no_grad(), isolate_rng(), precision.forward_context():
                batch = {name: values[:1].to(self.device) for name, values in _small_batch(loader, "fit").items()}
                self.predict(precision.convert_input(batch))
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 "):  # values or positions a channel, of torch's norms
                raise
            raise UserError(
                f"the last of an epoch's {len(loader)} batches has one sample, on which the "
                f"{self._described('network')} cannot train ({str(error).splitlines()[0]}): choose another batch_size "
                f"than {loader.batch_size}"
            ) from error
        finally:
            for table, before in tables:  # a module may have put another tensor there
                table.clear()
                table.update(before)
            for buffer, values in buffers:
                buffer.copy_(values)

    # while the batch is on the CPU, where a label is looked at for nothing; on a GPU a wrong one would end the process
    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        predicts = self._trainer is not None and self._trainer.state.fn == TrainerFn.PREDICTING
        if self.task is not None and not predicts and "target" in batch and batch["target"].device.type == "cpu":
            self.task.check_labels(batch["target"], data="data", index=batch.get("index"))
        return super()._apply_batch_transfer_handler(batch, device, dataloader_idx)

    def _class_names(self) -> Sequence[str]:
        """The names of the data's classes by index; empty where they have none."""
        data = None if self._trainer is None else self._trainer.datamodule  # type: ignore[attr-defined]
        return tuple(getattr(data, "class_names", ()))

    def _probe(self, batch: Batch) -> None:
        with self._explaining("network", self.inputs, batch):
            prediction = self.predict(batch)
        self._task.check(prediction, batch["target"], model=self._described("network"), data="data")

    @contextmanager
    def _explaining(self, argument: str, inputs: Sequence[str], batch: Batch) -> Iterator[None]:
        """Makes what a network raises on inputs that it was not made for one sentence."""
        try:
            yield
        except (RuntimeError, TypeError) as error:
            shapes = ", ".join(f"{name} {tuple(batch[name].shape)}" for name in inputs)
            raise UserError(
                f"the {self._described(argument)} cannot take {shapes}: {str(error).splitlines()[0]}"
            ) from error

    def predict(self, batch: Batch) -> Tensor:
        """The prediction for a batch, with one value for each position of its target."""
        return self._at_targets(full_precision(self(*self._inputs(self.inputs, batch))), batch)

    def _at_targets(self, prediction: Tensor, batch: Batch) -> Tensor:
        if self.task is None or "target" not in batch:
            return prediction
        return self.task.at_targets(prediction, batch["target"])

    def _inputs(self, names: Sequence[str], batch: Batch) -> tuple[Tensor, ...]:
        lacking = [name for name in names if name not in batch]
        if lacking:
            raise UserKeyError(f"the batch has no modality {lacking[0]!r}; it has {', '.join(map(repr, batch))}")
        return tuple(batch[name] for name in names)

    def hard_loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The task's loss, in float32, averaged over the positions that count."""
        with autocast_off(prediction):
            return self._mean(self._task.loss(prediction, batch["target"]), batch)

    def _mean(self, values: Tensor, batch: Batch) -> Tensor:
        """The mean over the positions that count, on all processes; a scalar is its own mean."""
        if values.ndim == 0:
            return values
        if "target" not in batch:  # pairs without labels all count
            return mean(values, torch.ones_like(values))
        return mean(values, self._counts(values, batch["target"]))

    def _counts(self, values: Tensor, target: Tensor) -> Tensor:
        """How much each of these values counts in their mean."""
        counts = self._task.counts(target).to(values.dtype)
        if counts.ndim > values.ndim:  # one value a sample, labels a pixel
            counts = counts.flatten(values.ndim).amax(dim=-1)
        if counts.shape != values.shape:
            raise UserError(
                f"{type(self).__name__} has a term of shape {tuple(values.shape)}, but terms are scalars or hold one "
                f"value a position, {tuple(counts.shape)}"
            )
        return counts

    def _evaluate(self, batch: Batch, stage: str) -> dict[str, Any]:
        prediction = self.predict(batch)
        self._score(prediction, batch, stage)
        return {"prediction": prediction, "inputs": self._inputs(self.inputs, batch)}

    def _score(self, prediction: Tensor, batch: Batch, stage: str) -> None:
        scores, hard = cast(MetricCollection, self.scores[stage]), cast(Metric, self.hard[stage])
        target = batch["target"]
        scores.update(prediction, target)
        with autocast_off(prediction):
            values = self._task.loss(prediction, target)
            hard.update(values, self._counts(values, target))

    def _log_scores(self, stage: str) -> None:
        scores, hard = cast(MetricCollection, self.scores[stage]), cast(Metric, self.hard[stage])
        for name, value in {**scores.compute(), f"{stage}/hard": hard.compute()}.items():
            # all processes have the same value already; without sync_dist Lightning would warn that they may not
            self.log(name, value.float(), prog_bar=name == self._task.monitor, sync_dist=True)
        scores.reset()
        hard.reset()

    def _log_losses(self, loss: Tensor, terms: dict[str, Tensor], batch: Batch) -> None:
        self._loss_watch.watch(loss, terms, batch)
        size = len(next(iter(batch.values())))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=size)
        # a call of log() costs half a millisecond, and there may be many terms: those of an epoch are logged at its end
        self._epoch_losses.add({"loss": loss, **terms}, size)

    @property
    def _task(self) -> Task:
        assert self.task is not None
        return self.task

    def _described(self, argument: str) -> str:
        return f"{argument} {type(getattr(self, argument)).__name__}"

    def _require(self, argument: str) -> Any:
        value = getattr(self, argument)
        if value is None:
            raise UserError(f"{type(self).__name__} has no {argument}: give it under model.init_args.{argument}")
        return value

    def _save_plain_hyperparameters(self) -> None:
        """Keeps the command line's configuration whole; of Python arguments only what is plain data.

        A checkpoint must load with ``weights_only=True``, so it may hold no module and no function.
        """
        if _given_hyperparameters.get() is not None:
            self.save_hyperparameters(logger=False)
            return
        frame = inspect.currentframe()
        # of the outermost constructor alone: what it hands on under other names, the class itself does not take
        while frame is not None and frame.f_back is not None and frame.f_back.f_locals.get("self") is self:
            frame = frame.f_back
        assert frame is not None
        scopes = collect_init_args(frame, [], classes=(LightningModule,))
        arguments = {name: value for scope in scopes for name, value in scope.items()}
        ignored = [name for name, value in arguments.items() if not _is_plain(value)]
        self.save_hyperparameters(ignore=ignored, frame=frame, logger=False)


def _small_batch(loader: Any, stage: str) -> Batch:
    """Two samples as the loader would deliver them, without starting its workers."""
    if isinstance(loader, (list, tuple)):
        loader = loader[0]
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        loader = DataLoader(loader.dataset, batch_size=min(2, loader.batch_size), collate_fn=loader.collate_fn)
    try:
        batch: Batch = next(iter(loader))
    except StopIteration:
        raise UserError(f"the data set to {TrainerFn(stage).value} on is empty") from None
    return batch


def _ends_with_one_sample(loader: Any) -> bool:
    """Whether one sample is left for this process's last batch."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None or loader.drop_last:
        return False
    sampler = loader.sampler
    return isinstance(sampler, Sized) and (len(sampler) - 1) % loader.batch_size == 0


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
