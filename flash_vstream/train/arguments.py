"""The options of a training run in three groups, with all their defaults.

`STAGES` holds the settings of the paper's two stages (arXiv 2406.08085, section 4.1): `--stage` makes them the defaults
of a command, and each option of the command line overrides them.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from flash_vstream.train.offload import compile_communication

STAGES: dict[int, dict[str, Any]] = {
    1: {  # pretraining: projector and semantic attention, with a frozen language model
        "conversation": "plain",
        "image_aspect_ratio": "plain",
        "train_language_model": False,
        "global_batch_size": 256,
        "learning_rate": 1e-3,
    },
    2: {  # finetuning: the language model too
        "conversation": "v1",
        "image_aspect_ratio": "pad",
        "train_language_model": True,
        "global_batch_size": 128,
        "learning_rate": 2e-5,
    },
}


@dataclass
class ModelArguments:
    """Which checkpoint to start from and which parts of it to train."""

    model_path: str = field(metadata={"help": "checkpoint folder to start from: a whole model or an adapter"})
    memory: str | None = field(default=None, metadata={"help": "another memory mode than the checkpoint's"})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2; None: transformers' choice"}
    )
    train_projector: bool = True
    train_memory: bool = field(default=True, metadata={"help": "train the semantic attention of the memory"})
    train_language_model: bool = False
    model_base: str | None = field(
        default=None, metadata={"help": "base model of an adapter in model_path; None: the one that the adapter names"}
    )
    lora: bool = field(default=False, metadata={"help": "train a LoRA in the linear layers of the language model"})
    lora_rank: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    quantization: str | None = field(
        default=None, metadata={"help": "4bit or 8bit: hold the frozen language model quantized (with lora only)"}
    )

    def __post_init__(self) -> None:
        """Raises ValueError for options that contradict each other."""
        if self.lora and self.train_language_model:
            raise ValueError("lora and train_language_model are both set: set lora, or train it whole")
        if self.quantization not in (None, "4bit", "8bit"):
            raise ValueError(f"quantization is {self.quantization!r}: choose 4bit or 8bit, or leave it out")
        if self.quantization and not self.lora:
            raise ValueError(f"quantization {self.quantization} trains nothing of the language model: set lora as well")


@dataclass
class DataArguments:
    """Where the records and their files are, and how they become prompts."""

    data_path: str = field(metadata={"help": "JSON or JSON lines of records, or a mixture (data/README.md)"})
    image_folder: str | None = field(default=None, metadata={"help": "folder of the records' images"})
    video_folder: str | None = field(default=None, metadata={"help": "folder of the records' videos"})
    image_feature_folder: str | None = field(default=None, metadata={"help": "use image features extracted into it"})
    video_feature_folder: str | None = field(default=None, metadata={"help": "use video features extracted into it"})
    conversation: str = field(default="v1", metadata={"help": "prompt style: plain (stage 1) or v1 (stage 2)"})
    fps: float = field(default=1.0, metadata={"help": "frames for each second of video"})
    image_aspect_ratio: str = field(
        default="plain",
        metadata={"help": "pad: extended to a square in the mean colour; plain: cropped to the middle square"},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "tokens of a sample; the last turns are left out to fit; None: the model's maximum"},
    )
    skip_ids: str | None = field(
        default=None, metadata={"help": "report of `flash-vstream check`: leave its records out"}
    )

    def __post_init__(self) -> None:
        """Raises ValueError for a frame rate or a length that is not positive."""
        if not 0 < self.fps < math.inf:
            raise ValueError(f"--fps {self.fps:g} is not a number above 0")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"--max_length {self.max_length} is not a number of at least 1: leave it out")


@dataclass
class VStreamTrainingArguments(TrainingArguments):
    """The HF Trainer's arguments, with this project's defaults and a few of its own."""

    num_train_epochs: float = 1.0
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = field(default=0.03, metadata={"help": "steps, or below 1 the share of all steps"})
    weight_decay: float = 0.0
    bf16: bool | None = field(  # type: ignore[assignment]  # __post_init__ replaces None
        default=None, metadata={"help": "None: if the GPU supports it; not on a CPU"}
    )
    logging_steps: float = 1
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "only False: a loss that is not finite ends the run and is not hidden"}
    )
    save_total_limit: int | None = 2
    report_to: str | None = field(
        default=None, metadata={"help": "None: tensorboard if it is installed, otherwise nothing"}
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "group_by_length: batches of one modality and similar length; random; sequential"},
    )
    # Every trained parameter has a gradient in every batch (see the model's `_zero_token`).
    ddp_find_unused_parameters: bool | None = False
    gradient_accumulation_steps: int = field(  # __post_init__ replaces None
        default=None,  # type: ignore[assignment]
        metadata={"help": "micro-batches of a step; None: computed from global_batch_size, or 1"},
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "samples of a step over all processes; gradient_accumulation_steps is computed from it"},
    )
    projector_learning_rate: float | None = field(default=None, metadata={"help": "of the projector; None: the common"})
    memory_learning_rate: float | None = field(
        default=None, metadata={"help": "of the semantic attention; None: as the projector's"}
    )
    dataloader_num_workers: int = field(
        default=0, metadata={"aliases": ["--num_workers"], "help": "processes that read the data"}
    )

    def __post_init__(self) -> None:
        """Compute the defaults that depend on others, join the processes of DeepSpeed, and check.

        Raises ValueError for options that contradict each other or the machine.
        """
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        if self.report_to is None:
            self.report_to = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
        # All launchers set it; the base class knows it only after DeepSpeed needs it.
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.global_batch_size is not None:
            steps = accumulation_steps(self.global_batch_size, processes, self.per_device_train_batch_size)
            if self.gradient_accumulation_steps not in (None, steps):
                raise ValueError(
                    f"gradient_accumulation_steps is {self.gradient_accumulation_steps}, but global_batch_size"
                    f" {self.global_batch_size} makes it {steps}: leave it out, or change global_batch_size"
                )
            self.gradient_accumulation_steps = steps
        elif self.gradient_accumulation_steps is None:
            self.gradient_accumulation_steps = 1
        if self.save_only_model:
            raise ValueError("--save_only_model is set: such checkpoints cannot be resumed, leave it out")
        if self.logging_nan_inf_filter:
            raise ValueError("--logging_nan_inf_filter is set, which hides losses that are not finite: leave it out")
        if self.auto_find_batch_size:
            raise ValueError(
                "--auto_find_batch_size is set, which changes the global batch: leave it out, and give a smaller"
                " per_device_train_batch_size beside global_batch_size"
            )
        if self.deepspeed is not None:
            _check_deepspeed()
        if self.deepspeed is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            # Without a GPU and --use_cpu, the base class sees one process and DeepSpeed all.
            self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
            compile_communication()
        super().__post_init__()
        if self.deepspeed_plugin is not None:
            import deepspeed

            # On a CPU the base class joins the processes without DeepSpeed, whose ZeRO-3 would then see only one.
            deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False)
        if self.n_gpu > 1:  # torch's DataParallel cannot split lists of visuals
            raise ValueError(
                f"one process sees {self.n_gpu} GPUs: start one for each with torchrun --nproc_per_node {self.n_gpu},"
                " or show it one with CUDA_VISIBLE_DEVICES=0"
            )

    @property
    def batch_arithmetic(self) -> str:
        """One line that says how the global batch is made up."""
        return (
            f"global batch of {self.samples_a_step} = {self.world_size} processes x {self.per_device_train_batch_size}"
            f" samples x {self.gradient_accumulation_steps} accumulation steps"
        )

    @property
    def samples_a_step(self) -> int:
        """Samples of one optimizer step, over all processes."""
        return self.world_size * self.per_device_train_batch_size * self.gradient_accumulation_steps


def _check_deepspeed() -> None:
    """Check that DeepSpeed is installed, and give it the environment of one process if there is no launcher."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("--deepspeed is given but not installed: pip install 'flash-vstream[train]', or leave it out")
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def accumulation_steps(global_batch_size: int, processes: int, per_device: int) -> int:
    """The number of micro-batches in a global batch. Raises ValueError if it does not divide."""
    if per_device < 1:
        raise ValueError(f"per_device_train_batch_size is {per_device}: give 1 or more")
    together = processes * per_device
    if global_batch_size < 1 or global_batch_size % together:
        fitting = [size for size in range(1, per_device + 1) if global_batch_size % (processes * size) == 0]
        remedy = f"set per_device_train_batch_size to {fitting[-1]}" if fitting else "change the number of processes"
        raise ValueError(
            f"global_batch_size {global_batch_size} is no multiple of {processes} processes x"
            f" {per_device} samples: {remedy}"
        )
    return global_batch_size // together
