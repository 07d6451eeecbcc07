"""Many questions at once have the tokens that each has alone, whoever joins, leaves or fails beside them."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, Gemma2Config, MistralConfig, PreTrainedConfig

from flash_vstream.engine.base import EngineClosed
from flash_vstream.engine.batcher import Batcher
from flash_vstream.memory import MemoryConfig
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamConfig, VStreamForConditionalGeneration
from flash_vstream.model.generation import greedy_tokens
from tests.conftest import TinyModel
from tests.waiting import wait_until

Question = tuple[Tensor, State, int]  # prompt ids, memory, tokens at most


@pytest.fixture
def batcher(tiny_model: TinyModel) -> Iterator[Batcher]:
    engine = Batcher(tiny_model[0])
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def questions(tiny_model: TinyModel) -> list[Question]:
    """24 questions on 8 memories of 1 to 15 frames, with answers of 1 to 20 tokens."""
    model, processor = tiny_model
    generator = torch.Generator().manual_seed(0)
    found: list[Question] = []
    for number in range(8):
        n_frames = 1 + 2 * number
        features = torch.randn(n_frames, 16, 32, generator=generator)
        with torch.no_grad():
            memory = model.memory.update(model.memory.init_state(), features)
        for text in ("Where?", "What is shown now?", "Is it, or was it ever before, a red ring?"):
            ids = processor(text=processor.prompt(f"{number} {text}"), n_frames=[n_frames])["input_ids"]
            found.append((ids, memory, 1 + (7 * len(found)) % 20))
    return found


@pytest.fixture(scope="module")
def alone(tiny_model: TinyModel, questions: list[Question]) -> list[list[int]]:
    return [list(greedy_tokens(tiny_model[0], *question)) for question in questions]


def test_questions_at_once(batcher: Batcher, questions: list[Question], alone: list[list[int]]) -> None:
    with ThreadPoolExecutor(len(questions)) as pool:
        assert list(pool.map(lambda question: list(batcher.tokens(*question)), questions)) == alone


def test_questions_that_join_while_others_run(
    batcher: Batcher, questions: list[Question], alone: list[list[int]]
) -> None:
    """Each begins when the one before it has given its first token."""
    streams, first = [], []
    for question in questions:
        streams.append(batcher.tokens(*question))
        first.append(next(streams[-1]))
    assert [[token, *stream] for token, stream in zip(first, streams, strict=True)] == alone


def test_more_questions_than_rows(tiny_model: TinyModel, questions: list[Question], alone: list[list[int]]) -> None:
    batcher = Batcher(tiny_model[0], max_rows=3, prefix_bytes=1)
    with ThreadPoolExecutor(len(questions)) as pool:
        assert list(pool.map(lambda question: list(batcher.tokens(*question)), questions)) == alone
    batcher.close()


@contextmanager
def inputs_of(model: VStreamForConditionalGeneration) -> Iterator[list[tuple[int, int]]]:
    """The rows and columns [B, L] of each call of the language model."""
    shapes: list[tuple[int, int]] = []
    hook = model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    yield shapes
    hook.remove()


def split_of(model: VStreamForConditionalGeneration, ids: Tensor) -> tuple[int, int]:
    """The tokens of a prompt up to its last placeholder, and those behind it."""
    prefix = int((ids[0] == model.config.visual_token_id).nonzero()[-1]) + 1
    return prefix, ids.shape[1] - prefix


def test_a_second_question_on_a_snapshot_computes_its_own_tokens_only(
    tiny_model: TinyModel, batcher: Batcher, questions: list[Question]
) -> None:
    (ids, memory, _), (other, same, _) = questions[-3:-1]
    assert memory is same
    with inputs_of(tiny_model[0]) as shapes:
        for prompt in (ids, other):
            list(batcher.tokens(prompt, memory, 1))
    (prefix, rest), (_, other_rest) = split_of(tiny_model[0], ids), split_of(tiny_model[0], other)
    assert shapes == [(1, prefix), (1, rest), (1, other_rest)]


def test_a_question_on_a_prefilled_snapshot_computes_its_own_tokens_only(
    tiny_model: TinyModel, batcher: Batcher, questions: list[Question], alone: list[list[int]]
) -> None:
    (ids, memory, most), (other, _, _) = questions[-3:-1]
    with inputs_of(tiny_model[0]) as shapes:
        batcher.prefill(other, memory)
        found = list(batcher.tokens(ids, memory, most))
    prefix, rest = split_of(tiny_model[0], ids)
    assert shapes[:2] == [(1, prefix), (1, rest)] and set(shapes[2:]) == {(1, 1)}
    assert found == alone[-3]


def test_prefixes_are_bounded(tiny_model: TinyModel, questions: list[Question]) -> None:
    """Room for one: the prefix of the first question is computed again after the second."""
    engine, (first, second) = Batcher(tiny_model[0], prefix_bytes=1), (questions[0], questions[-1])
    with inputs_of(tiny_model[0]) as shapes:
        for ids, memory, _ in (first, second, first):
            list(engine.tokens(ids, memory, 1))
    engine.close()
    expected = [length for ids, *_ in (first, second, first) for length in split_of(tiny_model[0], ids)]
    assert [length for _, length in shapes] == expected


def test_a_snapshot_that_nobody_holds_is_not_kept(tiny_model: TinyModel, questions: list[Question]) -> None:
    """Memory would otherwise grow with every frame that is asked about."""
    batcher, (ids, *_) = Batcher(tiny_model[0]), questions[0]
    model = tiny_model[0]
    with torch.no_grad():
        memory = model.memory.update(model.memory.init_state(), torch.ones(1, 16, 32))
    reference = weakref.ref(memory)
    list(batcher.tokens(ids, memory, 3))
    assert reference() is not None
    del memory
    wait_until(lambda: reference() is None)  # when the batcher's thread has ended its turn
    batcher.close()


def test_an_answer_ends_at_a_stop_token(
    tiny_model: TinyModel, questions: list[Question], alone: list[list[int]]
) -> None:
    """The third token of the longest answer is the stop token; it is given, and is the last."""
    model = copy.copy(tiny_model[0])
    model.generation_config = copy.deepcopy(model.generation_config)
    longest = max(range(len(alone)), key=lambda n: len(alone[n]))
    stop = alone[longest][2]
    assert model.generation_config is not None
    model.generation_config.eos_token_id = stop
    engine = Batcher(model)
    found = [list(engine.tokens(*question)) for question in questions]
    engine.close()
    assert found == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in alone]
    assert len(found[longest]) <= 3


@pytest.mark.parametrize(
    "text", [MistralConfig(sliding_window=8), Gemma2Config(num_hidden_layers=2)], ids=["Mistral", "Gemma2"]
)
def test_sliding_windows_are_refused(text: PreTrainedConfig) -> None:
    """Mistral has no list of layer types; its window is a number."""
    vision = CLIPVisionConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4)
    config = VStreamConfig(vision_config=vision, text_config=text, memory=MemoryConfig(spatial_size=4))
    with torch.device("meta"):
        model = VStreamForConditionalGeneration(config)
    with pytest.raises(ValueError, match="DynamicSlidingWindowLayer"):
        Batcher(model)


def test_an_answer_that_is_dropped_leaves_the_others_alone(
    tiny_model: TinyModel, batcher: Batcher, questions: list[Question], alone: list[list[int]]
) -> None:
    """Its row is no longer computed."""
    ids, memory, _ = questions[5]
    dropped = batcher.tokens(ids, memory, 10_000)
    next(dropped)
    kept = batcher.tokens(*questions[6])
    first = next(kept)
    assert isinstance(dropped, Generator)
    dropped.close()
    assert [first, *kept] == alone[6]
    with inputs_of(tiny_model[0]) as shapes:
        assert list(batcher.tokens(*questions[-1])) == alone[-1]
    steps = [rows for rows, length in shapes if length == 1]
    assert steps[-1] == 1


def test_a_question_that_fails_ends_alone(batcher: Batcher, questions: list[Question], alone: list[list[int]]) -> None:
    """A prompt with fewer placeholders than its memory has tokens, between questions that come at the same time."""
    wrong = (questions[0][0], questions[-1][1], 5)
    with ThreadPoolExecutor(9) as pool:
        results = [pool.submit(lambda asked: list(batcher.tokens(*asked)), asked) for asked in [*questions[:8], wrong]]
    with pytest.raises(ValueError, match="placeholders"):
        results.pop().result()
    assert [result.result() for result in results] == alone[:8]


def test_an_engine_that_is_closed_ends_its_answers(tiny_model: TinyModel, questions: list[Question]) -> None:
    engine = Batcher(tiny_model[0])
    ids, memory, _ = questions[0]
    running = engine.tokens(ids, memory, 10_000)
    assert len(list(islice(running, 3))) == 3
    engine.close()
    with pytest.raises(EngineClosed):
        list(running)
    with pytest.raises(EngineClosed):
        next(engine.tokens(ids, memory, 1))
