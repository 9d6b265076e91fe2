"""A LightningModule that trains one network on hard labels; the distillation methods extend it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from distill.batches import Batch, check_names, modalities, named_batch
from distill.checkpoint import Weights, check_class_names
from distill.checks import check_at_least
from distill.internals.lightning import TransferHooks, attached
from distill.outputs import NetworkOutput, autocast_off, network_output, prediction_of
from distill.resume.random_state import RandomState
from distill.tasks import Task
from distill.training.arguments import described, required, save_plain_hyperparameters
from distill.training.auxiliary import label_losses
from distill.training.averaging import AveragedWeights, use_averaged_weights
from distill.training.first_batch import Preparation, check_first_batch, explained
from distill.training.held_out import held_out_losses
from distill.training.labels import check_labels_on_cpu, check_num_classes, known_class_names, labels_of, name_classes
from distill.training.loading import LoadsCheckpoints, load_start
from distill.training.losses import TrainingLosses
from distill.training.means import counted_mean
from distill.training.modes import ready_to_train
from distill.training.one_sample import OneSampleCheck, explained_for_one_sample
from distill.training.optimization import ParameterSettings, optimizer_and_schedule, parameter_groups
from distill.training.receiving import StandIn, received
from distill.training.scores import StageScores

SAMPLE_KEYS = "index", "target", "name"
"""What a prediction carries of its samples."""


class Supervised(LoadsCheckpoints, TransferHooks):
    """Trains one network on the labels: a teacher, or the student without distillation.

    ``self(*inputs)`` is the network. Steps return ``prediction`` and ``inputs`` for the callbacks, and ``loss`` in
    training.

    Args:
        network: Any module. It gets the modalities in the order of ``inputs`` and returns the prediction as a tensor,
            or as ``logits`` or ``out`` of a mapping or a named tuple (Hugging Face, torchvision), or as the first item
            of a tuple. Auxiliary predictions beside it (``aux``, ``aux_logits`` and their like, or the other items)
            learn from the labels, too.
        task: The hard loss and the metrics.
        inputs: The names of the modalities that the network sees.
        optimizer: Makes the optimiser from the trained parameters.
        lr_scheduler: Makes the schedule from the optimiser; it steps each epoch, a cyclic one each step.
        aux_weight: The weight of the loss of each auxiliary prediction: 0.4 in PSPNet and mmsegmentation; torchvision's
            segmentation has 0.5, GoogLeNet 0.3.
        batch_names: The names of the items of a batch, for a loader that gives tuples or lists, such as
            ``[x_a, x_b, target]``. A dictionary or a named tuple has its own names.
        network_checkpoint: Weights to start from; see :func:`~distill.checkpoint.load_network` for the files that it
            takes. Weights of a run that is resumed or tested replace them.
    """

    start_option = "network_checkpoint"
    """The argument with the weights to start from, for messages."""

    def __init__(
        self,
        network: nn.Module | None = None,
        task: Task | None = None,
        inputs: Sequence[str] = (),
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        aux_weight: float = 0.4,
        batch_names: Sequence[str] = (),
        network_checkpoint: Weights | str | Path | None = None,
    ) -> None:
        super().__init__()
        check_at_least(0, aux_weight=aux_weight)
        save_plain_hyperparameters(self)
        self.network = network
        self.task = task
        self.inputs = tuple(inputs)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.aux_weight = aux_weight
        self.batch_names = check_names(batch_names)
        self.start_classes = load_start(network, network_checkpoint, self.start_option)
        self.loss_recorder = TrainingLosses()
        self.collaborators: list[Callback] = [RandomState(), self.loss_recorder, AveragedWeights(), OneSampleCheck()]
        self.collaborators.append(Preparation())
        self.stand_in = StandIn()
        self.val_scores = None if task is None else StageScores(task, "val")
        self.test_scores = None if task is None else StageScores(task, "test")

    def forward(self, *inputs: Tensor) -> Tensor:
        """The prediction of the deployed network for its modalities."""
        return prediction_of(required(self.network, "network", self)(*inputs))

    def predict(self, batch: Batch) -> Tensor:
        """The prediction for a batch, with one value for each position of its target."""
        output = self.stand_in.output(lambda *inputs: network_output(self(*inputs)), self, batch, self.inputs)
        return self.at_targets(output.prediction, batch)

    def forward_network(self, batch: Batch) -> NetworkOutput:
        """The network's output for a batch, with the prediction in the size of the target."""
        network = required(self.network, "network", self)
        run = network if type(self).forward is Supervised.forward else self  # a subclass may change the prediction
        output = self.stand_in.output(lambda *inputs: network_output(run(*inputs)), network, batch, self.inputs)
        return output._replace(prediction=self.at_targets(output.prediction, batch))

    def at_targets(self, prediction: Tensor, batch: Batch) -> Tensor:
        """A prediction in the size of the batch's target; unchanged if the batch has no target."""
        if self.task is None or "target" not in batch:
            return prediction
        return self.task.at_targets(prediction, batch["target"])

    def hard_loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The task's loss in float32, a mean over the counted positions."""
        with autocast_off(prediction):
            return counted_mean(self.known_task.loss(prediction, batch["target"]), batch, self.known_task)

    def training_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """The loss of a batch, its terms by name, and the step's outputs for the callbacks; logs nothing."""
        output = self.forward_network(batch)
        loss, terms = label_losses(self, output, batch)
        return loss, terms, {"prediction": output.prediction.detach(), "inputs": modalities(batch, self.inputs)}

    def runs_alone(self, batch: Batch) -> bool:
        """Whether the network is scored without the loss, because an evaluation batch lacks a modality of a teacher."""
        return False

    def evaluate(self, batch: Batch) -> dict[str, Any]:
        """The outputs of an evaluation step for the callbacks; the step scores ``prediction``."""
        return {"prediction": self.predict(batch), "inputs": modalities(batch, self.inputs)}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The loss of a batch and the outputs for the callbacks; records the loss and its terms."""
        with explained_for_one_sample(batch):
            loss, terms, outputs = self.training_losses(batch)
        self.loss_recorder.record(self, loss, terms, batch)
        return {"loss": loss, **outputs}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Scores a batch to validate on, and records its loss and the terms of it."""
        losses, outputs = held_out_losses(self, batch)
        scores = required(self.val_scores, "task", self).of_loader(dataloader_idx)
        scores.record(losses, batch, getattr(self, "teacher_inputs", ()))
        return self._scored(scores, outputs, batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Scores a batch to test on."""
        scores = required(self.test_scores, "task", self).of_loader(dataloader_idx)
        return self._scored(scores, self.evaluate(batch), batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The prediction for a batch, with ``index``, ``target`` and ``name`` of its samples if the batch has them."""
        return {"prediction": self.predict(batch)} | {key: batch[key] for key in SAMPLE_KEYS if key in batch}

    def on_validation_epoch_end(self) -> None:
        """Logs the scores and losses of the validation, those of each loader under its name."""
        required(self.val_scores, "task", self).log(self)

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test, those of each loader under its name."""
        required(self.test_scores, "task", self).log(self)

    def parameter_settings(self) -> Sequence[ParameterSettings]:
        """Parameters with optimiser settings of their own, such as ``{"weight_decay": 0.0}``; none by default.

        A schedule scales a learning rate given here by the same factor as the optimiser's learning rate. Cyclic
        schedules would overwrite it, so they raise an error.
        """
        return ()

    def configure_optimizers(self) -> Any:
        """The optimiser over all trained parameters, and the schedule if there is one."""
        optimizer = required(self.optimizer, "optimizer", self)
        return optimizer_and_schedule(parameter_groups(self), optimizer, self.lr_scheduler, attached(self))

    def configure_callbacks(self) -> list[Callback]:
        """Puts the collaborators before the trainer's callbacks, unless it has them from an earlier fit; returns none.

        Callbacks that average weights copy the module in their ``setup``: lazy layers must know their sizes before.
        """
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:0] = [callback for callback in self.collaborators if callback not in callbacks]
        return []

    def prepare(self, stage: str) -> None:
        """Checks arguments, data and networks on one small real batch before training starts.

        Called after the data module's ``setup`` and before the ``setup`` of the trainer's callbacks. Lazy adaptors find
        their channel counts here, before the optimiser is made and before a checkpoint is loaded.

        Raises:
            KeyError: The batch lacks a modality, or a network lacks a layer.
            ValueError: Predictions, labels and task do not fit each other.
        """
        network, task = required(self.network, "network", self), self.known_task
        if stage == "fit":
            required(self.optimizer, "optimizer", self)
        name_classes(self.trainer, task, self.val_scores, self.test_scores)
        check_class_names(self.start_classes, known_class_names(self.trainer, task), model=self.start_option)
        if stage != "predict":
            task.check_network(network, model=described(network, "network"))
            check_num_classes(self.trainer, task)
            check_first_batch(self, self.trainer, stage)

    def check_batch(self, batch: Batch) -> None:
        """Raises a one-sentence error if the network or the task cannot take a small batch."""
        with explained(self.network, "network", self.inputs, batch):
            prediction = self.predict(batch)
        self.known_task.check(prediction, labels_of(batch, self), model=described(self.network, "network"), data="data")

    def before_transfer(self, batch: Any) -> Any:
        """Names the items of a batch, and checks its labels while it is on the CPU."""
        named = named_batch(batch, self.batch_names)
        check_labels_on_cpu(named, self.task, attached(self))
        if isinstance(named, dict) and named.get("target", self) is None:
            return {name: value for name, value in named.items() if name != "target"}
        return named

    def after_transfer(self, batch: Any, moved: Any) -> Batch:
        """The batch of the step and of the callbacks: without the samples that lack a modality of the network."""
        moved = named_batch(moved, self.batch_names)
        before, after = received(batch, moved, self.inputs)
        self.stand_in.note(moved, after)
        self.note_transfer(before, after)
        return after

    def note_transfer(self, batch: Any, moved: Batch) -> None:
        """Called with a batch as it lay on the CPU, and as it lies on the device."""

    def on_fit_start(self) -> None:
        """Puts the network in training mode, and the adaptors, losses and metrics in float32."""
        ready_to_train(self, required(self.network, "network", self))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the names of the classes if the data have them; saves averaged weights if a callback averages them."""
        use_averaged_weights(checkpoint, attached(self), self)
        if names := known_class_names(attached(self), self.task):
            checkpoint["class_names"] = list(names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises a ValueError if weights do not fit, or if the data have the classes in another order."""
        super().on_load_checkpoint(checkpoint)
        names = known_class_names(attached(self), self.task)
        check_class_names(checkpoint.get("class_names", ()), names, model="checkpoint")

    @property
    def known_task(self) -> Task:
        """The task.

        Raises:
            ValueError: The module has none.
        """
        return required(self.task, "task", self)

    def _scored(self, scores: StageScores, outputs: dict[str, Any], batch: Batch) -> dict[str, Any]:
        scores.update(outputs["prediction"], batch, self.known_task)
        return outputs
