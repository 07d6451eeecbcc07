"""Fixtures for more than one part: a model too small to know anything, built from nothing in a moment."""

from __future__ import annotations

import os
import signal
import string

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import FramePreprocessor, VStreamConfig, VStreamForConditionalGeneration, VStreamProcessor

TinyModel = tuple[VStreamForConditionalGeneration, VStreamProcessor]

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, here and in all children, under nohup and the like


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes: any text, nothing learnt; ids 0 <unk>, 1 <s>, 2 </s>, then the bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def make_tiny_model(memory: MemoryConfig, seed: int = 0) -> TinyModel:
    """A random model of 4 x 4 patches in 16 x 16 pixels. Its answers are nonsense, but of all it saw."""
    tokenizer = byte_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,  # large, so that greedy tokens are not decided by rounding
    )
    config = VStreamConfig(vision_config=vision, text_config=text, memory=memory)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VStreamForConditionalGeneration(config).eval()
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in string.ascii_letters]
    silent = torch.ones(len(tokenizer), dtype=torch.bool).index_fill(0, torch.tensor(letters), False)
    with torch.no_grad():
        # A logit of 0 loses against 52 random ones: answers are letters, and go on until they are cut.
        model.get_output_embeddings().weight[silent] = 0
    assert config.visual_token_id is not None
    frames = FramePreprocessor(size=16, crop_size=16)
    return model, VStreamProcessor(tokenizer, frames, memory, config.visual_token_id)


@pytest.fixture(scope="session")
def tiny_model() -> TinyModel:
    """A random model with a small memory that is full after 8 frames. Shared: read it only."""
    memory = MemoryConfig(spatial_size=4, temporal_length=6, temporal_size=2, abstract_length=5, retrieved_length=2)
    return make_tiny_model(memory)
