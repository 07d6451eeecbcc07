"""Feature extraction: every image and video of a folder through the vision encoder, into a folder of feature files.

    python -m flash_vstream.features.extract --vision_tower ckpt/clip-vit-large-patch14 \\
        --input data/finetune/activitynet --output data/finetune/video_features/activitynet
    torchrun --nproc_per_node 8 -m flash_vstream.features.extract ...    the same on 8 GPUs, each with its share

Without --model_path and --vision_tower it is the embedded tiny model's encoder. Run again after a kill, it goes on
where it was. A file that cannot be read stops nothing: it is listed in extraction-rank-*.json in the output folder, and
the exit code is 1. Memory does not grow with the length of a video: in flight are at most five batches of pixels, four
of features, and 16 frames a worker; what is encoded is written at once.
"""

import contextlib
import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import HfArgumentParser

from flash_vstream.command import run_command
from flash_vstream.data.ranks import all_ranks, number_from_environment, sum_over_ranks
from flash_vstream.features.decode import Decoding, Span, ahead, batches, decode
from flash_vstream.features.inputs import Source, find_sources, is_finished, remove_partials, share
from flash_vstream.features.report import Report, fault_lines, opening_line
from flash_vstream.features.writer import FeatureWriter
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model.encoder import FrameEncoder, open_encoder

BATCHES_AHEAD = 2  # decoded ones that wait for the encoder, and encoded ones that wait to be written


