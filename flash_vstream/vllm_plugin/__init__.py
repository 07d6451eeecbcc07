"""vLLM's plug-in: `vllm serve CHECKPOINT` answers questions about memories that stream workers send.

A memory comes as the `video_url` part of a chat: its tokens [N, D], before the projector, as a .npy file. That is a
data URL, or an address of `flash-vstream serve` that ends in /memory.npy. Pictures and videos are refused, because
frames belong in the process that watches the stream.
"""

ARCHITECTURE = "VStreamForConditionalGeneration"
MODE = "vstream"  # of tokenizer and renderer
VIDEO_BACKEND = "vstream"


def register() -> None:
    """The entry point `vllm.general_plugins`; vLLM calls it in each of its processes."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    import flash_vstream.model  # noqa: F401  (registers the configuration)
    from flash_vstream.vllm_plugin.media import MemoryLoader
    from flash_vstream.vllm_plugin.settings import VllmSettings

    if ARCHITECTURE in MODELS_CONFIG_MAP:
        return  # a process may load its plug-ins twice
    ModelRegistry.register_model(ARCHITECTURE, "flash_vstream.vllm_plugin.model:VStreamForVllm")
    TokenizerRegistry.register(MODE, "flash_vstream.vllm_plugin.tokenizer", "VStreamTokenizer")
    RENDERER_REGISTRY.register(MODE, "vllm.renderers.hf", "HfRenderer")
    VIDEO_LOADER_REGISTRY.register(VIDEO_BACKEND)(MemoryLoader)
    MODELS_CONFIG_MAP[ARCHITECTURE] = VllmSettings
