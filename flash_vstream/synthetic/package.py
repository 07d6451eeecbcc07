"""Ship a trained tiny model, a clip and questions about it as the package's defaults."""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import torch

from flash_vstream.files import atomic
from flash_vstream.model import load
from flash_vstream.options import CommandParser
from flash_vstream.synthetic.questions import all_questions, ask_times, choose
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import Stream, make_stream

CLIP_SEED = 3_000_029  # far from training and scoring; in it one object leaves a room and enters the next
CLIP_SECONDS = (115.0, 125.0)
DEMONSTRATED = ("room now", "first room", "room of object", "colour then")  # learnt by the shipped model
CLIP_SIZE = 288  # pixels a side, for human viewers
CLIP_FPS = 8
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def package_model(model_path: str, folder: Path) -> None:
    """Write model and processor to `folder`, with weights in float16 that are opened as float32."""
    model, processor = load(model_path, dtype=torch.float32)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
        part.pop("_name_or_path", None)  # a local path of the training
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def clip_questions(stream: Stream) -> list[dict[str, object]]:
    """Default questions about the clip: of the templates in DEMONSTRATED, in its second half."""
    rng = random.Random(CLIP_SEED)
    calm = ask_times(stream, int(stream.duration), rng, earliest=0.2)
    chosen = []
    for asked_at in (calm[len(calm) // 2], calm[3 * len(calm) // 4]):
        items = [item for item in all_questions(stream, asked_at, rng) if item.template in DEMONSTRATED]
        chosen += choose(items, len(DEMONSTRATED), rng, Counter(), set())
    return [{"time": item.asked_at, "question": item.question, "answer": item.answer} for item in chosen]


def package_clip(clip: Path, questions: Path) -> None:
    """Write the clip and its questions."""
    stream = make_stream(CLIP_SEED, *CLIP_SECONDS)
    write_mp4(stream, clip, CLIP_FPS, CLIP_SIZE)
    questions.write_text(json.dumps(clip_questions(stream), indent=1), encoding="utf-8")


def package(model_path: str, assets: Path) -> None:
    """Put model and clip into `assets`. All is made before the first of the old ones is replaced."""
    with (
        atomic(assets / "tiny") as model,
        atomic(assets / "clip.mp4") as clip,
        atomic(assets / "clip.json") as questions,
    ):
        package_model(model_path, model)
        package_clip(clip, questions)


def parser() -> argparse.ArgumentParser:
    """The options of `flash-vstream package`."""
    parser = CommandParser("package", __doc__)
    parser.add_argument("--model_path", required=True, metavar="DIR", help="folder of the trained tiny model")
    return parser


def run(options: argparse.Namespace) -> None:
    """Replace the model, the clip and its questions in the package."""
    package(options.model_path, ASSETS)
