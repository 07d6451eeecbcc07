"""What a training step costs: its phases, tokens a second, share of the machine's peak, and share in the memory.

    python -m benchmarks.training                                     the shipped tiny model's shapes, stage 1
    python -m benchmarks.training --shapes 7b --stage 2 --lora --device cuda --dtype bfloat16

Weights are held as a run of `flash_vstream.train.train` in one process, without DeepSpeed, holds them: trained ones in
float32, frozen ones and the arithmetic in `--dtype`. `7b` has the shapes of CLIP ViT-L/14 and Vicuna-7B with random
weights and gradient checkpointing. Each sample is a video, as extracted features [frames, P, D] pooled to the memory's
spatial size, and a text of random ids. Reading and moving data is left out.

The memory: its call in the forward is timed by itself, between two waits for the device. Its graph is cut off there, so
that its backward (to q and k; the features get no gradient) runs and is timed after that of all the rest. With
`--digests` it starts from what data workers have made of the features (`memory.digest`), as in a run that has workers;
what that takes one of them, on one thread, is timed apart, and says how many keep up with the steps.

The arithmetic, a multiplication and an addition being two, is counted from shapes. For each linear layer of N weights,
a token: 2 N forward, 2 N backward to what came in, 2 N more where the weights are trained. For each block's attention,
a sequence of L tokens, H wide: 2 L^2 H forward and 4 L^2 H backward, which is the half below the diagonal. Norms,
softmax, the memory and the optimizer count for nothing. Gradient checkpointing computes each block's forward once more
(but for its last matrix, whose result nothing needs); this is counted apart. The peak is what the best of many large
matrix products in `--dtype` reaches in the same run.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from benchmarks.memory import scenes, synchronise
from benchmarks.session import ATTENTION, model_of_7b
from flash_vstream import VStreamConfig, load
from flash_vstream.memory import MemoryConfig, digest
from flash_vstream.model.processing import IGNORED
from flash_vstream.model.visuals import Digest, Features
from flash_vstream.train.arguments import STAGES, ModelArguments
from flash_vstream.train.model import bare, cast_weights, freeze, named_trained, with_lora

GOAL = 0.05  # of the step, in the memory
WARM_UP = 3  # steps; the first makes the optimizer's states


class MemoryApart:
    """Stands in for a method of the memory: times it, and cuts its graph off for a backward of its own."""

    def __init__(self, memory: Any, method: str, device: str) -> None:
        self.method, self.device = getattr(memory, method), device
        self.seconds, self.cuts = 0.0, list[tuple[Tensor, Tensor]]()
        setattr(memory, method, self)

    def __call__(self, visual: Any) -> Tensor:
        """Features [T, P, D] or what is made of them -> memory tokens [N, D], a leaf of the graph."""
        began = clock(self.device)
        tokens = self.method(visual)
        self.seconds += clock(self.device) - began
        leaf = tokens.detach()
        if tokens.requires_grad:
            self.cuts.append((tokens, leaf.requires_grad_(True)))
        return leaf

    def backward(self) -> None:
        """From the leaves' gradients to q and k; nothing where the clips are too short for the attention."""
        if self.cuts:
            torch.autograd.backward([tokens for tokens, _ in self.cuts], [leaf.grad for _, leaf in self.cuts])
        self.cuts = []


def clock(device: str) -> float:
    """Seconds, once the device is done with all that it was given."""
    synchronise(device)
    return time.perf_counter()


def make_model(arguments: argparse.Namespace) -> nn.Module:
    """The model of a run, on its device, as `train.open_model` would hold it."""
    whole = arguments.stage == 2 and not arguments.lora
    parts = ModelArguments(model_path="", train_language_model=whole, lora=arguments.lora)
    frozen = torch.float32 if whole else getattr(torch, arguments.dtype)
    if arguments.shapes == "tiny":
        model = load(device=arguments.device, dtype=torch.float32, attn_implementation=arguments.attention)[0]
    else:
        model = model_of_7b(arguments.device, frozen, arguments.attention)[0]
        model.gradient_checkpointing_enable()
    freeze(model, parts)
    for part, dtype in (
        (model.vision_tower, frozen),
        (model.language_model, frozen),
        (model.projector, torch.float32),
        (model.memory, torch.float32),
    ):
        cast_weights(part, dtype)
    return (with_lora(model, parts) if arguments.lora else model).train()


