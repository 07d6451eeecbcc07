"""Rebuild the embedded tiny model from nothing: world, tokenizer, CLIP, Llama, stage 1, stage 2.

It takes about an hour on 2 cores with AVX-512, four without. Every step leaves its result in the work folder; after a
kill, the same command continues where it stopped. `flash-vstream package` then ships the result.
"""

import argparse
import functools
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import CLIPModel, LlamaForCausalLM

from flash_vstream.features.extract import default_workers
from flash_vstream.files import atomic, write_json
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model import (
    FramePreprocessor,
    VStreamConfig,
    VStreamForConditionalGeneration,
    VStreamProcessor,
    load,
)
from flash_vstream.model.tokenizer import load_tokenizer
from flash_vstream.options import CommandParser
from flash_vstream.run_record import check_same_run, read_record
from flash_vstream.synthetic import dataset
from flash_vstream.synthetic.encoder import MEAN, STD, random_frames, train_encoder
from flash_vstream.synthetic.language import train_language_model
from flash_vstream.synthetic.optimizer import muon_with_adamw
from flash_vstream.synthetic.recipe import (
    BRIEF_SEED,
    LONG_SEED,
    SHOW_SEED,
    SLIDES_SEED,
    SMOKE,
    TINY_MEMORY,
    TRAIN_SEED,
    TinyRecipe,
)
from flash_vstream.synthetic.render import FRAME_SIZE
from flash_vstream.synthetic.splice import splice, write_spliced
from flash_vstream.synthetic.text import train_tokenizer
from flash_vstream.synthetic.whitening import whiten
from flash_vstream.synthetic.world import SHORTEST_STREAM_S, Stream, make_slides
from flash_vstream.train.arguments import DataArguments, ModelArguments, VStreamTrainingArguments
from flash_vstream.train.precision import bfloat16_is_native
from flash_vstream.train.train import is_trained, train


