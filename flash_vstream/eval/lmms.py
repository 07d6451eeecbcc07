"""The plug-in for lmms-eval: `lmms-eval --model flash_vstream --tasks ...` (extra `lmms`).

lmms-eval finds `manifest` through the entry-point group `lmms_eval.models`. Model arguments: pretrained (a checkpoint;
without it the embedded tiny model), base, memory (its mode), fps, dtype. Every video goes through the memory as a live
session's would and is watched to its end; a picture is a video of one frame. Nothing else of this project imports this
file, so that lmms-eval need not be there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from tqdm import tqdm

from flash_vstream.eval.answering.likelihood import Likelihood, rate_continuations
from flash_vstream.eval.answering.watch import EVERYTHING, Seen, watch
from flash_vstream.model import load
from flash_vstream.model.prompts import VISUAL_TOKEN
from flash_vstream.serve.session import DEFAULT_MAX_NEW_TOKENS

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
Asked = tuple[str, list[Seen]]  # a prompt and what is seen at each of its placeholders


def manifest() -> ModelManifest:
    """What the entry point gives. One class for all: lmms-eval's "chat" classes cannot rate given options."""
    return ModelManifest("flash_vstream", simple_class_path=f"{__name__}.FlashVStream", aliases=("flash-vstream",))


class FlashVStream(lmms):
    """A checkpoint of this project behind lmms-eval's interface.

    Several processes (accelerate launch, torchrun) each take a share of the questions and the GPU of their local rank.
    Raises ValueError for a checkpoint, device or visual that cannot be used.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        base: str | None = None,
        memory: str | None = None,
        fps: float = 1.0,
        dtype: str = "auto",
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}: give a number of questions, at least 1")
        if device in (None, "cuda") and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.model, self.processor = load(pretrained, device=device, dtype=dtype, memory_mode=memory, base=base)
        self.batch_size = int(batch_size)
        self.fps = float(fps)
        self._last_video: tuple[str, Seen] | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The reply to each request, cut before the first of its `until`. Greedy unless the task asks for sampling."""
        replies: list[str] = []
        with self._progress(requests, "answering") as progress:
            for options, group in groupby(requests, key=lambda request: request.args[1]):
                for batch in _batches(list(group), self.batch_size):
                    asked = []
                    for request in batch:
                        context, _, to_visual, doc_id, task, split = request.args
                        asked.append(self._asked(context, to_visual(self.task_dict[task][split][doc_id])))
                    replies += self._answer(asked, options)
                    progress.update(len(batch))
        return replies

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """All replies of each request: after each the task says what comes next, until it says that this was all."""
        with self._progress(requests, "answering in rounds") as progress:
            conversations = []
            for request in requests:
                conversations.append(self._rounds(*request.args))
                progress.update()
        return conversations

    def _rounds(
        self,
        context: str,
        options: dict[str, Any],
        to_visual: Callable[..., Any],
        to_text: Callable[..., Any],
        doc_id: int,
        task: str,
        split: str,
    ) -> list[str]:
        doc = self.task_dict[task][split][doc_id]
        visuals, told, number, is_over = to_visual(doc), None, 0, False
        replies: list[str] = []
        while not is_over:
            replies = [*replies, *self._answer([self._asked(context, visuals)], options)]
            number += 1
            visuals, context, is_over, replies, told = to_text(
                doc, previous_output=replies, round_idx=number, previous_round_info=told
            )
        return list(replies)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """For each request the loss of its continuation (its mean over the tokens), and whether greedy search gives it.

        A loss, less being likelier, because that is what lmms-eval takes here, for all that the method's name says.
        """
        rated: list[Likelihood] = []
        with self._progress(requests, "rating") as progress:
            for _, group in groupby(requests, key=_question_of):  # the options of one question follow one another
                options = list(group)
                context, _, to_visual, doc_id, task, split = options[0].args
                doc = self.task_dict[task][split][doc_id]
                texts = [target(doc) if callable(target) else target for _, target, *_ in (o.args for o in options)]
                prompt, seen = self._asked(context, to_visual(doc))
                texts = [str(text).strip() for text in texts]
                rated += rate_continuations(self.model, self.processor, prompt, texts, seen)
                progress.update(len(options))
        # Wrapped, because lmms-eval 0.7 turns a bare pair into a string, which its own scoring then cannot read.
        return [GenerationResult((-rating.mean, rating.greedy)) for rating in rated]

    def _progress(self, requests: Sequence[Instance], label: str) -> tqdm:
        return tqdm(total=len(requests), desc=label, unit="request", disable=self.rank != 0)

    def _asked(self, context: str, visuals: Any) -> Asked:
        """The prompt of a request and what is seen in its visuals: these stand in front, unless it places them."""
        seen = [self._see(visual) for visual in _flat(visuals)]
        if seen and VISUAL_TOKEN not in context:
            context = f"{VISUAL_TOKEN}\n" * len(seen) + context
        return self.processor.prompt(context, with_visual=False), seen

    def _see(self, visual: Any) -> Seen:
        """A video or picture file, or a PIL picture, through the memory. The last video is kept for what follows."""
        if isinstance(visual, str | Path) and not str(visual).lower().endswith(PICTURE_ENDINGS):
            if self._last_video is None or self._last_video[0] != str(visual):
                [(_, seen)] = watch(self.model, self.processor, Path(visual), [EVERYTHING], self.fps)
                self._last_video = (str(visual), seen)
            return self._last_video[1]
        if isinstance(visual, str | Path):
            with Image.open(visual) as picture:
                return self._see(picture.convert("RGB"))
        if not isinstance(visual, Image.Image):
            raise ValueError(
                f"a visual is {type(visual).__name__}: the model takes video files, picture files and PIL pictures"
            )
        with torch.inference_mode():
            pixels = self.processor.frames_to_pixels(np.array(visual.convert("RGB"))[None])
            features = self.model.encode_frames(pixels.to(self.device, self.model.dtype))
            return Seen(1, self.model.memory.consolidate(features))

    @torch.inference_mode()
    def _answer(self, asked: Sequence[Asked], options: dict[str, Any]) -> list[str]:
        prompts, seen = [prompt for prompt, _ in asked], [entry for _, entries in asked for entry in entries]
        batch = self.processor(prompts, [entry.n_frames for entry in seen], padding_side="left").to(self.device)
        output = self.model.generate(
            **batch, memory_tokens=[entry.tokens for entry in seen] or None, **_generation(options)
        )
        new = output[:, batch["input_ids"].shape[1] :]
        return [_cut(text.strip(), options.get("until") or ()) for text in self.processor.batch_decode(new)]


