r"""Encode every image and video of a folder, and write the features to a folder of feature files.

    flash-vstream extract --vision_tower ckpt/clip-vit-large-patch14 \
        --input data/finetune/activitynet --output data/finetune/video_features/activitynet

The encoder is that of --model_path, a CLIP alone (--vision_tower), or the shipped tiny model's. Each GPU of the machine
(GPUS=2: two of them) encodes its share of the files. Run the command again after an interruption: it continues. A file
that cannot be read stops nothing: it is listed in extraction-rank-*.json in the output folder, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from flash_vstream.features.decode import Decoding, Span, decode, pack_batches, prefetch
from flash_vstream.features.file import FeatureWriter
from flash_vstream.features.inputs import MediaFile, file_metadata, find_media, find_unfinished, share
from flash_vstream.files import remove_partials, write_json
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model.encoder import FrameEncoder, open_encoder
from flash_vstream.options import CommandParser, add_device, add_fps, add_model, non_negative_int, positive_int
from flash_vstream.process import Process

# Batches that wait between decoding, encoding and writing. Memory does not grow with the length of a video: at most
# five batches of pixels, four of features, and 16 frames of each worker exist at a time.
PREFETCHED = 2

Piece = tuple[Tensor | None, list[Span]]  # features [n, P, D], and whose they are


@dataclass(frozen=True)
class ExtractArguments:
    """What to encode, and how: the options of the same names (see `parser`)."""

    input: Path
    output: Path
    fps: float = 1.0
    pooled: bool = False
    image_aspect_ratio: str = "plain"
    animations: str = "image"
    dtype: str = "float16"
    batch_size: int = 0
    num_workers: int = 0
    limit: int | None = None
    overwrite: bool = False


@dataclass
class ExtractionReport:
    """What one rank did, as `extraction-rank-*.json` holds it."""

    rank: int
    world_size: int
    metadata: dict[str, str]  # how the features were made
    sources: int = 0  # files of this rank
    existing: int = 0  # of them, encoded by earlier runs
    written: int = 0  # of them, encoded by this run
    frames: int = 0  # encoded by this run
    seconds: float = 0.0
    faults: list[dict[str, str]] = field(default_factory=list)  # {"file", "fault"} of unreadable files

    def opening_line(self, n_files: int, others: Counter[str], n_partials: int) -> str:
        """One line that says what there is to do: for `n_files` of all ranks, beside `others` that are not encoded."""
        line = f"{n_files} files; rank {self.rank} of {self.world_size} has {self.sources}"
        line += f", {self.existing} of them done"
        if n_partials:
            line += f"; removed {n_partials} incomplete feature files of a killed run"
        if others:
            line += "; no image or video: " + ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        return line

    def fault_lines(self) -> list[str]:
        """One line for each kind of fault: the number of files, the first of them, the fault."""
        kinds: dict[str, list[str]] = {}
        for entry in self.faults:
            # Faults that differ only in the file's name or a number are of one kind.
            kind = re.sub(r"\d+(\.\d+)?", "N", re.sub(r"\S*" + re.escape(entry["file"]), "FILE", entry["fault"]))
            kinds.setdefault(kind, []).append(entry["file"])
        return [f"failed: {len(files)} files, the first {files[0]}: {kind}" for kind, files in kinds.items()]


def parser() -> argparse.ArgumentParser:
    """The options of `flash-vstream extract`."""
    made, default = CommandParser("extract", __doc__), ExtractArguments(Path(), Path())
    made.add_argument(
        "--input", type=Path, required=True, metavar="DIR", help="images and videos; sub-folders are kept"
    )
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the .safetensors files")
    encoder = made.add_mutually_exclusive_group()
    add_model(encoder)
    encoder.add_argument("--vision_tower", metavar="DIR", help="a CLIP alone, folder or hub id, instead of a model")
    made.add_argument("--pooled", action="store_true", help="pool to the memory's spatial size (8x8): 4 times smaller")
    add_fps(made, default.fps)
    made.add_argument(
        "--image_aspect_ratio",
        choices=("plain", "pad"),
        default=default.image_aspect_ratio,
        help="pad: put images on a square canvas of the mean colour instead of cropping them (%(default)s)",
    )
    made.add_argument(
        "--animations",
        choices=("image", "video"),
        default=default.animations,
        help="encode a GIF or WebP of several frames as an image, its first frame, or as a video (%(default)s)",
    )
    made.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default=default.dtype,
        help="of the files; on a GPU the encoder computes in it, too, else in float32 (%(default)s)",
    )
    made.add_argument(
        "--batch_size", type=non_negative_int, default=0, metavar="N", help="frames encoded at once; 0: 64, on a CPU 16"
    )
    made.add_argument(
        "--num_workers",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="decoding processes of each rank; 0: its cores but one, 1 to 16",
    )
    add_device(made)
    made.add_argument("--limit", type=positive_int, metavar="N", help="encode only the first N files, by path")
    made.add_argument("--overwrite", action="store_true", help="make files of another encoder or setting again")
    return made


def run(options: argparse.Namespace) -> int:
    """Run the command. Returns 1 if files cannot be read, else 0."""
    process = Process.current()
    names = [field.name for field in dataclasses.fields(ExtractArguments)]
    arguments = ExtractArguments(**{name: getattr(options, name) for name in names})
    try:
        device = process.device(options.device)
        encoder = open_encoder(options.model_path, options.vision_tower, device, arguments.dtype)
        report = extract(arguments, encoder, process)
    except torch.OutOfMemoryError as error:
        raise ValueError("the device has too little memory: give a smaller --batch_size") from error
    for line in report.fault_lines():
        print(line, file=sys.stderr)
    # All ranks wait here: the launcher ends the others when one ends with exit code 1.
    n_faults = process.sum(len(report.faults))
    if process.is_main:
        rate = report.frames / max(report.seconds, 1e-3)
        print(f"rank 0: {report.written} files written, {report.frames} frames, {rate:.1f} a second")
        if n_faults:
            print(f"error: {n_faults} files failed: see {arguments.output}/extraction-rank-*.json", file=sys.stderr)
    return 1 if n_faults else 0


def extract(arguments: ExtractArguments, encoder: FrameEncoder, process: Process | None = None) -> ExtractionReport:
    """Make the feature files of this rank's share, and its report beside them.

    Raises ValueError if the input folder has no files, the output folder has feature files of another encoder or
    setting, or a file cannot be written.
    """
    process = process or Process()
    metadata = metadata_of(encoder, arguments)
    media, others = find_media(arguments.input, arguments.animations == "video")
    media = media[: arguments.limit]
    own = share(media, process.rank, process.world_size)
    unfinished = find_unfinished(own, arguments.output, metadata, arguments.overwrite)
    n_partials = remove_partials(arguments.output / file.target for file in own)
    report = ExtractionReport(process.rank, process.world_size, metadata, len(own), len(own) - len(unfinished))
    if process.is_main:
        print(report.opening_line(len(media), others, n_partials), file=sys.stderr)
    start = time.monotonic()
    size = sum(file.size for file in unfinished)
    with contextlib.closing(encode_files(unfinished, arguments, encoder)) as pieces, _progress(size, process) as bar:
        write_files(pieces, arguments.output, report, bar)
    report.seconds = round(time.monotonic() - start, 3)
    path = arguments.output / f"extraction-rank-{report.rank}-of-{report.world_size}.json"
    write_json(path, dataclasses.asdict(report))
    return report


def metadata_of(encoder: FrameEncoder, arguments: ExtractArguments) -> dict[str, str]:
    """The metadata of all feature files (see `file_metadata`). Raises ValueError if the grid cannot be pooled."""
    grid, size = encoder.grid, encoder.memory_size
    if arguments.pooled and grid % size:
        raise ValueError(f"a grid of {grid} x {grid} patches cannot be pooled to {size} x {size}: leave out --pooled")
    return encoder.description() | {
        "fps": str(float(arguments.fps)),
        "aspect": arguments.image_aspect_ratio,
        "dtype": arguments.dtype,
        "pooling": str(size) if arguments.pooled and grid != size else "none",
    }


def encode_files(
    media: Sequence[MediaFile], arguments: ExtractArguments, encoder: FrameEncoder
) -> Generator[Piece, None, None]:
    """Features on the CPU, batch by batch. Decoding and encoding are prefetched."""
    parameter = next(encoder.tower.parameters())
    device, dtype = parameter.device, getattr(torch, arguments.dtype)
    on_gpu = device.type == "cuda"
    decoding = Decoding(
        arguments.input,
        encoder.frames,
        arguments.fps,
        pad=arguments.image_aspect_ratio == "pad",
        # The encoder's own dtype halves the bytes to move; numpy has no bfloat16.
        dtype=torch.float16 if parameter.dtype == torch.float16 else torch.float32,
    )
    chunks = decode(media, decoding, arguments.num_workers or default_workers())

    def encode() -> Iterator[tuple[Tensor | None, list[Span], torch.cuda.Event | None]]:
        if on_gpu:
            torch.cuda.set_device(device)  # of this thread
        batch_size = arguments.batch_size or (64 if on_gpu else 16)
        for pixels, spans in prefetch(pack_batches(chunks, batch_size), PREFETCHED):
            if pixels is None:
                yield None, spans, None
                continue
            features = encoder(pixels.pin_memory() if on_gpu else pixels)
            if arguments.pooled:
                features = pool_grid(features, encoder.memory_size)
            features = features.to(dtype)
            yield features, spans, torch.cuda.current_stream().record_event() if on_gpu else None

    copies = torch.cuda.Stream(device) if on_gpu else None
    for features, spans, is_encoded in prefetch(encode(), PREFETCHED):
        if features is not None and copies is not None and is_encoded is not None:
            # On a stream of its own: on the encoder's the copy would delay the next batch.
            with torch.cuda.stream(copies):
                copies.wait_event(is_encoded)
                features = features.cpu()
        yield features, spans


def default_workers() -> int:
    """Decoding processes of one rank: its share of the cores but one, 1 to 16."""
    return max(1, min(16, Process.cores() - 1))


def write_files(pieces: Iterable[Piece], output: Path, report: ExtractionReport, bar: tqdm) -> None:
    """Write features as they come, and count them in the report. Raises ValueError if a file cannot be written."""
    writers: dict[MediaFile, FeatureWriter] = {}
    began = time.monotonic()
    try:
        for features, spans in pieces:
            start = 0
            for span in spans:
                if features is not None and span.n_frames:
                    part = features[start : start + span.n_frames]
                    if span.file not in writers:
                        metadata, target = file_metadata(span.file, report.metadata), output / span.file.target
                        writers[span.file] = FeatureWriter(target, metadata, part, span.file.is_image)
                    writers[span.file].append(part)
                    start += span.n_frames
                if span.is_end:
                    _end_file(span, writers.get(span.file), report)
                    writers.pop(span.file, None)  # not earlier: a file that `finish` fails on is discarded below
                    bar.update(span.file.size)
            report.frames += start
            rate = report.frames / (time.monotonic() - began)
            bar.set_postfix_str(f"{report.frames} frames, {rate:.1f}/s", refresh=False)
            bar.update(0)  # shows it, if it is time
    finally:
        for writer in writers.values():
            writer.discard()


def _end_file(span: Span, writer: FeatureWriter | None, report: ExtractionReport) -> None:
    """Finish the feature file of a file that ends, or report its fault."""
    fault = span.fault or ("it has no frame" if writer is None else writer.fault)
    if writer is not None and fault is None:
        writer.finish()
        report.written += 1
        return
    report.faults.append({"file": span.file.path.as_posix(), "fault": str(fault)})
    if writer is not None:
        writer.discard()


def _progress(n_bytes: int, process: Process) -> tqdm:
    """Counts bytes of media files, which predict the remaining time; the first rank of each machine shows its own."""
    return tqdm(
        total=n_bytes,
        unit="B",
        unit_scale=True,
        desc="features",
        disable=process.local_rank != 0,
        mininterval=0.5 if sys.stderr.isatty() else 10,
        miniters=0,  # the frames of a long video are counted although no file is complete
    )
