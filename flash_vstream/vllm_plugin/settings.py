"""The settings of vLLM that the model needs, so that nobody has to give them as options."""

from __future__ import annotations

from typing import Any

from flash_vstream.vllm_plugin import MODE, VIDEO_BACKEND


class VllmSettings:
    """vLLM calls these when it has read a checkpoint's configuration."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Use this package's tokenizer, and its reader of `video_url` parts."""
        model_config.tokenizer_mode = MODE
        media = model_config.multimodal_config.media_io_kwargs
        media["video"] = {**media.get("video", {}), "video_backend": VIDEO_BACKEND}

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Nothing else is changed."""
