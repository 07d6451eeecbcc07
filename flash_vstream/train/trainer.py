"""The HF Trainer with this model's parameter groups and order of samples, and checkpoints that are whole or not there.

It overrides private methods of the Trainer; what each relies on, its comment says.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from flash_vstream.data import ConversationDataset, GroupedSampler
from flash_vstream.model import VStreamProcessor, save_adapter
from flash_vstream.model.checkpoints.adapters import load_parts
from flash_vstream.model.checkpoints.zero3 import gather_whole, without_hooks
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.checkpoints import PART, explain_failed_writing, prune, publish
from flash_vstream.train.model import bare, is_adapter_run, named_trained
from flash_vstream.train.optimizer import Group, MuonWithAdamW, offloaded_adamw


class VStreamTrainer(Trainer):
    """Trains a VStreamForConditionalGeneration or a PeftModel of it on a `ConversationDataset`.

    Checkpoints hold an adapter where that holds all that is trained, else the whole model with its processor.
    """

    args: VStreamTrainingArguments
    train_dataset: ConversationDataset

    def __init__(self, *args: Any, processor: VStreamProcessor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.processor = processor
        self.run_folder: str | None = None  # where checkpoints are written to, while one is written
        inner = bare(self.model)
        without_hooks(inner.vision_tower)
        self.whole_parts = {"vision_tower": inner.vision_tower, "memory": inner.memory}
        self.add_callback(_BeforeSteps(self))

    @property
    def output(self) -> Path:
        return Path(str(self.args.output_dir))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        # Of whole global batches, which Accelerate deals out in micro-batches, one process after the other.
        self.sampler = GroupedSampler(dataset.lengths(), dataset.modalities(), self.args.samples_a_step, seed)
        return self.sampler

    def _prepare_input(self, data: Any) -> Any:
        """The base class casts to DeepSpeed's dtype: to bfloat16, which is coarser than features are."""
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            assert isinstance(self.model, nn.Module)
            groups = list(parameter_groups(self.model, self.args))
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.hf_ds_config.is_offload():
                self.optimizer = offloaded_adamw(groups, self.args.learning_rate, betas, self.args.adam_epsilon)
            elif self.args.muon_learning_rate is not None:
                matrices, others = matrices_apart(self.model, groups, self.args.muon_learning_rate)
                self.optimizer = MuonWithAdamW(matrices, others, betas, self.args.adam_epsilon)
            else:
                optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
                self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The base class looks whether all steps are made only after one more: when resumed from the last of them."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return self.run_folder or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The base class writes into `_get_output_dir`, and deletes what is too many there; so both are done here."""
        part = self.output / PART
        with explain_failed_writing(self.output, f"the checkpoint of step {self.state.global_step}"):
            if self.args.should_save:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.run_folder = str(part)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.run_folder = None
            self.accelerator.wait_for_everyone()  # each process has written its share
            if self.args.should_save:
                publish(part / f"checkpoint-{self.state.global_step}", self.output)
                prune(self.output, self.args.save_total_limit)
                shutil.rmtree(part, ignore_errors=True)
            self.accelerator.wait_for_everyone()

    def _stores_trained_only(self) -> bool:
        """Whether DeepSpeed's share of a checkpoint has the trained weights only: the frozen ones are those that a run
        begins with, and many times larger. The base class leaves them out for PEFT's models alone."""
        assert isinstance(self.model, nn.Module)
        return self.is_deepspeed_enabled and is_adapter_run(self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The base class calls the engine's `save_checkpoint` with the folder alone."""
        if not self._stores_trained_only():
            super()._save_optimizer_and_scheduler(output_dir)
            return
        engine: Any = self.model_wrapped
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            del engine.save_checkpoint  # the class has its own

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Loads DeepSpeed checkpoints without frozen weights, too, which the base class refuses."""
        if resume_from_checkpoint is None or not self._stores_trained_only():
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, load_module_strict=False)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        self._load_scaler(resume_from_checkpoint)
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """With DeepSpeed, the base class has every process copy all weights to the host, the frozen ones too; but of an
        adapter the first process has all, if no weights are split."""
        assert isinstance(self.model, nn.Module)
        if self.is_deepspeed_enabled and not is_deepspeed_zero3_enabled() and is_adapter_run(self.model):
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The base class pickles its arguments beside the weights; `run.json` has them here."""
        if not self.args.should_save:
            return
        assert isinstance(self.model, nn.Module)
        folder = Path(str(self.args.output_dir) if output_dir is None else output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if is_adapter_run(self.model):
            save_adapter(self.model, folder, state_dict=state_dict)
            return
        assert isinstance(self.model, PreTrainedModel)
        self.model.save_pretrained(folder, state_dict=state_dict)
        self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert isinstance(self.model, nn.Module)
        if not is_adapter_run(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_parts(self.model, resume_from_checkpoint)
        if hasattr(self.model, "load_adapter"):
            wrapper: Any = self.model
            wrapper.load_adapter(resume_from_checkpoint, wrapper.active_adapter, is_trainable=True)


class _BeforeSteps(TrainerCallback):
    """Tells the sampler the epoch, which Accelerate does not reach when it resumes within one in several processes.

    And gathers what ZeRO-3 has to keep whole.
    """

    def __init__(self, trainer: VStreamTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sampler = getattr(self.trainer, "sampler", None)
        if sampler is not None:
            sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gather_whole(self.trainer.whole_parts)


def parameter_groups(model: nn.Module, arguments: VStreamTrainingArguments) -> Iterator[dict[str, Any]]:
    """The trained parameters by learning rate (projector, memory, all others), norms and biases without decay."""
    projector, memory = arguments.projector_learning_rate, arguments.memory_learning_rate
    rates = {
        "projector": arguments.learning_rate if projector is None else projector,
        "memory": memory if memory is not None else arguments.learning_rate if projector is None else projector,
    }
    undecayed = undecayed_names(model)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named_trained(model):
        rate = rates.get(name.split(".")[0], arguments.learning_rate)
        groups.setdefault((rate, name not in undecayed), []).append(parameter)
    for (rate, decays), parameters in groups.items():
        yield {"params": parameters, "lr": rate, "weight_decay": arguments.weight_decay if decays else 0.0}


def matrices_apart(model: nn.Module, groups: list[Group], learning_rate: float) -> tuple[list[Group], list[Group]]:
    """The groups split into matrices of decoder layers and projector, for Muon at `learning_rate`, and all others."""
    names = {parameter: name for name, parameter in named_trained(model)}
    matrices: list[Group] = []
    others: list[Group] = []
    for group in groups:
        for chosen, is_inner, rate in ((matrices, True, {"lr": learning_rate}), (others, False, {})):
            parameters = [p for p in group["params"] if _is_inner_matrix(names[p], p) == is_inner]
            if parameters:
                chosen.append({**group, "params": parameters, **rate})
    return matrices, others


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    is_inner = name.startswith("projector.") or (name.startswith("language_model.") and ".layers." in name)
    return parameter.ndim == 2 and is_inner


def undecayed_names(model: nn.Module) -> set[str]:
    """Names in the bare model of all biases, and of all weights of norms: by the modules' class."""
    inner = bare(model)
    names = {name for name, _ in inner.named_parameters() if name.rsplit(".")[-1] == "bias"}
    for prefix, module in inner.named_modules():
        if "norm" in type(module).__name__.lower():
            names.update(f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False))
    return names