def make_batch(config: VStreamConfig, arguments: argparse.Namespace) -> dict[str, Any]:
    """input_ids, labels, attention_mask [B, L] and B times features [T, P, D] in float16. Raises ValueError."""
    text: Any = config.text_config
    visual = config.memory.num_tokens(arguments.frames)
    length = visual + arguments.text_tokens
    if length > text.max_position_embeddings:
        raise ValueError(
            f"{visual} visual and {arguments.text_tokens} text tokens are past the {text.max_position_embeddings} of"
            f" the language model: give --text_tokens {text.max_position_embeddings - visual} or fewer"
        )
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(3, text.vocab_size, (arguments.batch_size, length), generator=generator)
    labels = input_ids.clone()
    input_ids[:, 1 : 1 + visual] = config.visual_token_id
    labels[:, : 1 + visual] = IGNORED
    size, device = (arguments.frames, config.memory.spatial_size**2, config.vision_config.hidden_size), arguments.device
    return {
        "input_ids": input_ids.to(device),
        "labels": labels.to(device),
        "attention_mask": torch.ones_like(input_ids, device=device),
        "visuals": [Features(scenes(*size, device, torch.float16, seed=n)) for n in range(arguments.batch_size)],
    }


def digest_features(memory: MemoryConfig, batch: dict[str, Any]) -> float:
    """Puts the digests in the place of the features; seconds on one thread, the data's way to the device left out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    features = [visual.values.cpu() for visual in batch["visuals"]]
    began = time.perf_counter()
    digests = [digest(memory, clip.float()) for clip in features]
    seconds = time.perf_counter() - began
    torch.set_num_threads(threads)
    device = batch["input_ids"].device
    batch["visuals"] = [Digest(entries.to(device), tokens.to(device)) for entries, tokens in digests]
    return seconds


def step(
    model: nn.Module, optimizer: Optimizer, memory: MemoryApart, batch: dict[str, Any], dtype: torch.dtype
) -> dict[str, float]:
    """One step; milliseconds of its phases."""
    memory.seconds = 0.0
    marks = [clock(memory.device)]
    with torch.autocast(torch.device(memory.device).type, dtype, enabled=dtype != torch.float32):
        loss = model(**batch, use_cache=False).loss
    marks.append(clock(memory.device))
    loss.backward()
    marks.append(clock(memory.device))
    memory.backward()
    marks.append(clock(memory.device))
    nn.utils.clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    marks.append(clock(memory.device))
    assert math.isfinite(float(loss.detach()))
    forward, backward, of_memory, update = (1e3 * (after - before) for before, after in pairwise(marks))
    return {
        "step, ms": 1e3 * (marks[-1] - marks[0]),
        "forward, without the memory, ms": forward - 1e3 * memory.seconds,
        "backward, without the memory, ms": backward,
        "optimizer, ms": update,
        "memory, forward, ms": 1e3 * memory.seconds,
        "memory, backward, ms": of_memory,
    }


def count_arithmetic(model: nn.Module, batch_size: int, length: int, visual: int) -> tuple[int, int]:
    """Operations of a step on `batch_size` sequences of `length` tokens, `visual` of them from the memory.

    What the step asks for, and what checkpointing computes once more.
    """
    inner: Any = bare(model)
    text, decoder, tokens = inner.config.text_config, inner.get_decoder(), batch_size * length
    attention = 2 * length**2 * text.num_attention_heads * text.head_dim * text.num_hidden_layers * batch_size
    asked = 3 * attention + batch_size * visual * operations(inner.projector)
    asked += tokens * (operations(decoder) + operations(inner.get_output_embeddings()))
    repeated = [weight.numel() for layer in decoder.layers for weight in matrices(layer)[:-1]]
    return asked, 2 * tokens * sum(repeated) + attention if decoder.layers[0].gradient_checkpointing else 0


def operations(part: nn.Module) -> int:
    """Of all linear layers of `part` for one token, forward and backward."""
    return sum((6 if weight.requires_grad else 4) * weight.numel() for weight in matrices(part))


def matrices(part: nn.Module) -> list[Tensor]:
    """The weights of the linear layers of `part`, in the order in which they are used."""
    return [module.weight for module in part.modules() if isinstance(module, nn.Linear)]


def peak_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the best of 10 large square matrix products."""
    size = 8192 if device.startswith("cuda") else 2048
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        began = clock(device)
        left @ right
        times.append(clock(device) - began)
    return 2 * size**3 / min(times)


