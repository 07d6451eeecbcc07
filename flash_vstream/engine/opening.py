"""Opens the engine that `--engine` names."""

from __future__ import annotations

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.pictures import PictureEngine
from flash_vstream.engine.remote import ChatClient
from flash_vstream.engine.vllm import VllmEngine
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor

RemoteEngine = PictureEngine | VllmEngine


def open_remote(
    address: EngineAddress, model: VStreamForConditionalGeneration, processor: VStreamProcessor
) -> RemoteEngine:
    """The engine at an address. Its server is asked with the first question.

    Raises ValueError if the openai package is missing, or the key in the environment cannot be sent.
    """
    if address.kind == "vllm":
        return VllmEngine(model, processor, address)
    return PictureEngine(ChatClient(address), address.n_pictures)
