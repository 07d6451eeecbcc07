"""A fixed-size memory of an endless stream of frame features (arXiv 2406.08085).

    memory = build_memory(MemoryConfig(), feature_dim=1024)
    state = memory.init_state()
    state = memory.update(state, features)      # [T, 256, 1024], any number of times
    tokens = memory.read(state)                 # [681, 1024] from frame 26 on

Knows nothing of video files, encoders or language models.
"""

from flash_vstream.memory.base import Memory
from flash_vstream.memory.config import MODES, MemoryConfig
from flash_vstream.memory.controls import ControlMemory
from flash_vstream.memory.published import PublishedMemory
from flash_vstream.memory.star import Digest, StarMemory, digest
from flash_vstream.memory.state import State

__all__ = ["MODES", "Digest", "Memory", "MemoryConfig", "State", "build_memory", "digest"]


def build_memory(config: MemoryConfig, feature_dim: int) -> Memory:
    """The memory of `config.mode` for features [T, P, feature_dim]; its weights fit every mode."""
    if config.mode == "star":
        return StarMemory(config, feature_dim)
    if config.mode == "published":
        return PublishedMemory(config, feature_dim)
    return ControlMemory(config, feature_dim)
