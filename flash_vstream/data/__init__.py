"""Training data: LLaVA-style records, their conversations, what they show, and the batches made of them."""

from flash_vstream.data.collator import ConversationCollator
from flash_vstream.data.dataset import ConversationDataset
from flash_vstream.data.media import MediaFolders
from flash_vstream.data.records import Records
from flash_vstream.data.sampler import GroupedSampler, grouped_order

__all__ = [
    "ConversationCollator",
    "ConversationDataset",
    "GroupedSampler",
    "MediaFolders",
    "Records",
    "grouped_order",
]
