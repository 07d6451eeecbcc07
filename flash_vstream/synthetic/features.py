"""Feature files of the synthetic world's videos."""

from pathlib import Path

from flash_vstream.features.extract import ExtractArguments, extract
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.encoder import FrameEncoder
from flash_vstream.synthetic.dataset import remove_other_worlds


def extract_features(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, videos: Path, features: Path
) -> None:
    """Encode every video that has no features of this encoder yet; those of another encoder or world are replaced.

    The features are [L, P, D] float16, pooled to the memory's spatial size. Raises ValueError for an unreadable video.
    """
    remove_other_worlds(features, "*.safetensors")
    arguments = ExtractArguments(videos, features, pooled=True, overwrite=True)
    report = extract(arguments, FrameEncoder.of(model, processor))
    for fault in report.faults:
        raise ValueError(f"{fault['file']} cannot be encoded ({fault['fault']}): delete it, and it is made again")
