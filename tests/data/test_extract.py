"""Features equal the model's own, faults stop nothing, and a killed run goes on to the same files."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flash_vstream.data import read_features, write_features
from flash_vstream.features.decode import Chunk, Decoding, ahead, batches, decode
from flash_vstream.features.extract import ExtractArguments, extract, main
from flash_vstream.features.inputs import Source, find_sources, share
from flash_vstream.features.writer import FeatureWriter
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.encoder import FrameEncoder, digest_of
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import make_stream
from flash_vstream.video import read_frames
from tests.full_disk import full_disk

GOLDEN = Path(__file__).parent.parent / "golden"
VIDEOS = ("a.mp4", "sub/b.mp4", "sub/deeper/c.d.mp4")
IMAGES = ("i.png", "sub/j.jpg")
Opened = tuple[VStreamForConditionalGeneration, VStreamProcessor]


@pytest.fixture(scope="module")
def opened() -> Opened:
    return load()


@pytest.fixture(scope="module")
def encoder(opened: Opened) -> FrameEncoder:
    return FrameEncoder.of(*opened)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of half a minute and two images; what is called .jpg is a GIF."""
    folder = tmp_path_factory.mktemp("media")
    for seed, name in enumerate(VIDEOS):
        write_mp4(make_stream(seed, 30, 36), folder / name, fps=2, size=64)
    colours = np.random.default_rng(0)
    for name, kind in zip(IMAGES, ("PNG", "GIF"), strict=True):
        Image.fromarray(colours.integers(0, 256, (60, 100, 3), dtype=np.uint8)).save(folder / name, kind)
    (folder / "notes.txt").write_text("neither image nor video")
    return folder


@pytest.fixture(scope="module")
def full(media: Path, encoder: FrameEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of `media`, in batches that begin and end in the middle of videos."""
    output = tmp_path_factory.mktemp("full")
    report = extract(arguments(media, output), encoder)
    assert (report.sources, report.existing, report.written, report.faults) == (5, 0, 5, [])
    return output


def arguments(media: Path, output: Path, **changes: object) -> ExtractArguments:
    settings: dict = {"batch_size": 7, "num_workers": 2, "device": "cpu", **changes}
    return ExtractArguments(str(media), str(output), **settings)


def files(folder: Path) -> dict[str, bytes]:
    """All feature files of a folder, and whatever was left unfinished."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".part")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_features_are_what_the_model_makes_of_the_same_frames(media: Path, full: Path, opened: Opened) -> None:
    model, processor = opened
    for name in VIDEOS:
        frames = np.stack([frame for frame, _ in read_frames(media / name, 1.0)])
        expected = model.encode_frames(processor.frames_to_pixels(frames))
        found, metadata = read_features((full / name).with_suffix(".safetensors"))
        assert found.dtype == torch.float16 and len(frames) >= 30
        torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)
        assert metadata["fps"] == "1.0" and "aspect" not in metadata
    for name in IMAGES:
        picture = np.asarray(Image.open(media / name).convert("RGB"))
        expected = model.encode_frames(processor.frames_to_pixels(picture[None]))[0]
        found = load_file((full / name).with_suffix(".safetensors"))["feature"]
        torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)  # [P, D], not [1, P, D]


def test_metadata_tells_how_the_features_were_made(full: Path, opened: Opened) -> None:
    metadata = read_features(full / "i.safetensors")[1]
    frames = json.loads(metadata.pop("preprocessing"))
    assert frames == opened[1].frames.to_dict()
    assert metadata == {
        "encoder": digest_of(opened[0].vision_tower),
        "layer": "-2",
        "resolution": "96",
        "aspect": "plain",
        "dtype": "float16",
        "pooling": "none",
    }


def test_pooled_features_are_the_full_ones_pooled(
    media: Path, full: Path, encoder: FrameEncoder, tmp_path: Path
) -> None:
    report = extract(arguments(media, tmp_path, pooled=True, dtype="float32", limit=2), encoder)
    assert report.written == 2  # the first two by path
    for name in ("a.safetensors", "i.safetensors"):
        pooled, metadata = read_features(tmp_path / name)
        assert pooled.shape[1] == encoder.memory_size**2 < encoder.grid**2
        assert metadata["pooling"] == str(encoder.memory_size)
        expected = pool_grid(read_features(full / name)[0].float(), encoder.memory_size)
        torch.testing.assert_close(pooled, expected, atol=5e-3, rtol=2e-3)  # the full ones are float16


