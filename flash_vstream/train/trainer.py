"""The HF Trainer with this model's parameter groups, order of samples and atomic checkpoints.

It overrides private methods of the Trainer; each docstring says which behaviour of the base class it changes.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from flash_vstream.data import ConversationDataset, GroupedSampler
from flash_vstream.files import explain_failed_writing
from flash_vstream.model import VStreamProcessor, save_adapter
from flash_vstream.model.checkpoints.adapters import digest_of_base, load_parts
from flash_vstream.model.checkpoints.zero3 import gather_whole, without_hooks
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.checkpoints import PART, prune, publish
from flash_vstream.train.finite import FiniteChecks, finite_step
from flash_vstream.train.model import bare, is_adapter_run, named_trained
from flash_vstream.train.offload import offloaded_adamw

Group = dict[str, Any]
OptimizerFactory = Callable[[nn.Module, VStreamTrainingArguments], Optimizer]


class VStreamTrainer(Trainer):
    """Trains a VStreamForConditionalGeneration or a PeftModel of it on a `ConversationDataset`.

    Checkpoints hold an adapter if that holds all trained weights, otherwise the whole model with its processor.
    `make_optimizer` replaces the optimizer that `optim` names.
    """

    args: VStreamTrainingArguments
    model: Any
    train_dataset: ConversationDataset

    def __init__(
        self,
        *args: Any,
        processor: VStreamProcessor,
        make_optimizer: OptimizerFactory | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.processor = processor
        self.make_optimizer = make_optimizer
        self.output = Path(str(self.args.output_dir))
        self.checks = FiniteChecks(self.args, self.output)
        inner = bare(self.model)
        # Now, and not at the first save: the folder of the base could change during the training.
        is_adapter = is_adapter_run(self.model) and self.args.should_save
        self.base_digest = digest_of_base(inner.config.name_or_path) if is_adapter else None
        without_hooks(inner.vision_tower)
        self.add_callback(_GatherWhole({"vision_tower": inner.vision_tower, "memory": inner.memory}))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        # Its order is made of global batches; Accelerate gives their micro-batches to the processes in turn.
        self.sampler = GroupedSampler(dataset.lengths(), dataset.modalities(), self.args.samples_a_step, seed)
        return self.sampler

    def _prepare_input(self, data: Any) -> Any:
        """Move to the device only. The base class also casts to DeepSpeed's dtype, and cannot rebuild a named tuple."""
        return send_to_device(data, self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Make the optimizer with the parameter groups of this project."""
        if self.optimizer is not None:
            return self.optimizer
        if self.make_optimizer is not None:
            self.optimizer = self.make_optimizer(self.model, self.args)
            return self.optimizer
        groups = list(parameter_groups(self.model, self.args))
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.hf_ds_config.is_offload():
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = offloaded_adamw(groups, self.args.learning_rate, betas, self.args.adam_epsilon)
        else:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:  # type: ignore[override]  # called with keywords only
        """Make no step if a resumed run has made all: the base class compares with max_steps only after a step.

        Accelerate does not give the sampler its epoch if several processes resume within one.
        """
        if self.state.global_step < self.state.max_steps:
            if self.args.train_sampling_strategy == "group_by_length":
                self.sampler.set_epoch(epoch)
            super()._run_epoch(epoch=epoch, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """End the run if the logged loss or gradients are not finite: the base class would train on."""
        self.checks.check_logged(logs, self.state, self.accelerator.scaler)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint atomically: into a temporary folder, in which the base class finds none to delete."""
        part, step = self.output / PART, f"checkpoint-{self.state.global_step}"
        try:
            with explain_failed_writing(self.output / step):
                if self.args.should_save:
                    shutil.rmtree(part, ignore_errors=True)
                    part.mkdir(parents=True)
                self.accelerator.wait_for_everyone()
                self.args.output_dir = str(part)
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process has written its share
                if self.args.should_save:
                    publish(part / step, self.output)
                    prune(self.output, self.args.save_total_limit, finite_step(self.state))
                self.accelerator.wait_for_everyone()
        finally:
            self.args.output_dir = str(self.output)
            if self.args.should_save:
                shutil.rmtree(part, ignore_errors=True)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Save and load the checkpoints of DeepSpeed without the frozen weights, if an adapter holds all others.

        Frozen weights do not change and are many times larger. The base class leaves them out only for PEFT models.
        """
        if not (self.is_deepspeed_enabled and is_adapter_run(self.model)):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        engine: Any = self.model_wrapped
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        if resume_from_checkpoint is not None:
            deepspeed_load_checkpoint(engine, resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save an adapter without copying all weights, frozen ones too, to the host, as the base class does.

        The first process has all weights of an adapter if DeepSpeed does not partition the weights (ZeRO below 3).
        Weights that are not finite are not saved: they end the run.
        """
        self.checks.check_weights(self.model, self.state)
        if self.is_deepspeed_enabled and not is_deepspeed_zero3_enabled() and is_adapter_run(self.model):
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save an adapter or a model with its processor; the arguments are in `run.json`, not in a pickle."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if is_adapter_run(self.model):
            save_adapter(self.model, folder, state_dict=state_dict, base_digest=self.base_digest)
        else:
            self.model.save_pretrained(folder, state_dict=state_dict)
            self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not is_adapter_run(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_parts(self.model, resume_from_checkpoint)
        if hasattr(self.model, "load_adapter"):
            self.model.load_adapter(resume_from_checkpoint, self.model.active_adapter, is_trainable=True)


class _GatherWhole(TrainerCallback):
    """Gathers the weights that ZeRO-3 has to keep whole before each step."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        self.parts = parts

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gather_whole(self.parts)


def parameter_groups(model: nn.Module, arguments: VStreamTrainingArguments) -> Iterator[dict[str, Any]]:
    """The trained parameters grouped by learning rate (projector, memory, others); norms and biases do not decay."""
    common, memory = arguments.learning_rate, arguments.memory_learning_rate
    projector = common if arguments.projector_learning_rate is None else arguments.projector_learning_rate
    rates = {"projector": projector, "memory": projector if memory is None else memory}
    undecayed = undecayed_names(model)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named_trained(model):
        rate = rates.get(name.split(".")[0], common)
        groups.setdefault((rate, name not in undecayed), []).append(parameter)
    for (rate, decays), parameters in groups.items():
        yield {"params": parameters, "lr": rate, "weight_decay": arguments.weight_decay if decays else 0.0}


def undecayed_names(model: nn.Module) -> set[str]:
    """Names in the bare model of all biases and of all weights of norms, known by their class."""
    inner = bare(model)
    names = {name for name, _ in inner.named_parameters() if name.rsplit(".")[-1] == "bias"}
    for prefix, module in inner.named_modules():
        if "norm" in type(module).__name__.lower():
            names.update(f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False))
    return names
