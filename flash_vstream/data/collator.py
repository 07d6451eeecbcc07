"""Makes one batch of items: ids and labels padded, visual inputs in one list, in the order of their runs."""

from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100
VISUAL_KEYS = ("visual_features", "visual_digests", "pixel_values")


class ConversationCollator:
    """Pads on the right with `pad_token_id`; items with and without visual input mix freely."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Items of `ConversationDataset` -> input_ids, attention_mask, labels [B, L] and the visual lists in use."""
        longest = max(len(item["input_ids"]) for item in items)

        def pad(key: str, value: int) -> Tensor:
            rows = [item[key] for item in items]
            return torch.stack([torch.nn.functional.pad(row, (0, longest - len(row)), value=value) for row in rows])

        batch: dict[str, Any] = {
            "input_ids": pad("input_ids", self.pad_token_id),
            "labels": pad("labels", IGNORE_INDEX),
            "attention_mask": torch.stack([torch.arange(longest) < len(item["input_ids"]) for item in items]).long(),
        }
        visual = [item for item in items if any(key in item for key in VISUAL_KEYS)]
        for key in VISUAL_KEYS:
            if any(key in item for item in visual):
                batch[key] = [item.get(key) for item in visual]
        return batch