def test_files_that_cannot_be_read_are_reported_and_the_others_done(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "good.mp4").symlink_to(media / "a.mp4")
    (folder / "empty.png").touch()
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (folder / "noise2.mp4").write_bytes(bytes(range(256)) * 40)
    broken = bytearray((media / "sub/b.mp4").read_bytes())
    middle = len(broken) // 2
    broken[middle : middle + 3000] = bytes(3000)
    (folder / "broken.mp4").write_bytes(broken)
    assert main(["--input", str(folder), "--output", str(output), "--device", "cpu", "--num_workers", "2"]) == 1
    errors = capsys.readouterr().err
    assert "failed: 2 files, the first noise" in errors and "error: 5 files failed" in errors
    report = json.loads((output / "extraction-rank-0-of-1.json").read_text())
    names = {"empty.png", "gone.mp4", "noise.mp4", "noise2.mp4", "broken.mp4"}
    assert {entry["file"] for entry in report["faults"]} == names
    assert report["written"] == 1
    assert list(files(output)) == ["good.safetensors"]  # nothing half is left of the one that breaks off


def test_a_second_run_keeps_what_is_there_and_refuses_what_is_of_another_setting(
    media: Path, full: Path, encoder: FrameEncoder, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for name, content in files(full).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(content)
    (output / "a.4711.part").write_bytes(b"half")
    report = extract(arguments(media, output), encoder)
    assert (report.existing, report.written) == (5, 0) and files(output) == files(full)
    with pytest.raises(ValueError, match=r"3 feature files.* has fps 1.0, not 0.5: .*--overwrite"):
        extract(arguments(media, output, fps=0.5), encoder)
    (output / "i.safetensors").write_bytes(files(full)["i.safetensors"][:-1])
    with pytest.raises(ValueError, match=r"1 feature files.*i\.safetensors is damaged"):
        extract(arguments(media, output), encoder)
    report = extract(arguments(media, output, overwrite=True), encoder)
    assert (report.existing, report.written) == (4, 1) and files(output) == files(full)


def test_where_nothing_more_can_be_written_it_ends_and_leaves_nothing_half(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(100_000):
        code = main(["--input", str(media / "sub"), "--output", str(tmp_path), "--device", "cpu", "--num_workers", "1"])
    line = f"error: {tmp_path / 'deeper' / 'c.d.safetensors'} cannot be written (File too large): make room there"
    assert code == 2 and line in capsys.readouterr().err
    assert files(tmp_path) == {}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_files(media: Path, full: Path, tmp_path: Path) -> None:
    """Killed when some files are there and others half written; in the end not a bit is different."""
    command = [sys.executable, "-m", "flash_vstream.features.extract", "--input", str(media), "--output", str(tmp_path)]
    command += ["--batch_size", "7", "--num_workers", "2", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (list(tmp_path.rglob("*.safetensors")) and list(tmp_path.rglob("*.part"))):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()
    expected = files(full)
    whole = {name: content for name, content in files(tmp_path).items() if name.endswith(".safetensors")}
    assert whole and whole.items() <= expected.items()
    assert subprocess.run(command, check=False).returncode == 0
    assert files(tmp_path) == expected


@pytest.mark.slow
def test_two_ranks_share_the_work_and_wait_for_one_another(media: Path, full: Path, tmp_path: Path) -> None:
    """The launcher kills all ranks when one ends with an error: a broken file must not have that effect."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "media").symlink_to(media)
    (folder / "noise.mp4").write_bytes(b"noise")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "flash_vstream.features.extract", "--input", str(folder), "--output", str(output)]
    command += ["--batch_size", "7", "--num_workers", "1", "--device", "cpu"]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    reports = [json.loads((output / f"extraction-rank-{rank}-of-2.json").read_text()) for rank in range(2)]
    assert [report["written"] > 0 for report in reports] == [True, True]
    assert sum(report["written"] for report in reports) == 5
    assert sum(len(report["faults"]) for report in reports) == 1
    assert files(output / "media") == files(full)


def test_shares_are_disjoint_complete_and_alike() -> None:
    sizes = np.random.default_rng(0).integers(0, 10**6, 500).tolist()
    sources = [Source(Path(f"{number}.mp4"), size) for number, size in enumerate(sizes)]
    shares = [share(sources, rank, 7) for rank in range(7)]
    assert sorted(source.path.name for own in shares for source in own) == sorted(s.path.name for s in sources)
    loads = [sum(source.size for source in own) for own in shares]
    assert max(loads) - min(loads) < max(sizes) / 10
    assert shares[3] == share(sources[::-1], 3, 7)


def test_a_decoder_that_crashes_is_a_fault_of_its_file_only(media: Path, encoder: FrameEncoder) -> None:
    sources = [source for source in find_sources(media)[0] if not source.is_image]
    chunks = decode(sources, Decoding(media, encoder.frames, 1.0, pad=False, dtype=torch.float32), n_workers=1)
    victim = next(chunks).source
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    ends = {chunk.source: chunk.fault for chunk in chunks if chunk.pixels is None}
    assert set(ends) == set(sources)
    # It may have been quicker than the signal; then the next file, that it was given, is the one.
    crashed = [source for source, fault in ends.items() if fault is not None]
    assert len(crashed) == 1 and crashed[0] in sources[: sources.index(victim) + 2]
    assert "crashed (exit code -9)" in str(ends[crashed[0]])


def test_batches_fill_across_sources_and_keep_their_size() -> None:
    first, second, third = (Source(Path(name), 1) for name in ("a.mp4", "b.mp4", "c.mp4"))
    pixels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    chunks = [Chunk(first, pixels[:3]), Chunk(second, pixels[3:8]), Chunk(first), Chunk(third, fault="broken")]
    made = list(batches([*chunks, Chunk(second)], 4))
    assert [batch[:, 0, 0, 0].tolist() for batch, _ in made if batch is not None] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    spans = [[(span.source.path.stem, span.n_frames, span.is_end, span.fault) for span in own] for _, own in made]
    ends = [("a", 0, True, None), ("c", 0, True, "broken"), ("b", 0, True, None)]
    assert spans == [[("a", 3, False, None), ("b", 1, False, None)], [("b", 4, False, None), *ends]]
    ((filled, _),) = batches([Chunk(first, pixels[1:3])], 4)
    assert filled is not None and filled[:, 0, 0, 0].tolist() == [1, 2, 0, 0]
    assert next(iter(batches([chunks[3]], 4)))[0] is None


def test_a_thread_runs_no_further_ahead_than_it_may() -> None:
    made: list[int] = []
    numbers = ahead((made.append(number) or number for number in range(100)), 3)  # type: ignore[func-returns-value]
    assert next(numbers) == 0
    time.sleep(0.3)
    assert len(made) <= 5  # one taken, three waiting, one in the hand
    assert list(numbers) == list(range(1, 100))
    with pytest.raises(ZeroDivisionError):
        list(ahead((1 // number for number in (1, 0)), 3))


def test_a_file_written_in_pieces_is_one_written_at_once(tmp_path: Path) -> None:
    features = torch.randn(11, 4, 6).bfloat16()
    writer = FeatureWriter(tmp_path / "x" / "pieces.safetensors", {"fps": "1.0"}, features, is_image=False)
    for part in features.split(4):
        writer.append(part)
        assert not writer.path.exists()
    writer.finish()
    write_features(tmp_path / "whole.safetensors", features, {"fps": "1.0"})
    pieces, whole = read_features(writer.path), read_features(tmp_path / "whole.safetensors")
    assert torch.equal(pieces[0], whole[0]) and pieces[1] == whole[1]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["pieces.safetensors"]


def test_a_tower_alone_and_its_model_are_one_encoder() -> None:
    """The published checkpoint names its tower's folder; only that is read for it."""
    model, processor = load(GOLDEN / "ckpt-vstream-safetensors")
    alone = FrameEncoder.from_tower(GOLDEN / "clip_tiny")
    pixels = torch.randn(3, 3, model.config.frame_size, model.config.frame_size)
    expected = model.encode_frames(pixels)
    for encoder in (alone, FrameEncoder.from_checkpoint(GOLDEN / "ckpt-vstream-safetensors")):
        assert encoder.description() == FrameEncoder.of(model, processor).description()
        assert torch.equal(encoder(pixels), expected)
    assert torch.equal(
        FrameEncoder.from_checkpoint()(torch.zeros(1, 3, 96, 96)), load()[0].encode_frames(torch.zeros(1, 3, 96, 96))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--input": "nowhere"}, "input folder nowhere is missing"),
        ({"--fps": "0"}, "fps is 0"),
        ({"--limit": "0"}, "limit is 0"),
        ({"--model_path": "x", "--vision_tower": "y"}, "choose one encoder"),
        ({"--vision_tower": "/nowhere/clip"}, "there is no folder /nowhere/clip"),
    ],
)
def test_what_was_given_wrongly_ends_in_one_line(
    changes: dict[str, str], message: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--input": str(media), "--output": str(tmp_path), "--device": "cpu", **changes}
    assert main([word for pair in given.items() for word in pair]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_files_that_would_share_a_target_are_named(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.mp4", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"x/a.mp4 and x/a.png would both become x/a.safetensors"):
        find_sources(tmp_path)
    (tmp_path / "x/a.png").rename(tmp_path / "x/b.txt")
    sources, others = find_sources(tmp_path)
    assert [source.path.as_posix() for source in sources] == ["x/a.mp4", "y/a.png"] and others == {".txt": 1}
    (tmp_path / "y/up").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="remove the link"):
        find_sources(tmp_path)
