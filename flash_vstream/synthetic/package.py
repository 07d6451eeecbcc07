"""Packs a trained tiny model, a clip and questions about it as the package's embedded default.

`python -m flash_vstream.synthetic.package --model_path checkpoints-finetune/tiny/stage2`
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from flash_vstream.command import run_command
from flash_vstream.files import flush
from flash_vstream.model import load
from flash_vstream.synthetic.dataset import write_json
from flash_vstream.synthetic.questions import all_questions, ask_times, choose
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import Stream, make_stream

CLIP_SEED = 3_000_029  # away from training and scoring; in it one object leaves a room and comes into the next
CLIP_SECONDS = (115.0, 125.0)
DEMONSTRATED = ("room now", "first room", "room of object", "colour then")  # kinds that the shipped model has learnt
CLIP_SIZE = 288  # pixels a side: for people to look at
CLIP_FPS = 8
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def package_model(model_path: str, folder: Path) -> None:
    """Write model and processor to `folder`, weights in float16 and opened as float32."""
    model, processor = load(model_path, dtype=torch.float32)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
        part.pop("_name_or_path", None)  # a folder of the machine that trained it
    write_json(path, config)


def clip_questions(stream: Stream) -> list[dict[str, object]]:
    """What to ask when nobody asks anything: of the kinds in DEMONSTRATED, in the second half of the clip."""
    rng = random.Random(CLIP_SEED)
    calm = ask_times(stream, int(stream.duration), rng, earliest=0.2)
    chosen = []
    for asked_at in (calm[len(calm) // 2], calm[3 * len(calm) // 4]):
        items = [item for item in all_questions(stream, asked_at, rng) if item.template in DEMONSTRATED]
        chosen += choose(items, len(DEMONSTRATED), rng, Counter(), set())
    return [{"time": item.asked_at, "question": item.question, "answer": item.answer} for item in chosen]


def package_clip(folder: Path) -> None:
    """Write the clip and its questions."""
    stream = make_stream(CLIP_SEED, *CLIP_SECONDS)
    write_mp4(stream, folder / "clip.mp4", CLIP_FPS, CLIP_SIZE)
    write_json(folder / "clip.json", clip_questions(stream))


def package(model_path: str, assets: Path) -> None:
    """Put model and clip into `assets`. What is there stays until all that takes its place is on the disk."""
    with tempfile.TemporaryDirectory(suffix=".part", dir=assets) as name:
        part = Path(name)
        package_model(model_path, part / "tiny")
        package_clip(part)
        flush(part)
        old = assets / "tiny.old"  # not in `part`, which goes whatever happens between these lines
        if (assets / "tiny").exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(assets / "tiny", old)
        for made in ("tiny", "clip.mp4", "clip.json"):
            os.replace(part / made, assets / made)
        shutil.rmtree(old, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True)
    arguments = parser.parse_args(argv)
    return run_command(
        lambda: package(arguments.model_path, ASSETS),
        interrupted="what was packaged before is kept",
        refused=(SafetensorError,),  # a full disk, as safetensors puts it
    )


if __name__ == "__main__":
    sys.exit(main())
