"""Training data: LLaVA-style records, their conversations and the batches made of them."""

from flash_vstream.data.collator import ConversationCollator
from flash_vstream.data.dataset import ConversationDataset, load_records
from flash_vstream.data.features import read_features, write_features

__all__ = ["ConversationCollator", "ConversationDataset", "load_records", "read_features", "write_features"]
