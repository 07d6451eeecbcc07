"""The model: configuration, weights, processor and loading. Importing it registers the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from flash_vstream.model.checkpoints.adapters import load_adapter, save_adapter
from flash_vstream.model.checkpoints.load import load
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.modeling import VStreamForConditionalGeneration
from flash_vstream.model.preprocessing import FramePreprocessor
from flash_vstream.model.processing import VStreamProcessor

AutoConfig.register(VStreamConfig.model_type, VStreamConfig, exist_ok=True)
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    auto_class.register(VStreamConfig, VStreamForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VStreamConfig, VStreamProcessor, exist_ok=True)

__all__ = [
    "FramePreprocessor",
    "VStreamConfig",
    "VStreamForConditionalGeneration",
    "VStreamProcessor",
    "load",
    "load_adapter",
    "save_adapter",
]
