"""The plug-in for lmms-eval: `lmms-eval --model flash_vstream --tasks ...` (extra `lmms`).

lmms-eval finds `manifest` through the entry-point group `lmms_eval.models`. Model arguments: pretrained (a checkpoint;
default: the embedded tiny model), base, memory (its mode), fps, dtype. Every video is watched to its end by the memory
of a live session, or to the frame that the task names ({"video_path", "timestep"}, as in moviechat_breakpoint); a
picture is a video of one frame. lmms-eval knows no failures: a request that cannot be answered gets a reply that says
why (`FAILURE`), and a line on stderr counts them. Nothing else in this project imports this file, because lmms-eval
need not be installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import av
import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from tqdm import tqdm

from flash_vstream.eval.answering.generate import room_for
from flash_vstream.eval.answering.likelihood import Likelihood, rate_continuations
from flash_vstream.eval.answering.watch import EVERYTHING, Seen, watch
from flash_vstream.features import IMAGES
from flash_vstream.features.file import frames_before
from flash_vstream.model import load
from flash_vstream.model.generation import NOT_FINITE, NotFiniteError, greedy_batch
from flash_vstream.model.prompts import VISUAL_TOKEN
from flash_vstream.serve.session import DEFAULT_MAX_NEW_TOKENS
from flash_vstream.video.pictures import read_image, to_rgb

FAILURE = "[failed: {reason}]"  # the answer of no task, so it counts as wrong
Prompt = tuple[str, list[Seen]]  # a text and the memory of each of its placeholders


def manifest() -> ModelManifest:
    """The model of the entry point. It has one class, because lmms-eval's "chat" classes cannot rate given options."""
    return ModelManifest("flash_vstream", simple_class_path=f"{__name__}.FlashVStream", aliases=("flash-vstream",))


