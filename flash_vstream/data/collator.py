"""Makes a batch of items: ids and labels padded, visuals in one list, in the order of their placeholders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flash_vstream.model.processing import IGNORED


class ConversationCollator:
    """Pads on the right with `pad_token_id`; items with and without a visual mix freely."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items of `ConversationDataset` -> input_ids, attention_mask, labels [B, L] and, if there are any, visuals."""
        longest = max(len(item["input_ids"]) for item in items)

        def pad(key: str, value: int) -> Tensor:
            rows = [item[key] for item in items]
            return torch.stack([torch.nn.functional.pad(row, (0, longest - len(row)), value=value) for row in rows])

        batch: dict[str, Any] = {
            "input_ids": pad("input_ids", self.pad_token_id),
            "labels": pad("labels", IGNORED),
            "attention_mask": torch.stack([torch.arange(longest) < len(item["input_ids"]) for item in items]).long(),
        }
        if visuals := [item["visual"] for item in items if "visual" in item]:
            batch["visuals"] = visuals
        return batch
