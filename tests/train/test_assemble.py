"""The model that stage 1 starts from: a tower and a language model as they are, the rest untrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from flash_vstream import StreamSession
from flash_vstream.cli import main
from flash_vstream.eval.answering.generate import generate
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.checkpoints.published import tower_config
from flash_vstream.model.checkpoints.weights import load_tower
from tests.conftest import make_tiny_model

TOWER = Path(__file__).parent.parent / "golden" / "clip_tiny"


def test_tower_and_language_model_are_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    text = tmp_path / "text"
    tiny.language_model.half().save_pretrained(text)
    processor.tokenizer.save_pretrained(text)
    command = [
        "assemble",
        "--vision_tower",
        str(TOWER),
        "--language_model",
        str(text),
        "--output_dir",
        str(tmp_path / "base"),
    ]
    assert main(command) == 0
    model, opened = load(tmp_path / "base")
    assert model.dtype == torch.float16 and model.config.memory == MemoryConfig() == opened.memory
    for name, value in AutoModelForCausalLM.from_pretrained(text, dtype="auto").state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value), name
    for name, value in load_tower(str(TOWER), tower_config(str(TOWER))).half().state_dict().items():
        assert torch.equal(model.vision_tower.state_dict()[name], value), name
    for name, value in [*model.projector.state_dict().items(), *model.memory.state_dict().items()]:
        assert 0.005 < value.float().std() < 0.5, name  # drawn, neither zeros nor what lay in the store
    assert main(command) == 2
    assert "--output_dir" in capsys.readouterr().err


def test_answers_end_at_every_stop_token_that_a_file_names(tmp_path: Path) -> None:
    """P11: config.json names 2, generation_config.json 2 and 5, the tokenizer 9; answers stop at each of them."""
    tiny, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    text, tokenizer = tmp_path / "text", processor.tokenizer
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(9)
    tiny.language_model.save_pretrained(text)
    tokenizer.save_pretrained(text)
    (text / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 5], "temperature": 0.9}')
    words = ["--vision_tower", str(TOWER), "--language_model", str(text), "--output_dir", str(tmp_path / "base")]
    assert main(["assemble", *words]) == 0
    saved = json.loads((tmp_path / "base" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [2, 5, 9] and "temperature" not in saved
    saved["eos_token_id"] = 5  # as in a folder of an earlier version, or from elsewhere
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(saved))
    model, opened = load(tmp_path / "base")
    session = StreamSession(model, opened)
    session.watch(np.zeros((16, 16, 3), np.uint8), 0.0)
    seen = Seen(1, model.memory.read(session.snapshot.memory))
    head: Any = model.get_output_embeddings()
    letter = tokenizer.convert_tokens_to_ids("a")
    for stop in (2, 5, 9):
        # The letter is the most likely token but where the stop token's logit, twice the letter's, is positive.
        with torch.no_grad():
            head.weight.zero_()
            state = _last_state(model, opened, seen)
            head.weight[stop], head.weight[letter] = state * 2, state
        assert "".join(session.ask("What?", max_new_tokens=3)) == ""
        assert generate(model, opened, [opened.prompt("What?")], [seen], 3) == [""]
        with torch.no_grad():
            head.weight[stop] = 0
        assert "".join(session.ask("What?", max_new_tokens=1)) == "a"


def _last_state(model: VStreamForConditionalGeneration, processor: VStreamProcessor, seen: Seen) -> torch.Tensor:
    """The state [H] at the end of the prompt, from which the head makes the logits of the first token."""
    ids = processor(processor.prompt("What?"), [seen.n_frames])["input_ids"]
    with torch.no_grad():
        embeddings = model.embed(ids, memory_tokens=[seen.tokens])
        decoder: Any = model.language_model.get_decoder()
        return decoder(inputs_embeds=embeddings).last_hidden_state[0, -1]


def test_a_folder_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tmp_path / "no such tower"
    assert main(["assemble", "--vision_tower", str(none), "--language_model", str(none), "--output_dir", "o"]) == 2
    assert capsys.readouterr().err == f"error: there is no folder {none}: check the path of the checkpoint\n"