class FlashVStream(lmms):
    """A checkpoint of this project behind lmms-eval's interface.

    Several processes (accelerate launch, torchrun) each take a share of the questions and the GPU of their local rank.
    `base` is the base model of an adapter, `memory` another memory mode than the checkpoint's. Raises ValueError for a
    checkpoint, device or visual that cannot be used.
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
        self._last_video: tuple[str, float, Seen] | None = None
        self._failures: list[str] = []

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The reply to each request, cut before the first of its `until`; greedy unless the task asks for sampling.

        A request whose prompt the model does not hold gets a reply that says so.
        """
        replies: list[str] = []
        with self._progress(requests, "answering") as progress:
            for options, group in groupby(requests, key=lambda request: request.args[1]):
                while batch := list(islice(group, self.batch_size)):
                    prompts = []
                    for request in batch:
                        context, _, to_visual, doc_id, task, split = request.args
                        prompts.append(self._prompt(context, to_visual(self.task_dict[task][split][doc_id])))
                    replies += self._answer(prompts, options)
                    progress.update(len(batch))
        self._report_failures(len(requests))
        return replies

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """All replies of each request: after each reply the task gives the next question or ends the conversation."""
        replies = [self._rounds(request) for request in self._progress(requests, "answering in rounds")]
        self._report_failures(len(requests))
        return replies

    def _rounds(self, request: Instance) -> list[str]:
        context, options, to_visual, to_text, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        visuals, info, number, is_over = to_visual(doc), None, 0, False
        replies: list[str] = []
        while not is_over:
            replies = [*replies, *self._answer([self._prompt(context, visuals)], options)]
            number += 1
            visuals, context, is_over, replies, info = to_text(
                doc, previous_output=replies, round_idx=number, previous_round_info=info
            )
        return list(replies)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """For each request the loss of its continuation (mean over tokens), and whether greedy decoding gives it.

        In spite of the method's name lmms-eval expects a loss here: the lowest is the most likely. Raises ValueError
        for a prompt that the model does not hold, because no number stands for a failure.
        """
        rated: list[Likelihood] = []
        with self._progress(requests, "rating") as progress:
            for _, group in groupby(requests, key=_question_of):  # the options of one question follow one another
                options = list(group)
                context, _, to_visual, doc_id, task, split = options[0].args
                doc = self.task_dict[task][split][doc_id]
                texts = [target(doc) if callable(target) else target for _, target, *_ in (o.args for o in options)]
                prompt, seen = self._prompt(context, to_visual(doc))
                texts = [str(text).strip() for text in texts]
                n_frames = [entry.n_frames for entry in seen]
                for text in texts:
                    room_for(self.model, self.processor, f"{prompt} {text}", n_frames)
                rated += rate_continuations(self.model, self.processor, prompt, texts, seen)
                progress.update(len(options))
        # lmms-eval 0.7 turns a bare pair into a string, which its own scoring cannot read.
        return [GenerationResult((-rating.mean, rating.greedy)) for rating in rated]

    def _progress(self, requests: Sequence[Instance], label: str) -> tqdm:
        return tqdm(requests, desc=label, unit="request", disable=self.rank != 0)

    def _prompt(self, context: str, visuals: Any) -> Prompt:
        """The prompt of a request and the memory of each visual; visuals come first unless the text places them."""
        seen = [self._see(visual) for visual in _flat(visuals)]
        if seen and VISUAL_TOKEN not in context:
            context = f"{VISUAL_TOKEN}\n" * len(seen) + context
        return self.processor.prompt(context, with_visual=False), seen

    def _see(self, visual: Any) -> Seen:
        """The memory of a video file, the beginning of one, a picture file or a PIL picture."""
        if isinstance(visual, dict) and {"video_path", "timestep"} <= set(visual):
            path = Path(visual["video_path"])
            return self._watch(path, frames_before(float(visual["timestep"]) / _frame_rate(path), self.fps))
        if isinstance(visual, str | Path) and Path(visual).suffix.lower() not in IMAGES:
            return self._watch(Path(visual), EVERYTHING)
        if isinstance(visual, str | Path):
            return self._see(Image.fromarray(read_image(Path(visual))))
        if not isinstance(visual, Image.Image):
            raise ValueError(
                f"a visual is {type(visual).__name__}: the model takes video files, picture files and PIL pictures"
            )
        with torch.inference_mode():
            pixels = self.processor.frames_to_pixels(to_rgb(visual)[None])
            features = self.model.encode_frames(pixels.to(self.device, self.model.dtype))
            return Seen(1, self.model.memory.consolidate(features))

    def _watch(self, path: Path, moment: float) -> Seen:
        """The memory at one moment of a video; the last one is cached."""
        if self._last_video is None or self._last_video[:2] != (str(path), moment):
            [(_, seen)] = watch(self.model, self.processor, path, [moment], self.fps)
            self._last_video = (str(path), moment, seen)
        return self._last_video[2]

    def _answer(self, prompts: Sequence[Prompt], options: dict[str, Any]) -> list[str]:
        """The replies to a batch of prompts; a failure where there is none."""
        arguments = _generation(options)
        replies: list[str | None] = [None] * len(prompts)
        rooms: dict[int, int] = {}
        for number, (text, seen) in enumerate(prompts):
            try:
                rooms[number] = room_for(self.model, self.processor, text, [entry.n_frames for entry in seen])
            except ValueError as error:
                replies[number] = self._failed(str(error))
        if rooms:
            answers = self._generate([prompts[number] for number in rooms], arguments)
            for (number, room), ids in zip(rooms.items(), answers, strict=True):
                if ids is None:
                    replies[number] = self._failed(NOT_FINITE)
                else:
                    replies[number] = _cut(self.processor.decode(ids[:room]).strip(), options.get("until") or ())
        return [reply or "" for reply in replies]

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Prompt], arguments: dict[str, Any]) -> Sequence[list[int] | None]:
        """The ids of each answer; None where the logits are not finite."""
        texts, seen = [text for text, _ in prompts], [entry for _, entries in prompts for entry in entries]
        batch = self.processor(texts, [entry.n_frames for entry in seen], padding_side="left").to(self.device)
        tokens = [entry.tokens for entry in seen]
        if not arguments["do_sample"] and arguments["num_beams"] == 1:
            length = arguments["max_new_tokens"]
            return greedy_batch(self.model, batch["input_ids"], batch["attention_mask"], tokens, length)
        try:
            output = self.model.generate(
                **batch, memory_tokens=tokens or None, logits_processor=[_check_finite], **arguments
            )
        except NotFiniteError:  # it does not say of which row
            return [None] * len(prompts)
        return output[:, batch["input_ids"].shape[1] :].tolist()

    def _failed(self, reason: str) -> str:
        self._failures.append(reason)
        return FAILURE.format(reason=reason)

    def _report_failures(self, n_requests: int) -> None:
        """Print to stderr how many requests had no answer, and why the first had none."""
        if self._failures:
            print(
                f"flash_vstream: {len(self._failures)} of {n_requests} requests have no answer and count as wrong, the"
                f" first because {self._failures[0]}",
                file=sys.stderr,
            )
        self._failures = []


def _generation(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `generate` for a task's generation_kwargs; a temperature above 0 means sampling."""
    known = {"max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until"}
    if unknown := set(options) - known:
        raise ValueError(
            f"the task has {', '.join(sorted(unknown))} in its generation_kwargs, which this model does not support"
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


def _check_finite(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A logits processor that changes nothing and raises NotFiniteError."""
    if not scores.amax(dim=-1).isfinite().all():
        raise NotFiniteError
    return scores


def _frame_rate(path: Path) -> float:
    """Frames per second of a video, to turn a task's frame number into a time. Raises ValueError."""
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except (OSError, IndexError) as error:
        raise ValueError(f"{path} cannot be read ({error}): get it again") from error
    if not rate:
        raise ValueError(f"{path} does not say its frame rate, so the time of a frame is not known: convert it")
    return float(rate)


def _cut(text: str, until: str | Sequence[str]) -> str:
    """The text before the first of `until`."""
    for end in [until] if isinstance(until, str) else until:
        if end:
            text = text.split(end, 1)[0]
    return text


def _question_of(request: Instance) -> tuple[Any, ...]:
    """What the options of one multiple-choice question have in common."""
    if len(request.args) != 6:
        raise ValueError("the task scores options without their question (acc_mutual_info): remove that metric")
    context, _, _, doc_id, task, split = request.args
    return context, doc_id, task, split


def _flat(visuals: Any) -> list[Any]:
    """A task's visuals (None, one, or lists of lists) as one list."""
    if visuals is None:
        return []
    if not isinstance(visuals, list | tuple):
        return [visuals]
    return [single for visual in visuals for single in _flat(visual)]
