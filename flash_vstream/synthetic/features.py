"""What a model's encoder makes of the videos of the synthetic world, as feature files."""

from pathlib import Path

from flash_vstream.features.extract import ExtractArguments, extract
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.encoder import FrameEncoder
from flash_vstream.synthetic.dataset import keep_this_world_only


def extract_features(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, videos: Path, features: Path
) -> None:
    """Encode every video that has no features of this very encoder yet.

    They are [L, P, D] float16, pooled to the memory's spatial size; those of another encoder or world are made anew.

    Raises:
        ValueError: a video cannot be read.
    """
    keep_this_world_only(features, "*.safetensors")
    arguments = ExtractArguments(videos, features, pooled=True, overwrite=True)
    report = extract(arguments, FrameEncoder.of(model, processor))
    for fault in report.faults:
        raise ValueError(f"{fault['file']} cannot be encoded ({fault['fault']}): delete it, and it will be made anew")
