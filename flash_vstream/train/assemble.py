r"""Make the model that stage 1 starts from: a vision tower and a language model, with projector and memory untrained.

flash-vstream assemble --vision_tower ckpt/clip-vit-large-patch14 \
        --language_model ckpt/vicuna-7b-v1.5 --output_dir ckpt/flash-vstream-7b-base
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flash_vstream.files import atomic
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamConfig, VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.checkpoints.files import check_weights, resolve_folder
from flash_vstream.model.checkpoints.published import tower_config
from flash_vstream.model.checkpoints.weights import load_tower
from flash_vstream.model.generation import unite_stop_ids
from flash_vstream.model.processing import FRAMES_FILE, read_frame_preprocessor
from flash_vstream.model.tokenizer import load_tokenizer
from flash_vstream.options import CommandParser
from flash_vstream.train.model import cast_weights


def assemble(
    vision_tower: str | Path, language_model: str | Path, memory: MemoryConfig, seed: int
) -> tuple[VStreamForConditionalGeneration, VStreamProcessor]:
    """(model, processor), with all weights in the language model's dtype, of two folders or hub ids.

    `seed` decides the untrained projector and semantic attention. Raises ValueError if one of the two cannot be used.
    """
    tower_folder, text_folder = resolve_folder(vision_tower), resolve_folder(language_model)
    check_weights(text_folder)
    text_config = AutoConfig.from_pretrained(text_folder)
    tokenizer = load_tokenizer(text_folder)
    config = VStreamConfig(
        vision_config=tower_config(str(tower_folder)),
        text_config=text_config,
        memory=memory,
        visual_token_id=max(len(tokenizer), text_config.vocab_size),
    )
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = VStreamForConditionalGeneration(config)
    model.memory.to_empty(device="cpu")
    model.projector.to_empty(device="cpu")
    for module in (*model.memory.modules(), *model.projector.modules()):
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    model.vision_tower = load_tower(str(tower_folder), config.vision_config)
    model.language_model = AutoModelForCausalLM.from_pretrained(text_folder, dtype="auto")
    assert model.generation_config is not None and model.language_model.generation_config is not None
    model.generation_config.eos_token_id = model.language_model.generation_config.eos_token_id
    unite_stop_ids(model, tokenizer)
    cast_weights(model, model.language_model.dtype)
    frames = read_frame_preprocessor(tower_folder)
    if frames.output_size != config.frame_size:
        file = tower_folder / FRAMES_FILE
        raise ValueError(f"{file} gives frames of {frames.output_size} pixels, the tower takes {config.frame_size}")
    return model, VStreamProcessor(tokenizer, frames, memory, config.visual_token_id)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = CommandParser("assemble", __doc__)
    add = options.add_argument
    add("--vision_tower", required=True, help="folder or hub id of a CLIP, SigLIP or DINOv2 encoder")
    add("--language_model", required=True, help="folder or hub id of a decoder, such as Vicuna")
    add("--output_dir", type=Path, required=True)
    add("--seed", type=int, default=42, help="of the untrained projector and attention")
    return options


def run(options: argparse.Namespace) -> None:
    """Assemble the model and write it. Raises ValueError if the output exists."""
    output = options.output_dir
    if output.exists():
        raise ValueError(f"--output_dir {output} exists: give a new folder, or use the model in it")
    model, processor = assemble(options.vision_tower, options.language_model, MemoryConfig(), options.seed)
    with atomic(output) as part:
        processor.save_pretrained(part)
        model.save_pretrained(part)
