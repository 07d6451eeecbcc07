"""Flash-VStream: a video-language model that watches an endless stream and answers questions about it at any moment.

Names are imported when they are first used, so that `import flash_vstream.memory` loads no transformers. Importing
`flash_vstream.model`, or using one of its names, registers the model with transformers' Auto classes.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "MemoryConfig": "flash_vstream.memory",
    "build_memory": "flash_vstream.memory",
    "StreamSession": "flash_vstream.serve.session",
    "VStreamConfig": "flash_vstream.model",
    "VStreamForConditionalGeneration": "flash_vstream.model",
    "VStreamProcessor": "flash_vstream.model",
    "load": "flash_vstream.model",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