def _generation(options: dict[str, Any]) -> dict[str, Any]:
    """A task's generation_kwargs -> those of `generate`; a temperature above 0 means sampling, as elsewhere there."""
    known = {"max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until"}
    if unknown := set(options) - known:
        raise ValueError(
            f"the task asks for {', '.join(sorted(unknown))} in its generation_kwargs: this model has none"
        )
    temperature = options.get("temperature") or 0.0
    chosen: dict[str, Any] = {
        "max_new_tokens": int(options.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)),
        "num_beams": options.get("num_beams") or 1,
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        chosen |= {"temperature": temperature, "top_p": options.get("top_p") or 1.0}
    return chosen


def _cut(text: str, until: str | Sequence[str]) -> str:
    """The text before the first of `until`."""
    for end in [until] if isinstance(until, str) else until:
        if end:
            text = text.split(end, 1)[0]
    return text


def _question_of(request: Instance) -> tuple[Any, ...]:
    """What the options of one multiple-choice question have in common."""
    if len(request.args) != 6:
        raise ValueError("the task scores options without their question (acc_mutual_info): take that metric out of it")
    context, _, _, doc_id, task, split = request.args
    return context, doc_id, task, split


def _flat(visuals: Any) -> list[Any]:
    """What a task gives as visuals, None, one or lists of lists, as one list."""
    if visuals is None:
        return []
    if not isinstance(visuals, list | tuple):
        return [visuals]
    return [single for visual in visuals for single in _flat(visual)]


def _batches(requests: list[Instance], size: int) -> Iterator[list[Instance]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]
