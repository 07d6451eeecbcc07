"""What a training run can be told, in three groups; every default stands here and nowhere else.

`STAGES` are the settings of the paper's two stages (arXiv 2406.08085, section 4.1): `--stage` takes one of them as
the defaults of a command, and every option of its own overrides them.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from flash_vstream.data.dataset import check_limits
from flash_vstream.train.optimizer import compile_communication

STAGES: dict[int, dict[str, Any]] = {
    1: {  # pretraining: projector and semantic attention learn to speak to a frozen language model
        "conversation": "plain",
        "image_aspect_ratio": "plain",
        "train_language_model": False,
        "global_batch_size": 256,
        "learning_rate": 1e-3,
    },
    2: {  # finetuning: the language model learns too
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
    memory_mode: str | None = field(default=None, metadata={"help": "another memory mode than the checkpoint's"})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2; None: what transformers takes by itself"}
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
        if self.lora and self.train_language_model:
            raise ValueError("lora and train_language_model are both set: set lora, or train it whole")
        if self.quantization not in (None, "4bit", "8bit"):
            raise ValueError(f"quantization is {self.quantization!r}: choose 4bit or 8bit, or leave it out")
        if self.quantization and not self.lora:
            raise ValueError(f"quantization {self.quantization} trains nothing of the language model: set lora as well")


@dataclass
class DataArguments:
    """Where the records and what they show are found, and how they become prompts."""

    data_path: str = field(metadata={"help": "JSON list of records"})
    image_folder: str | None = field(default=None, metadata={"help": "folder that the records' image paths start from"})
    video_folder: str | None = field(default=None, metadata={"help": "folder that the records' video paths start from"})
    image_feature_folder: str | None = field(default=None, metadata={"help": "use image features extracted into it"})
    video_feature_folder: str | None = field(default=None, metadata={"help": "use video features extracted into it"})
    conversation: str = field(default="v1", metadata={"help": "prompt style: plain (stage 1) or v1 (stage 2)"})
    video_fps: float = field(default=1.0, metadata={"help": "frames a second that are seen of a video"})
    image_aspect_ratio: str = field(
        default="plain", metadata={"help": "pad: on a square canvas of the mean colour; plain: the middle is cut out"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of a sample, past which turns are cut; None: what the model can hold"}
    )
    skip_ids: str | None = field(
        default=None, metadata={"help": "report of python -m flash_vstream.data.check: leave its records out"}
    )

    def __post_init__(self) -> None:
        check_limits(self.video_fps, self.max_length)


@dataclass
class VStreamTrainingArguments(TrainingArguments):
    """The HF Trainer's arguments, with this project's defaults and a few of its own."""

    num_train_epochs: float = 1.0
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = field(default=0.03, metadata={"help": "steps, or below 1 the share of all steps"})
    weight_decay: float = 0.0
    bf16: bool | None = field(  # type: ignore[assignment]  # __post_init__ puts a bool in the place of None
        default=None, metadata={"help": "None: where the GPU has it, and never on a CPU"}
    )
    logging_steps: float = 1
    save_total_limit: int | None = 2
    report_to: str | None = field(
        default=None, metadata={"help": "None: tensorboard where it is installed, else nothing"}
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "group_by_length: batches of one modality and similar length; random; sequential"},
    )
    # Every trained parameter gets a gradient in every batch (see the model's forward): nothing to look for.
    ddp_find_unused_parameters: bool | None = False
    gradient_accumulation_steps: int = field(  # __post_init__ puts an int in the place of None
        default=None,  # type: ignore[assignment]
        metadata={"help": "micro-batches of a step; None: as global_batch_size makes it, or 1"},
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "samples of a step over all processes; gradient_accumulation_steps is computed from it"},
    )
    projector_learning_rate: float | None = field(default=None, metadata={"help": "of the projector; None: the common"})
    memory_learning_rate: float | None = field(
        default=None, metadata={"help": "of the semantic attention; None: as the projector's"}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "train the matrices of projector and decoder layers by Muon, at this rate"}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        if self.report_to is None:
            self.report_to = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
        # torchrun, deepspeed and accelerate all set it; the HF arguments would know it only after DeepSpeed needs it.
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
        self._check_muon()
        if self.save_only_model:
            raise ValueError("save_only_model is set: a run could not go on from such checkpoints, leave it out")
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size is set, which changes the global batch: leave it out, and give a smaller"
                " per_device_train_batch_size beside global_batch_size"
            )
        if self.deepspeed is not None:
            _check_deepspeed()
        if self.deepspeed is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            # Without a GPU and unless told so, the base class sees one process where DeepSpeed sees all.
            self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
            compile_communication()
        super().__post_init__()
        if self.deepspeed_plugin is not None:
            self._check_muon()  # accelerate's launcher sets DeepSpeed by the environment alone
            import deepspeed

            # On a CPU the base class joins the processes past DeepSpeed, whose ZeRO-3 then would see only one of them.
            deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False)
        if self.n_gpu > 1:  # one process would split its lists of videos among them, which do not split
            raise ValueError(
                f"one process sees {self.n_gpu} GPUs: start one for each with torchrun --nproc_per_node {self.n_gpu},"
                " or show it one with CUDA_VISIBLE_DEVICES=0"
            )

    def _check_muon(self) -> None:
        """Raises ValueError for what Muon does not go together with."""
        if self.muon_learning_rate is None:
            return
        if self.deepspeed is not None or getattr(self, "deepspeed_plugin", None) is not None:
            # Muon needs whole matrices, of which DeepSpeed makes vectors.
            raise ValueError("muon_learning_rate and deepspeed are both set: leave one of them out")
        if self.optim != TrainingArguments.optim:
            raise ValueError(
                f"muon_learning_rate is set, which brings its own optimizer, and optim is {self.optim}: leave one of"
                " them out"
            )

    @property
    def batch_arithmetic(self) -> str:
        """How the global batch comes about, for people to read."""
        return (
            f"global batch of {self.samples_a_step} = {self.world_size} processes x {self.per_device_train_batch_size}"
            f" samples x {self.gradient_accumulation_steps} accumulation steps"
        )

    @property
    def samples_a_step(self) -> int:
        """Samples between two steps of the optimizer, over all processes."""
        return self.world_size * self.per_device_train_batch_size * self.gradient_accumulation_steps


def _check_deepspeed() -> None:
    """Says in one line what DeepSpeed would say with a traceback."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("deepspeed is given but not installed: pip install 'flash-vstream[train]', or leave it out")
    if "RANK" not in os.environ:
        raise ValueError("deepspeed is given to plain python: start with torchrun --nproc_per_node N -m ...")


def accumulation_steps(global_batch_size: int, processes: int, per_device: int) -> int:
    """How many micro-batches make a global batch. Raises ValueError where it does not divide."""
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
