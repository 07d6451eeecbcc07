"""Flash-VStream: a video-language model that watches an endless stream and answers about it at any moment.

Importing the package registers its model with transformers' Auto classes.
"""

from flash_vstream.memory import MemoryConfig, build_memory
from flash_vstream.model import VStreamConfig, VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.serve.session import StreamSession

__version__ = "0.1.0"

__all__ = [
    "MemoryConfig",
    "StreamSession",
    "VStreamConfig",
    "VStreamForConditionalGeneration",
    "VStreamProcessor",
    "build_memory",
    "load",
]
