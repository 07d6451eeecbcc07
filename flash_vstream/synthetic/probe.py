"""Whether a part of the recipe has taught what it is there for, found out with texts that no part was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from flash_vstream.data import ConversationDataset, MediaFolders
from flash_vstream.data.collator import IGNORE_INDEX
from flash_vstream.data.records import Record
from flash_vstream.model import load

COLON = ":"  # one in each statement, between what to look for and what is found


def found_by_key(checkpoint: Path, records: Sequence[Record], features: Path, key: str) -> float:
    """Share of the statements that begin with `key` whose first word after the colon the model gives, of all notes.

    What stands before it in a text is given. Raises ValueError where there is no such statement.
    """
    model, processor = load(checkpoint)
    model.eval()
    dataset = ConversationDataset(records, processor, "plain", MediaFolders(video_features=features))
    right = []
    for index, record in enumerate(records):
        item = dataset[index]
        with torch.inference_mode():
            logits = model(input_ids=item["input_ids"][None], visual_features=[item["visual_features"]]).logits[0]
        wanted, given = item["labels"][1:], logits[:-1].argmax(dim=-1)
        words = [None if id == IGNORE_INDEX else processor.tokenizer.decode([id]).strip() for id in wanted.tolist()]
        colons = [place for place, word in enumerate(words) if word == COLON]
        statements = record["conversations"][1]["value"].split(". ")
        right += [
            bool(wanted[place + 1] == given[place + 1])
            for place, statement in zip(colons, statements, strict=True)
            if statement.startswith(key)
        ]
    if not right:
        raise ValueError(f"no statement begins with {key!r}: give notes that hold some")
    return sum(right) / len(right)
