"""The model of a run: loaded, optionally quantized or with a LoRA, and frozen except for the parts to train."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.checkpoints.adapters import LORA_FILE, PARTS, is_adapter
from flash_vstream.train.arguments import ModelArguments, VStreamTrainingArguments


def open_model(
    model_arguments: ModelArguments, arguments: VStreamTrainingArguments
) -> tuple[nn.Module, VStreamProcessor]:
    """(model, processor) to train; a PeftModel with `lora`. Raises ValueError if options and checkpoint do not fit."""
    folder = Path(model_arguments.model_path)
    if is_adapter(folder) and (folder / LORA_FILE).is_file() and not model_arguments.train_language_model:
        raise ValueError(
            f"--model_path {folder} holds a LoRA, which the new adapter would need too: merge it first"
            f" (flash-vstream merge --model_path {folder} --output_dir ...)"
        )
    # DeepSpeed would turn all weights into bfloat16 anyway and keep its own float32 copy of the trained ones.
    dtype = torch.bfloat16 if arguments.bf16 and arguments.deepspeed_plugin is not None else torch.float32
    model, processor = load(
        folder,
        dtype=dtype,
        memory_mode=model_arguments.memory,
        base=model_arguments.model_base,
        attn_implementation=model_arguments.attn_implementation,
        quantization_config=quantization(model_arguments.quantization),
    )
    freeze(model, model_arguments)
    if arguments.bf16 and not model_arguments.train_language_model and not model_arguments.quantization:
        # They are frozen and not saved, so nothing is lost in half the space.
        for part in (model.vision_tower, model.language_model):
            cast_weights(part, torch.bfloat16)
    return (with_lora(model, model_arguments) if model_arguments.lora else model), processor


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights in place, and only them.

    `Module.to` would also round the frequencies of rotary position embeddings, which no checkpoint holds, so the model
    would be trained on other positions than it is used with.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def quantization(kind: str | None) -> BitsAndBytesConfig | None:
    """The configuration for "4bit" (NF4, as in QLoRA), "8bit" or None."""
    if kind is None:
        return None
    return BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def freeze(model: VStreamForConditionalGeneration, arguments: ModelArguments) -> None:
    """Freeze all but the parts to train; the vision tower too, as the memory passes no gradient to it.

    Raises ValueError if nothing is trained.
    """
    parts = {
        "projector": arguments.train_projector,
        "memory": arguments.train_memory,
        "language_model": arguments.train_language_model,
        "vision_tower": False,
    }
    if not any(parts.values()) and not arguments.lora:
        raise ValueError("nothing to train: set train_projector, train_memory, train_language_model or lora")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():  # a quantized weight can have no gradient
            parameter.requires_grad_(parts[name.split(".")[0]])


def with_lora(model: VStreamForConditionalGeneration, arguments: ModelArguments) -> nn.Module:
    """The model with a LoRA in every linear layer of the language model's blocks; other trained parts stay trained."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("lora needs peft: install it (pip install peft)") from error
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    layers = {
        re.escape(name.rsplit(".")[-1])
        for name, module in model.language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings()
    }
    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=rf"language_model\..*\.({'|'.join(sorted(layers))})",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    for parameter in trained:
        parameter.requires_grad_(True)
    return wrapped


def bare(model: Any) -> VStreamForConditionalGeneration:
    """The model without its PEFT wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def named_trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trained parameters by their names in the bare model."""
    return [(name, parameter) for name, parameter in bare(model).named_parameters() if parameter.requires_grad]


def is_adapter_run(model: nn.Module) -> bool:
    """Whether an adapter holds all trained weights."""
    return all(name.startswith(PARTS) or ".lora_" in name for name, _ in named_trained(model))