def rates(ms: dict[str, float], tokens: int, frames: int, asked: float, again: float) -> dict[str, float]:
    """What follows from a step's times, for `tokens` and `frames` in the whole batch and arithmetic in seconds."""
    seconds, in_memory = ms["step, ms"] / 1e3, ms["memory, forward, ms"] + ms["memory, backward, ms"]
    return {
        "memory, ms a frame": in_memory / frames,
        f"memory, share of the step (goal {GOAL})": in_memory / ms["step, ms"],
        "tokens a second": tokens / seconds,
        "share of the peak, without recomputation": asked / seconds,
        "share of the peak, with recomputation": (asked + again) / seconds,
    }


def measure(arguments: argparse.Namespace) -> None:
    """Take the steps and print one table. Raises ValueError."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    model = make_model(arguments)
    config = bare(model).config
    batch = make_batch(config, arguments)
    digest_seconds = digest_features(config.memory, batch) if arguments.digests else 0.0
    trained = [parameter for _, parameter in named_trained(model)]
    optimizer = AdamW(trained, lr=STAGES[arguments.stage]["learning_rate"], weight_decay=0.0, fused=True)
    memory = MemoryApart(bare(model).memory, "read_digest" if arguments.digests else "consolidate", device)
    peak = peak_rate(device, dtype)
    steps = [step(model, optimizer, memory, batch, dtype) for _ in range(WARM_UP + arguments.steps)][WARM_UP:]
    peak = max(peak, peak_rate(device, dtype))

    batch_size, length = batch["input_ids"].shape
    visual = config.memory.num_tokens(arguments.frames)
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    stage = f"stage {arguments.stage}{' with LoRA' if arguments.lora else ''}"
    of_what = f"{arguments.shapes} shapes, {stage}, {arguments.dtype}, {arguments.attention}"
    print(f"{of_what}, {where}, torch {torch.__version__}")
    print(f"{batch_size} videos of {arguments.frames} frames, {length} tokens each ({visual} of them visual);", end=" ")
    print(f"{sum(parameter.numel() for parameter in trained) / 1e6:.2f} million trained weights")
    print(f"| {arguments.steps} steps | median | middle half |\n|---|---|---|")
    asked, again = count_arithmetic(model, batch_size, length, visual)
    tokens, frames = batch_size * length, batch_size * arguments.frames
    rows = [times | rates(times, tokens, frames, asked / peak, again / peak) for times in steps]
    for name in rows[0]:
        low, middle, high = statistics.quantiles([row[name] for row in rows], n=4, method="inclusive")
        print(f"| {name} | {middle:.4g} | {low:.4g} to {high:.4g} |")
    on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = torch.cuda.max_memory_allocated() if device.startswith("cuda") else on_host
    if arguments.digests:
        a_frame = 1e3 * digest_seconds / frames
        needed = 1e3 * digest_seconds / statistics.median(row["step, ms"] for row in rows)
        print(f"| digest in a data worker, ms a frame | {a_frame:.4g} | {needed:.2g} workers keep up |")
    print(f"| arithmetic of a step, TFLOP | {asked / 1e12:.4g} | {again / 1e12:.4g} more recomputed |")
    print(f"| peak, TFLOP a second | {peak / 1e12:.4g} | |\n| most memory held, GiB | {held / 2**30:.2f} | |")


def check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for arguments that nothing can be measured with."""
    for name, least in (("batch_size", 1), ("frames", 1), ("text_tokens", 2), ("steps", 2)):
        if getattr(arguments, name) < least:
            raise ValueError(f"{name} is {getattr(arguments, name)}: give {least} or more")
    if arguments.lora and arguments.stage == 1:
        raise ValueError("stage 1 leaves the language model as it is: give --lora with --stage 2")
    try:
        torch.zeros(1, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {arguments.device} cannot be used ({reason}): choose another, such as cpu") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=("tiny", "7b"), default="tiny")
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), default=1)
    parser.add_argument("--lora", action="store_true", help="stage 2: train a LoRA instead of the language model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--attention", choices=ATTENTION, default="sdpa")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=120, help="of each video")
    parser.add_argument("--text_tokens", type=int, default=256, help="of each sample")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--digests", action="store_true", help="as in a run with data workers")
    arguments = parser.parse_args(argv)
    try:
        check(arguments)
        measure(arguments)
    except torch.OutOfMemoryError:
        print(f"error: {arguments.device} has too little memory for this: lower --batch_size", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