@dataclass
class ExtractArguments:
    """What to encode, with what, and how."""

    input: str = field(metadata={"help": "folder of images and videos; its sub-folders are kept"})
    output: str = field(metadata={"help": "folder for the .safetensors files"})
    model_path: str | None = field(
        default=None, metadata={"help": "take the encoder of this model; else the tiny one's"}
    )
    vision_tower: str | None = field(default=None, metadata={"help": "folder of a CLIP alone, instead of a model"})
    pooled: bool = field(default=False, metadata={"help": "pool to the memory's spatial size (8x8): 4 times smaller"})
    fps: float = field(default=1.0, metadata={"help": "frames taken for each second of a video"})
    image_aspect_ratio: Literal["plain", "pad"] = field(
        default="plain", metadata={"help": "pad: images on a square canvas of the mean colour, so that nothing is cut"}
    )
    dtype: Literal["float16", "bfloat16", "float32"] = field(
        default="float16", metadata={"help": "of the files; on a GPU the encoder computes in it, too, else in float32"}
    )
    batch_size: int = field(default=0, metadata={"help": "frames encoded at once; 0: 64, or 16 on a CPU"})
    num_workers: int = field(
        default=0, metadata={"help": "decoding processes of a rank; 0: its cores but one, 1 to 16"}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, ...; default: this rank's GPU if there is one"}
    )
    limit: int | None = field(default=None, metadata={"help": "only the first so many files, by path"})
    overwrite: bool = field(default=False, metadata={"help": "make files of another encoder or setting anew"})

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps:g}: give a number of frames a second above 0")
        if self.model_path is not None and self.vision_tower is not None:
            raise ValueError("model_path and vision_tower are both given: choose one encoder")
        for name, least in (("batch_size", 0), ("num_workers", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: give {least} or more")


def extract(arguments: ExtractArguments, encoder: FrameEncoder, rank: int = 0, world_size: int = 1) -> Report:
    """Makes the feature files of the share of process `rank` of `world_size`, and its report beside them.

    Raises ValueError for folders that do not serve, for files of another encoder or setting that are in the way, and
    where nothing can be written.
    """
    output = Path(arguments.output)
    metadata = metadata_of(encoder, arguments)
    sources, others = find_sources(Path(arguments.input))
    own = share(sources[: arguments.limit], rank, world_size)
    todo = unfinished(own, output, metadata, arguments.overwrite)
    n_partials = remove_partials([output / source.target for source in own])
    report = Report(rank, world_size, metadata, sources=len(own), existing=len(own) - len(todo))
    if rank == 0:
        print(opening_line(len(sources[: arguments.limit]), others, report, n_partials), file=sys.stderr)
    began = time.monotonic()
    with contextlib.closing(encoded(todo, arguments, encoder)) as pieces:
        write(pieces, todo, output, report)
    report.seconds = round(time.monotonic() - began, 3)
    report.save(output)
    return report


def metadata_of(encoder: FrameEncoder, arguments: ExtractArguments) -> dict[str, str]:
    """What is written into each file and must agree on resuming; see `source_metadata`. Raises ValueError."""
    if arguments.pooled and encoder.grid % encoder.memory_size:
        raise ValueError(
            f"a grid of {encoder.grid} x {encoder.grid} patches cannot be pooled to {encoder.memory_size} x"
            f" {encoder.memory_size}: leave out --pooled"
        )
    is_pooled = arguments.pooled and encoder.grid != encoder.memory_size
    return encoder.description() | {
        "fps": str(float(arguments.fps)),
        "aspect": arguments.image_aspect_ratio,
        "dtype": arguments.dtype,
        "pooling": str(encoder.memory_size) if is_pooled else "none",
    }


def source_metadata(source: Source, metadata: dict[str, str]) -> dict[str, str]:
    """Of one file: an image has no fps, and a video is never padded."""
    other = "fps" if source.is_image else "aspect"
    return {key: value for key, value in metadata.items() if key != other}


def unfinished(own: Sequence[Source], output: Path, metadata: dict[str, str], overwrite: bool) -> list[Source]:
    """The sources without a feature file. Raises ValueError for files made in another way, unless they may go."""

    def state(source: Source) -> bool | str:
        try:
            return is_finished(output / source.target, source_metadata(source, metadata))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:  # on a network folder the time goes into waiting
        states = list(pool.map(state, own))
    wrong = [found for found in states if isinstance(found, str)]
    if wrong and not overwrite:
        raise ValueError(
            f"{len(wrong)} feature files are of another encoder or setting, the first: {wrong[0]}:"
            " name another --output, or give --overwrite to make them anew"
        )
    return [source for source, found in zip(own, states, strict=True) if found is not True]


def encoded(
    todo: Sequence[Source], arguments: ExtractArguments, encoder: FrameEncoder
) -> Generator[tuple[Tensor | None, list[Span]], None, None]:
    """Features [n, P, D] on the CPU, batch by batch, and whose they are. Decoding and encoding run ahead of it."""
    parameter = next(encoder.tower.parameters())
    device, dtype = parameter.device, getattr(torch, arguments.dtype)
    on_gpu = device.type == "cuda"
    decoding = Decoding(
        Path(arguments.input),
        encoder.frames,
        arguments.fps,
        pad=arguments.image_aspect_ratio == "pad",
        # Halved where the encoder would do it, for half the bytes to move; numpy knows no bfloat16.
        dtype=torch.float16 if parameter.dtype == torch.float16 else torch.float32,
    )
    chunks = decode(todo, decoding, arguments.num_workers or default_workers())

    def encode() -> Iterator[tuple[Tensor | None, list[Span], torch.cuda.Event | None]]:
        if on_gpu:
            torch.cuda.set_device(device)  # of this thread
        for pixels, spans in ahead(batches(chunks, arguments.batch_size or (64 if on_gpu else 16)), BATCHES_AHEAD):
            if pixels is None:
                yield None, spans, None
                continue
            features = encoder(pixels.pin_memory() if on_gpu else pixels)
            if arguments.pooled:
                features = pool_grid(features, encoder.memory_size)
            features = features.to(dtype)
            yield features, spans, torch.cuda.current_stream().record_event() if on_gpu else None

    copies = torch.cuda.Stream(device) if on_gpu else None
    for features, spans, is_encoded in ahead(encode(), BATCHES_AHEAD):
        if features is not None and copies is not None and is_encoded is not None:
            # On a stream of its own, for on the encoder's the copy would hold up the next batch.
            with torch.cuda.stream(copies):
                copies.wait_event(is_encoded)
                features = features.cpu()
        yield features, spans


def default_workers() -> int:
    """Decoding processes of one rank: its share of the cores but one."""
    cores = (os.cpu_count() or 1) // number_from_environment("LOCAL_WORLD_SIZE", 1)
    return max(1, min(16, cores - 1))


def write(
    pieces: Iterable[tuple[Tensor | None, list[Span]]], todo: Sequence[Source], output: Path, report: Report
) -> None:
    """Writes the features as they come and counts them in the report. Raises ValueError where it cannot."""
    writers: dict[Source, FeatureWriter] = {}
    began = time.monotonic()
    try:
        with progress_bar(sum(source.size for source in todo)) as bar:
            for features, spans in pieces:
                start = 0
                for span in spans:
                    if features is not None and span.n_frames:
                        _append(features[start : start + span.n_frames], span.source, writers, output, report)
                        start += span.n_frames
                    if span.is_end:
                        _end(span, writers, report)
                        bar.update(span.source.size)
                report.frames += start
                rate = report.frames / (time.monotonic() - began)
                bar.set_postfix_str(f"{report.frames} frames, {rate:.1f}/s", refresh=False)
                bar.update(0)  # shows it, if it is time
    finally:
        for writer in writers.values():
            writer.discard()


def _append(
    features: Tensor, source: Source, writers: dict[Source, FeatureWriter], output: Path, report: Report
) -> None:
    """More features of a source; the first open its file."""
    if source not in writers:
        metadata = source_metadata(source, report.metadata)
        writers[source] = FeatureWriter(output / source.target, metadata, features, source.is_image)
    writers[source].append(features)


def _end(span: Span, writers: dict[Source, FeatureWriter], report: Report) -> None:
    """A source has come to its end: its file takes its place, or its fault is noted."""
    writer = writers.get(span.source)
    if writer is not None and span.fault is None:
        writer.finish()
        report.written += 1
    else:
        report.faults.append({"file": span.source.path.as_posix(), "fault": span.fault or "it has no frame"})
        if writer is not None:
            writer.discard()
    writers.pop(span.source, None)  # not sooner: what could not be finished is discarded by `write`


def progress_bar(n_bytes: int) -> tqdm:
    """Bytes of source files, of which the time left follows; shown by the first rank of each machine for all."""
    return tqdm(
        total=n_bytes,
        unit="B",
        unit_scale=True,
        desc="features",
        disable=number_from_environment("LOCAL_RANK", 0) != 0,
        mininterval=0.5 if sys.stderr.isatty() else 10,
        miniters=0,  # a long video has its frames counted although no file is done
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 where every file has its features, 1 where some cannot be read, 2 where it cannot go on."""
    return run_command(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = HfArgumentParser(ExtractArguments)  # type: ignore[arg-type]
    (arguments,) = parser.parse_args_into_dataclasses(args=None if argv is None else list(argv))
    try:
        with all_ranks():
            encoder = open_encoder(arguments.model_path, arguments.vision_tower, arguments.device, arguments.dtype)
            rank, world_size = number_from_environment("RANK", 0), number_from_environment("WORLD_SIZE", 1)
            report = extract(arguments, encoder, rank, world_size)
            for line in fault_lines(report):
                print(line, file=sys.stderr)
            n_faults = sum_over_ranks(len(report.faults))
    except torch.OutOfMemoryError as error:
        raise ValueError("the device has too little memory: give a smaller --batch_size") from error
    if report.rank == 0:
        rate = report.frames / max(report.seconds, 1e-3)
        print(f"rank 0: {report.written} files written, {report.frames} frames, {rate:.1f} a second")
        if n_faults:
            print(f"error: {n_faults} files failed: see {arguments.output}/extraction-rank-*.json", file=sys.stderr)
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
