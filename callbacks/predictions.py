"""Predictions as files that people and other programs can use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.parts.classes import Probabilities, class_names, class_target, probabilities_of
from callbacks.parts.label_files import Ids, LabelFiles
from callbacks.parts.prediction_table import PredictionTable, class_columns, sample_columns, value_columns
from callbacks.parts.resumable_folder import ResumableFolder, check_inside
from callbacks.parts.run_folder import run_folder
from callbacks.parts.sample_names import UniqueNames, given_names, names_of_data, numbered, positions_of
from callbacks.parts.step import IGNORE_INDEX, named_target
from callbacks.responses import ResponseWriter
from datamodules import PairedDataModule
from distill.checks import check_option
from distill.errors import UserError
from distill.teacher.fingerprint import network_fingerprint
from distill.training.loaders import loader_suffix

DESCRIPTION = "predictions.json"


class PredictionWriter(Callback):
    """Writes what a network predicts: a table of samples, or files of the classes of pixels, voxels and points.

    ``python train.py predict`` has this callback unless the configuration gives another one.

    **A class or a few numbers for each sample** become ``predictions.csv`` in the run's folder, at the end. Each sample
    has a line: ``index``, ``name`` and ``target`` of the step or of the batch, the predicted class as ``prediction``,
    its probability as ``confidence``, and ``target_name`` and ``class_name`` if the classes have names. Several labels
    have a column for each class, ``probability_<class>``. Regression has its values as ``prediction``, or as
    ``prediction_<output>`` if there are several. Several processes write one table together.

    **A class for each pixel, voxel or point** becomes a file for each sample as soon as it is predicted:

    - ``<folder>/<name>.png`` for pixels: class indices, 8 bits, or 16 bits above 255 classes. It has the size of the
      frame on disk, if the data module knows that: the logits are resized, then the highest is taken. Pixels
      outside the data module's crop hold 255 (65535 with 16 bits);
    - ``<folder>/<name>.npy`` for voxels ``(D, H, W)``, points ``(P,)``, and several labels a position ``(C, *)``;
    - a file in the data module's own format instead, if it has one: SemanticKITTI has
      ``<folder>/sequences/08/predictions/000012.label``, a number for each point of the scan;
    - ``<folder>/<name>_color.png`` with ``colours``, and ``<folder>/<name>_probabilities.npz`` with ``probabilities``.

    The name of a sample is ``name`` of the step or the batch, a list of strings; or else the data module's
    ``sample_names`` at ``index``, such as the path of an image; or else the ``index``, as ``000012``; or else its
    number in order.

    A stopped run leaves only whole files. If it is started again with the same folder, it skips the samples that have
    their files. ``<folder>/predictions.json`` describes the network, the data and the files; a folder of other ones is
    refused, and so is one that has predictions, if the samples have no names and there is no data module of this
    library. Each of several processes writes its own files.

    Args:
        folder: The folder of the files; ``None`` takes ``predictions`` in the run's folder.
        ids: The numbers in the files: ``classes``, or ``official`` for the ids of the data set's own label files, which
            have 0 where there is no prediction. A data module's own format always has official ids.
        colours: Whether to write pictures in the colours of the data module's ``palette``; black where there is no
            prediction.
        probabilities: Whether to write the probabilities of all classes: in columns ``probability_<class>`` of the
            table, or as ``probabilities`` ``(C, *)`` in files of half precision, in the size that was predicted.

    Raises:
        ValueError: An argument is not valid. In ``predict``: the folder holds something else, two samples have one
            name, or the data module has no official ids or colours.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        ids: Ids = "classes",
        colours: bool = False,
        probabilities: bool = False,
    ) -> None:
        check_option("ids", ids, get_args(Ids))
        self.folder = None if folder is None else Path(folder)
        self.ids: Ids = ids
        self.colours = colours
        self.probabilities = probabilities
        self._run_folder: Path | None = None
        self._tables: dict[str, PredictionTable] = {}
        self._stored: ResumableFolder | None = None
        self._names = UniqueNames()
        self._numbered: Counter[str] = Counter()
        self._owners: dict[Path, str] = {}
        self._described = False
        self._continued = False
        self._warned = False
        self._warned_of_nan = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Skips the samples that have their files from an earlier run."""
        if stage != "predict":
            return
        self._run_folder = run_folder(trainer)
        if self._run_folder is None:
            self._stored = None
            return
        self._stored = ResumableFolder(self.folder or self._run_folder / "predictions", DESCRIPTION, "predictions")
        data = _data(trainer)
        files = self._files(data)  # raises an error if the data have no official ids or no colours
        description = self._stored.read()
        self._continued = description is not None
        if description is None or not isinstance(data, PairedDataModule):
            return
        suffixes = description.get("files", [])
        names = names_of_data(data)
        if not len(names):
            names = [numbered(position) for position in range(len(cast(Sized, data.predict_dataset)))]

        def done(position: int) -> bool:
            return all(path.is_file() for path in files.paths(names[position], position, suffixes))

        self._stored.skip(trainer, data, names, done)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts empty tables."""
        self._tables, self._names, self._numbered = {}, UniqueNames(), Counter()
        self._owners, self._described = {}, False

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a few numbers of each sample, or writes its files."""
        prediction = outputs.get("prediction") if isinstance(outputs, Mapping) else outputs
        if not isinstance(prediction, Tensor):
            self._warn_once("the predict steps return no prediction")
            return
        if not len(prediction):
            return  # no sample of the batch has the modality that the network sees
        if not self._warned_of_nan and prediction.isnan().any():
            rank_zero_warn("PredictionWriter: some predictions are NaN; where they are, the files hold no prediction")
            self._warned_of_nan = True
        is_table = prediction.ndim <= 2
        probabilities = probabilities_of(pl_module, prediction if is_table else prediction[:1])
        suffix = loader_suffix(trainer, "predict", dataloader_idx)
        positions = positions_of(outputs, batch)
        # the data module's names are those of the first loader
        names = given_names(outputs, batch, positions, None if suffix else _data(trainer))
        if is_table:
            if positions is None:  # the index would tell samples of one name apart
                for name in names or ():
                    self._names.check(f"{suffix[1:]}/{name}" if suffix else name, None)
            target = class_target(pl_module, prediction, named_target(outputs, batch), IGNORE_INDEX)
            columns = self._columns(trainer, pl_module, prediction, probabilities, target)
            table = self._tables.setdefault(suffix, PredictionTable())
            table.add({**sample_columns(positions, names), **columns})
        elif probabilities is not None:
            if names is None:
                self._check_new(trainer)
                names = self._numbers(trainer, suffix, positions, len(prediction))
            self._write(trainer, pl_module, suffix, names, positions, prediction, probabilities.exclusive)
        elif not any(isinstance(callback, ResponseWriter) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._warn_once(
                f"predictions of the shape {tuple(prediction.shape)} without classes are not written; "
                "callbacks.ResponseWriter stores depth maps"
            )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all processes and writes the tables."""
        writes = trainer.is_global_zero and self._run_folder is not None
        # all processes take part in the same order, also one that had no batch of a loader
        count = len(trainer.num_predict_batches)
        for suffix in [loader_suffix(trainer, "predict", index) for index in range(count)]:
            name = f"predictions{suffix.replace('/', '_')}.csv"
            path = self._run_folder / name if writes and self._run_folder is not None else None
            self._tables.pop(suffix, PredictionTable()).write(path, trainer.world_size)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets the data module predict on all samples again."""
        if self._stored is not None:
            self._stored.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Does the same as :meth:`teardown`, which Lightning does not call after a failed run."""
        if self._stored is not None:
            self._stored.release()

    def _columns(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        probabilities: Probabilities | None,
        target: Tensor | None,
    ) -> dict[str, Any]:
        if probabilities is None:
            task = getattr(pl_module, "task", None)
            return value_columns(prediction, target, getattr(task, "output_names", ()))
        return class_columns(probabilities, target, class_names(trainer), all_classes=self.probabilities)

    def _check_new(self, trainer: Trainer) -> None:
        """Raises a ValueError if the folder may hold other samples that have the same numbers."""
        if self._stored is not None and self._continued and not isinstance(_data(trainer), PairedDataModule):
            raise UserError(
                f"{self._stored.path} holds predictions of an earlier run, and samples without names cannot be told "
                "apart from those: give another folder, or let the batches hold name, a list of strings"
            )

    def _numbers(self, trainer: Trainer, suffix: str, positions: Sequence[int] | None, count: int) -> list[str]:
        """The names of samples without names."""
        if positions is not None:
            return [numbered(position) for position in positions]
        if trainer.world_size > 1:
            raise UserError(
                "samples without name and index cannot be told apart in several processes: let the batches hold name, "
                "a list of strings, or index"
            )
        first = self._numbered[suffix]
        self._numbered[suffix] += count
        return [numbered(first + n) for n in range(count)]

    def _write(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        suffix: str,
        names: Sequence[str],
        positions: Sequence[int] | None,
        prediction: Tensor,
        exclusive: bool,
    ) -> None:
        if self._stored is None:
            return

        def probabilities(logits: Tensor) -> Tensor:
            found = probabilities_of(pl_module, logits)
            assert found is not None
            return found.values

        data = _data(trainer)
        files = self._files(data)
        suffixes = files.suffixes(prediction.ndim - 2, exclusive=exclusive)
        if not self._described:
            if exclusive:
                files.check_classes(prediction.shape[1])
            self._describe(self._stored, pl_module, data, suffixes)
        for n, name in enumerate(names):
            position = None if positions is None or suffix else positions[n]
            name = check_inside(f"{suffix[1:]}/{check_inside(name)}" if suffix else name)
            self._names.check(name, position)
            for path in files.paths(name, position, suffixes):
                owner = self._owners.setdefault(path, name)
                if owner != name:
                    raise UserError(
                        f"the samples {owner!r} and {name!r} would both be written to {path}: rename one of them"
                    )
            files.write(name, position, prediction[n], probabilities, exclusive=exclusive)

    def _describe(
        self, stored: ResumableFolder, pl_module: LightningModule, data: Any, suffixes: Sequence[str]
    ) -> None:
        network = network_fingerprint(getattr(pl_module, "network", pl_module))
        stored.describe({"network": network, "files": list(suffixes), "ids": self.ids, **_description(data)})
        self._described = True

    def _files(self, data: Any) -> LabelFiles:
        assert self._stored is not None
        return LabelFiles(self._stored.path, data, self.ids, colours=self.colours, probabilities=self.probabilities)

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            rank_zero_warn(f"PredictionWriter writes nothing: {message}")
        self._warned = True


def _description(data: Any) -> dict[str, Any]:
    """What tells the samples of a data module, and the form in which the network sees them, from others."""
    if not isinstance(data, PairedDataModule):
        return {"data": None if data is None else type(data).__qualname__}
    root, size, crop = (getattr(data, name, None) for name in ("root", "frame_size", "fixed_crop"))
    return {
        "data": type(data).__qualname__,
        "root": None if root is None else str(Path(root).resolve()),
        "split": data.predict_on,
        "seed": None if len(data.sample_names) else data.seed,  # the same numbers are other samples of another seed
        "size": None if size is None else list(size),
        "crop": None if crop is None else list(crop),
    }


def _data(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]
