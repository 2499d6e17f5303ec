"""Training of a FARMReader, which is needle's (`needle.pipelines.train`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from needle.data import SHIPPED_READER

logger = logging.getLogger(__name__)


class FarmTraining:
    """FARMReader's `train` and `distil_from`: Haystack 1's parameters, needle's training.

    `learning_rate` and the like mean what they did. It differs:

    - `save_dir` must be new, or hold a training that was interrupted, which then goes on; the best checkpoint on the
      held-out part is kept, where there is one;
    - windows move by about `doc_stride` tokens; `use_amp` takes bfloat16 where the device has it;
    - `test_filename`'s figures are logged after training;
    - needle batches, caches, checkpoints and splits its work by itself: `num_processes`, `caching`, `cache_path`,
      `checkpoint_root_dir`, `checkpoint_every`, `checkpoints_to_keep` and `teacher_batch_size` are without effect.
    """

    model_name_or_path: str | None
    max_seq_len: int
    doc_stride: int
    max_query_length: int
    use_gpu: bool
    devices: list[str] | None

    if TYPE_CHECKING:

        def _open(self) -> None: ...

        def eval_on_file(
            self, data_dir: str | Path, test_filename: str, device: Any = None, calibrate_conf_scores: bool = False
        ) -> dict[str, float]: ...

    def train(
        self,
        data_dir: str | Path,
        train_filename: str,
        dev_filename: str | None = None,
        test_filename: str | None = None,
        use_gpu: bool | None = None,
        devices: list[Any] | None = None,
        batch_size: int = 10,
        n_epochs: float = 2,
        learning_rate: float = 1e-5,
        max_seq_len: int | None = None,
        warmup_proportion: float = 0.2,
        dev_split: float = 0,
        evaluate_every: int | None = 300,
        save_dir: str | Path | None = None,
        num_processes: int | None = None,
        use_amp: bool = False,
        checkpoint_root_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        checkpoints_to_keep: int = 3,
        caching: bool = False,
        cache_path: str | Path | None = None,
        grad_acc_steps: int = 1,
        early_stopping: None = None,
        max_query_length: int | None = None,
        doc_stride: int | None = None,
        teacher: str | None = None,
        temperature: float = 1.0,
        distillation_loss_weight: float = 0.0,
    ) -> None:
        """Train this reader on a file in SQuAD's format; it then is the one that was trained, saved in `save_dir`.

        :param data_dir: the folder of the files. dev_filename, or dev_split, a share of the training file: what is held out.
        :param max_seq_len, max_query_length, doc_stride: None for the reader's own.
        :param save_dir: None for saved_models/ and the model's name.
        :param teacher, temperature, distillation_loss_weight: what `distil_from` sets.
        :raises NeedleError: if a file, model or setting can't be used.
        :raises ValueError: if early_stopping is given, or a setting makes no sense.
        """
        from needle.components.training_settings import Settings  # training is not needed, and slow to import, to read
        from needle.pipelines.compat.options import farm_devices
        from needle.pipelines.training import resume_training, train

        if early_stopping is not None:
            raise ValueError("needle keeps the best checkpoint instead of stopping early; leave early_stopping out.")
        folder = Path(save_dir or Path("saved_models") / Path(self.model_name_or_path or SHIPPED_READER).name)
        named = farm_devices(self.use_gpu if use_gpu is None else use_gpu, devices or self.devices)
        device = named[0] if named else None
        length = self.max_seq_len if max_seq_len is None else max_seq_len
        question = self.max_query_length if max_query_length is None else max_query_length
        step = self.doc_stride if doc_stride is None else doc_stride
        held_out = Path(data_dir) / dev_filename if dev_filename else dev_split
        if (folder / "training").is_dir():
            resume_training(folder, device=device)
        else:
            settings = Settings(
                epochs=n_epochs,
                learning_rate=learning_rate,
                warmup=warmup_proportion,
                batch_size=batch_size,
                accumulate=grad_acc_steps,
                max_seq_len=length,
                stride=max(0, length - question - step),
                max_question_tokens=question,
                temperature=temperature,
                teacher_weight=min(distillation_loss_weight, 0.999),
                evaluate_every=evaluate_every if held_out else None,
            )
            train(
                [Path(data_dir) / train_filename],
                folder,
                model=self.model_name_or_path,
                settings=settings,
                held_out=held_out,
                teacher=teacher,
                device=device,
                dtype=None if use_amp else "float32",
            )
        self.model_name_or_path = str(folder)
        self._open()
        if test_filename is not None:
            logger.info("'%s' on %s: %s", folder, test_filename, self.eval_on_file(data_dir, test_filename))

    def distil_from(
        self,
        teacher_model: FarmTraining | str,
        data_dir: str | Path,
        train_filename: str,
        learning_rate: float = 3e-5,
        distillation_loss_weight: float = 0.5,
        distillation_loss: str = "kl_div",
        temperature: float = 1.0,
        processor: None = None,
        teacher_batch_size: int | None = None,
        **parameters: Any,
    ) -> None:
        """`train`, with another reader's distributions of starts and ends to learn from beside the right answers.

        :param teacher_model: a FARMReader, or its folder or hub id; its tokenizer must be this reader's.
        :param distillation_loss_weight: of the teacher against the answers; 1 counts as 0.999.
        :param temperature: what both readers' logits are divided by. parameters: as for `train`.
        :raises ValueError: for another loss than "kl_div", or a processor.
        """
        if distillation_loss != "kl_div" or processor is not None:
            raise ValueError(
                f"needle distils by the loss 'kl_div' ({distillation_loss!r} was asked for) and takes no processor."
            )
        teacher = teacher_model if isinstance(teacher_model, str) else teacher_model.model_name_or_path
        self.train(
            data_dir,
            train_filename,
            learning_rate=learning_rate,
            teacher=teacher or str(SHIPPED_READER),
            temperature=temperature,
            distillation_loss_weight=distillation_loss_weight,
            **parameters,
        )

    #: As Haystack called it at last.
    distil_prediction_layer_from = distil_from

    def distil_intermediate_layers_from(self, *_: Any, **__: Any) -> None:
        """TinyBERT's first stage, which needle does not have."""
        raise NotImplementedError(
            "needle does not distil hidden layers; for a smaller reader: needle.pipelines.train(..., layers=6, teacher=...)."
        )
