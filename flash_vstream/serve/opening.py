"""Opens the model that watches, and the engine that answers, from the options of a command."""

from __future__ import annotations

import argparse

import torch
import transformers

from flash_vstream.engine.address import parse_engine
from flash_vstream.engine.opening import RemoteEngine, open_remote
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.process import Process


def open_model(
    options: argparse.Namespace,
) -> tuple[VStreamForConditionalGeneration, VStreamProcessor, RemoteEngine | None]:
    """What --model_path, --device, --memory and --engine name: the model, its processor, and an engine elsewhere.

    The model is in bfloat16 on a GPU and in float32 on a CPU, and without its language model if another engine answers.
    Raises ValueError for an option that cannot be.
    """
    # transformers' progress bars and hints are for developers, and would disturb the prompt.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    address = parse_engine(options.engine)  # before the model is read, which takes long
    device = Process().device(options.device)
    model, processor = load(
        options.model_path,
        device=device,
        dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
        memory_mode=options.memory,
        with_language_model=address is None,
    )
    return model, processor, None if address is None else open_remote(address, model, processor)