class Build:
    """The steps in order; each is skipped when its result exists."""

    def __init__(self, work: Path, recipe: TinyRecipe) -> None:
        self.work, self.recipe = work, recipe
        self.tokenizer = work / "tokenizer"
        self.encoder = work / "encoder"
        self.language = work / "language"
        self.base = work / "base"
        self.data = work / "data"
        self.slides = work / "stage1-slides"
        self.frames = work / "stage1-frames"
        self.brief = work / "stage1-brief"
        self.stage1 = work / "stage1"
        self.stage2 = work / "stage2"

    def run(self) -> None:
        """Run all steps. Raises ValueError if the work folder holds results of another recipe or world."""
        self.check_same_recipe()
        for result, step in (
            (self.tokenizer / "tokenizer.model", self.build_tokenizer),
            (self.encoder, self.build_encoder),
            (self.language, self.build_language),
            (self.base, self.build_base),
            (None, self.build_features),  # keeps existing files itself
            (self.data / "finetune.json", self.build_records),  # the last file written
            (None, self.run_stages),
        ):
            if result is None or not result.exists():
                start = time.monotonic()
                print(f"== {step.__name__}", flush=True)
                step()
                print(f"== {step.__name__}: {time.monotonic() - start:.0f} s", flush=True)

    def check_same_recipe(self) -> None:
        """Record the recipe and the world in the work folder, or compare them with its record."""
        record = self.work / "recipe.json"
        now = json.loads(json.dumps({**asdict(self.recipe), "world": dataset.world_version()}))  # lists, as read
        if not record.is_file():
            write_json(record, now)
        check_same_run(record, read_record(record), now, "--work_dir")

    def build_tokenizer(self) -> None:
        """Train the tokenizer."""
        train_tokenizer(self.tokenizer)

    def build_encoder(self) -> None:
        """Train the CLIP."""
        recipe = self.recipe
        train_encoder(self.tokenizer, self.encoder, recipe.encoder_steps, recipe.encoder_groups, recipe.encoder_seed)

    def build_language(self) -> None:
        """Train the Llama on text."""
        recipe = self.recipe
        train_language_model(self.processor(), self.language, recipe.language_steps, recipe.language_batch)

    def processor(self) -> VStreamProcessor:
        """The processor of all models of this build."""
        preprocessor = FramePreprocessor(size=FRAME_SIZE, crop_size=FRAME_SIZE, mean=MEAN, std=STD)
        tokenizer = load_tokenizer(self.tokenizer)
        return VStreamProcessor(tokenizer, preprocessor, TINY_MEMORY, visual_token_id=len(tokenizer))

    def build_base(self) -> None:
        """Combine tower and language model; projector and semantic attention are still untrained."""
        torch.manual_seed(0)
        tower = CLIPModel.from_pretrained(self.encoder).vision_model
        language_model = LlamaForCausalLM.from_pretrained(self.language)
        vision, text = tower.config.to_dict(), language_model.config.to_dict()
        config = VStreamConfig(vision_config=vision, text_config=text, memory=TINY_MEMORY)
        model = VStreamForConditionalGeneration(config)
        model.vision_tower.load_state_dict(tower.state_dict(), strict=True)
        model.language_model.load_state_dict(language_model.state_dict(), strict=True)
        with torch.no_grad():
            features = model.eval().encode_frames(random_frames(self.recipe.whitening_groups, self.recipe.encoder_seed))
        first = model.projector[0]
        assert isinstance(first, torch.nn.Linear)
        whiten(first, pool_grid(features, TINY_MEMORY.spatial_size).flatten(0, 1))
        with atomic(self.base) as folder:
            model.save_pretrained(folder)
            self.processor().save_pretrained(folder)

    def streams(self) -> list[Stream]:
        """The rendered training streams."""
        recipe = self.recipe
        return dataset.make_streams(TRAIN_SEED, recipe.train_streams, SHORTEST_STREAM_S, recipe.longest_train_stream_s)

    def shows(self) -> list[Stream]:
        """The rendered slide shows."""
        return [make_slides(SHOW_SEED + index) for index in range(self.recipe.shows)]

    def build_features(self) -> None:
        """Render streams and slide shows, and encode them."""
        dataset.write_videos(self.streams() + self.shows(), self.data / "videos")
        model, processor = load(str(self.base), device="cuda" if torch.cuda.is_available() else "cpu")
        dataset.extract_features(model, processor, self.data / "videos", self.data / "features")

    def build_records(self) -> None:
        """Splice streams, and write the records of both stages: notes on most streams, conversations on the others."""
        recipe, sources = self.recipe, self.streams()
        n_slides, n_long = recipe.slides + recipe.slides_again, recipe.long_streams + recipe.talk_streams
        slides = self._splice(self.shows(), SLIDES_SEED, n_slides, recipe.rooms_of_slides)
        brief = self._splice(sources, BRIEF_SEED, recipe.brief_streams, recipe.rooms_of_brief, brief=True)
        spliced = self._splice(sources, LONG_SEED, n_long, recipe.rooms_of_long)
        long, talked = spliced[: recipe.long_streams], spliced[recipe.long_streams :]
        checked = recipe.long_checked
        talked_notes = dataset.notes_records(talked, recipe.talks_each, checked=checked, name="told")
        # More single frames, so that their lesson is not forgotten: checks are hard to learn from streams.
        frames_again = dataset.frame_records(long, 1, seed=1, checked=recipe.frames_checked)
        frames = dataset.frame_records(long, recipe.frames_each, checked=recipe.frames_checked)
        asked = dataset.finetune_records(talked, recipe.talks_each, recipe.asks_each, recipe.questions_each)
        for name, records in (
            ("slides", dataset.slide_records(slides[: recipe.slides])),
            ("frames", frames + dataset.slide_records(slides[recipe.slides :], seed=1)),
            ("brief", dataset.notes_records(brief, recipe.brief_notes_each)),
            ("long", dataset.notes_records(long, recipe.long_notes_each, checked=checked) + frames_again),
            ("finetune", asked + talked_notes),
        ):
            write_json(self.data / f"{name}.json", records)

    def _splice(
        self, sources: list[Stream], seed: int, count: int, rooms: tuple[int, int], brief: bool = False
    ) -> list[Stream]:
        """Spliced streams, whose features are written."""
        spliced = splice(sources, seed, count, self.recipe.longest_long_s, rooms, brief)
        write_spliced(spliced, self.data / "features", self.data / "spliced")
        return [item.stream for item in spliced]

    def run_stages(self) -> None:
        """Stage 1 on slide shows, single frames, brief and long streams in turn; stage 2 on conversations."""
        recipe = self.recipe
        # Slide shows teach the simplest look-up: what a room's name finds.
        self._train(self.base, self.slides, "slides", recipe.slides_batch, 1.0)
        self._train(self.slides, self.frames, "frames", recipe.frames_batch, recipe.brief_rate)
        self._train(self.frames, self.brief, "brief", recipe.brief_batch, recipe.brief_rate)
        self._train(self.brief, self.stage1, "long", recipe.batch, recipe.long_rate)
        self._train(self.stage1, self.stage2, "finetune", recipe.batch, recipe.stage2_rate, conversation="v1")

    def _train(
        self, start: Path, folder: Path, records: str, batch: int, rate: float, conversation: str = "plain"
    ) -> None:
        """One run of the Trainer; unlike Vicuna, this language model has to learn in stage 1 too: to look things up."""
        if is_trained(folder):
            return
        model = ModelArguments(str(start), train_language_model=True, attn_implementation="eager")
        path, features = str(self.data / f"{records}.json"), str(self.data / "spliced")
        data = DataArguments(path, video_feature_folder=features, conversation=conversation)
        muon = functools.partial(muon_with_adamw, muon_learning_rate=rate * self.recipe.muon_learning_rate)
        train(model, data, self.arguments(folder, batch, rate), muon)

    def arguments(self, folder: Path, batch: int, rate: float) -> VStreamTrainingArguments:
        """Trainer settings of one part, with AdamW's learning rate multiplied by `rate`."""
        return VStreamTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            learning_rate=rate * self.recipe.learning_rate,
            adam_beta2=0.95,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            weight_decay=0.02,
            bf16=bfloat16_is_native(),
            use_cpu=not torch.cuda.is_available(),
            # On a CPU, workers would take the cores from the steps.
            dataloader_num_workers=default_workers() if torch.cuda.is_available() else 0,
            save_steps=self.recipe.save_steps,
            save_total_limit=1,
            logging_steps=20,
            train_sampling_strategy="group_by_length",
            report_to="none",
        )


def parser() -> argparse.ArgumentParser:
    """The options of `flash-vstream build`."""
    parser = CommandParser("build", __doc__)
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path("checkpoints-finetune/tiny"),
        metavar="DIR",
        help="folder for the results of all steps (%(default)s)",
    )
    parser.add_argument("--smoke", action="store_true", help="run the same steps on almost no data, as a test")
    return parser


def run(options: argparse.Namespace) -> None:
    """Build the model, or continue a build."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    Build(options.work_dir, SMOKE if options.smoke else TinyRecipe()).run()
