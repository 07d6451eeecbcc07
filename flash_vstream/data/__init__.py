"""Training data: records of conversations about images and videos, checked, read and collated to batches."""

from flash_vstream.data.collator import ConversationCollator
from flash_vstream.data.dataset import ConversationDataset
from flash_vstream.data.record import MediaFolders, Record
from flash_vstream.data.records import Records
from flash_vstream.data.sampler import GroupedSampler, grouped_order

__all__ = [
    "ConversationCollator",
    "ConversationDataset",
    "GroupedSampler",
    "MediaFolders",
    "Record",
    "Records",
    "grouped_order",
]
