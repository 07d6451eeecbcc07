"""The check command finds every fault of a data set, and training can leave the records out that it lists."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flash_vstream import cli
from flash_vstream.data import ConversationDataset, MediaFolders, Records
from flash_vstream.data.check import MOST_WORKERS, Checks, find_faults, parser
from flash_vstream.data.faults import without_listed
from flash_vstream.data.survey import survey
from flash_vstream.features.file import FeatureFile
from tests.conftest import TinyModel
from tests.data.files import conversation, image_record, record, text_record, write_picture, write_records
from tests.full_disk import full_disk
from tests.video.clips import write_clip

WRONG = {  # id -> (file, fault), in the order of the records
    "missing picture": ("none.jpg", "missing"),
    "7": ("none.mp4", "missing"),
    "empty picture": ("empty.jpg", "empty"),
    "empty video": ("empty.mp4", "empty"),
    "corrupt picture": ("corrupt.jpg", "corrupt"),
    "corrupt video": ("corrupt.mp4", "corrupt"),
    "again": ("corrupt.mp4", "corrupt"),
    "silent": ("", "no supervision"),
    "#10": ("a.mp4", "bad record"),
    "both": ("a.jpg", "bad record"),
    "late": ("a.mp4", "bad record"),
}
UNSEEN_QUICKLY = {"corrupt picture", "corrupt video", "again", "late"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.json with sixteen records, of which five are good, and what they show."""
    folder = tmp_path_factory.mktemp("data")
    picture = write_picture(folder / "a.jpg", (64, 64)).read_bytes()
    video = write_clip(folder / "a.mp4", range(0, 4000, 250)).read_bytes()
    (folder / "corrupt.jpg").write_bytes(picture[: len(picture) // 2])
    (folder / "corrupt.mp4").write_bytes(video[: len(video) // 2])
    (folder / "empty.jpg").touch()
    (folder / "empty.mp4").touch()
    silent = conversation([("Who?", " "), ("Why?", "")])
    records = [
        image_record(),
        image_record(id="missing picture", image="none.jpg"),
        record(id=7, video="none.mp4"),
        record(),
        image_record(id="empty picture", image="empty.jpg"),
        record(id="empty video", video="empty.mp4"),
        image_record(id="corrupt picture", image="corrupt.jpg"),
        record(id="corrupt video", video="corrupt.mp4"),
        record(id="again", video="corrupt.mp4"),
        text_record(id="silent", conversations=silent),
        record(id=None, conversations=[]),
        record(id="both", image="a.jpg"),
        record(id="late", time=30),
        text_record(),
        record(id="r2", end_time=2),
        record(id="r1", video="a.mp4", time=3),  # ids repeat in the real data
    ]
    write_records(folder / "data.json", records)
    return folder


def check(words: list[str]) -> int:
    return cli.main(["check", *words])


def arguments(folder: Path, *more: str) -> list[str]:
    return [f"--data_path={folder / 'data.json'}", f"--image_folder={folder}", f"--video_folder={folder}", *more]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_fault_is_found_and_counted(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    report = tmp_path / "deep" / "report.json"
    assert check(arguments(folder, f"--num_workers={workers}", f"--report={report}")) == 1
    report_data = json.loads(report.read_text())
    assert report_data["data"] == str(folder / "data.json")
    assert {row["id"]: (row["file"], row["fault"]) for row in report_data["faults"]} == WRONG
    assert [row["id"] for row in report_data["faults"]] == list(WRONG)
    assert all(row["detail"] and "\n" not in row["detail"] for row in report_data["faults"])
    assert list(report.parent.iterdir()) == [report]
    out, progress = capfd.readouterr()
    assert "16 records, 11 with faults" in out
    assert "missing: 2, namely none.jpg (record missing picture), none.mp4 (record 7)" in out
    assert "corrupt: 3, namely corrupt.jpg" in out
    assert "no supervision: 1, namely text (record silent)" in out
    assert str(report) in out
    assert "files: 100%" in progress and "12/12" in progress  # 3 are at fault themselves, 1 is good text


@pytest.mark.parametrize("end", ["mkv", "webm", "wmv", "avi", "ts"])
def test_cut_and_overwritten_videos_of_every_container_are_corrupt(end: str, tmp_path: Path) -> None:
    """P04, P05: a header that says 8 s, or a grey picture, do not make them whole."""
    codec = {"webm": "libvpx-vp9", "wmv": "wmv2"}.get(end, "libx264")
    good = write_clip(tmp_path / f"good.{end}", range(80), Fraction(1, 10), rate=10, codec=codec).read_bytes()
    (tmp_path / f"cut.{end}").write_bytes(good[: len(good) * 6 // 10 + 7])
    begin, length = len(good) * 7 // 10, len(good) // 20
    noise = np.random.default_rng(0).bytes(length)
    (tmp_path / f"noise.{end}").write_bytes(good[:begin] + noise + good[begin + length :])
    records = [record(id=name, video=f"{name}.{end}") for name in ("good", "cut", "noise")]
    write_records(tmp_path / "data.json", records)
    check(arguments(tmp_path, "--num_workers=0", f"--report={tmp_path / 'report.json'}"))
    faults = json.loads((tmp_path / "report.json").read_text())["faults"]
    assert {fault["id"]: fault["fault"] for fault in faults} == {"cut": "corrupt", "noise": "corrupt"}


def test_without_faults_all_is_well(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_records(tmp_path / "good.json", [image_record(), record(), text_record()])
    assert (
        check([f"--data_path={data}", f"--image_folder={folder}", f"--video_folder={folder}", "--num_workers=0"]) == 0
    )
    assert "3 records, 0 with faults" in capsys.readouterr().out
    assert json.loads((tmp_path / "good.faults.json").read_text())["faults"] == []


def test_before_training_no_file_is_opened(folder: Path) -> None:
    faults = survey(Records(folder / "data.json"), MediaFolders(folder, folder), 1.0, "v1").faults
    assert {fault.id: (fault.file, fault.fault) for fault in faults} == {
        name: what for name, what in WRONG.items() if name not in UNSEEN_QUICKLY
    }
    # A caption holds one turn, so conversations are no data for the plain style.
    plain = survey([text_record()], MediaFolders(), 1.0, "plain").faults
    assert [fault.fault for fault in plain] == ["bad record"]


def test_listed_records_are_left_out_and_no_others(folder: Path, tmp_path: Path, tiny_model: TinyModel) -> None:
    report = tmp_path / "report.json"
    check(arguments(folder, "--num_workers=0", f"--report={report}"))
    records, skipped = without_listed(Records(folder / "data.json"), report)
    assert skipped == len(WRONG)
    assert [row["id"] for row in records] == ["i1", "r1", "t1", "r2", "r1"]
    assert survey(records, MediaFolders(folder, folder), 1.0, "v1").faults == []
    items = ConversationDataset(records, tiny_model[1], "v1", MediaFolders(folder, folder))
    assert len([items[index] for index in range(len(items))]) == 5


def test_a_report_that_is_none_or_of_other_data_is_named(tmp_path: Path) -> None:
    records = Records(write_records(tmp_path / "data.json", [record(), text_record()]))
    report = tmp_path / "report.json"
    with pytest.raises(ValueError, match=r"report\.json is no report"):
        without_listed(records, report)
    for content in ("", "[]", '{"faults": [{}]}', "{}", '{"faults": [3]}'):
        report.write_text(content)
        with pytest.raises(ValueError, match=r"report\.json is no report"):
            without_listed(records, report)
    report.write_text(json.dumps({"faults": [{"id": "r1", "file": "b.mp4", "fault": "missing"}]}))
    with pytest.raises(ValueError, match=r"lists record 'r1', which is not in .*data\.json"):
        without_listed(records, report)


def test_of_records_alike_only_the_listed_one_is_left_out(
    tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in tiny_model:
        part.save_pretrained(tmp_path / "model")
    write_picture(tmp_path / "a.jpg")
    long = conversation([("Say much.", "word " * 300)])
    records = [image_record(), image_record(conversations=long), image_record(), text_record(), text_record(time=1)]
    data, report = write_records(tmp_path / "data.json", records), tmp_path / "data.faults.json"
    command = [f"--data_path={data}", f"--image_folder={tmp_path}", f"--model_path={tmp_path / 'model'}"]
    assert check([*command, "--num_workers=0"]) == 1
    report_data = json.loads(report.read_text())
    assert [(row["index"], row["id"], row["fault"]) for row in report_data["faults"]] == [(1, "i1", "too long")]
    kept, skipped = without_listed(Records(data), report)
    assert skipped == 1 and list(kept) == [records[0], *records[2:]]

    write_records(data, records[2:] + records[:2])  # every record has another place now
    with pytest.raises(ValueError, match=r"lists record 'i1', which is not in .*data\.json, or not in the same place"):
        without_listed(Records(data), report)
    del report_data["faults"][0]["index"]  # as reports were before they held it
    report.write_text(json.dumps(report_data))
    kept, skipped = without_listed(Records(data), report)
    assert skipped == 3 and list(kept) == records[3:]


@dataclasses.dataclass(frozen=True)
class CrashingChecks(Checks):
    """A decoder that crashes on one file. Not a mock: worker processes have to find it."""

    def count_frames(self, path: Path, kind: str | None) -> int:
        if path.name == "crash.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().count_frames(path, kind)


@dataclasses.dataclass(frozen=True)
class UnstartableChecks(Checks):
    def __setstate__(self, state: object) -> None:
        raise ValueError("never to be unpickled")


def test_a_decoder_that_crashes_is_a_fault_of_its_file_only(folder: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "crash.mp4"):
        shutil.copy(folder / "a.mp4", tmp_path / name)
    records = [record(id="first", video="crash.mp4"), record(), record(id="second", video="crash.mp4")]
    faults = find_faults(records, CrashingChecks(MediaFolders(videos=tmp_path)), n_workers=1)
    assert [(fault.id, fault.fault) for fault in faults] == [("first", "corrupt"), ("second", "corrupt")]
    assert all("crash.mp4 crashed" in fault.detail for fault in faults)


def test_workers_that_cannot_start_are_no_fault_of_the_files(folder: Path) -> None:
    with pytest.raises(ValueError, match="--num_workers 0"):
        find_faults([record()], UnstartableChecks(MediaFolders(videos=folder)), n_workers=1)


def test_features_and_lengths_are_checked_against_a_model(
    tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = tiny_model
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for name, shape in {"good": (9, 16, 32), "wide": (9, 16, 33), "coarse": (9, 4, 32)}.items():
        FeatureFile.write(tmp_path / f"{name}.safetensors", torch.zeros(shape), {})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:-4])
    long = conversation([("Say much.", "word " * 300)])
    records = [
        *(record(id=name, video=f"{name}.mp4") for name in ("good", "wide", "coarse", "cut", "none")),
        record(id="late", video="good.mp4", time_9=12),
        record(id="in time", video="good.mp4", time_9=8.5),
        text_record(id="long", conversations=long),
        text_record(id="unasked", conversations=conversation([(" ", "a")])),
        text_record(),
    ]
    data = write_records(tmp_path / "data.json", records)
    wrong = {"wide": "corrupt", "coarse": "corrupt", "cut": "corrupt", "none": "missing", "late": "bad record"}
    common = [f"--data_path={data}", f"--video_feature_folder={tmp_path}", "--num_workers=0"]

    def faults(*more: str) -> dict[str, Any]:
        check([*common, *more])
        return {row["id"]: row["fault"] for row in json.loads((tmp_path / "data.faults.json").read_text())["faults"]}

    against = wrong | {"unasked": "bad record"}
    assert faults(f"--model_path={tmp_path / 'model'}") == against | {"long": "too long"}  # past its 1,024 tokens
    assert faults(f"--model_path={tmp_path / 'model'}", "--max_length=2000") == against
    assert faults() == {name: fault for name, fault in wrong.items() if name in ("cut", "none", "late")}
    assert faults("--conversation=v1").keys() == {"cut", "none", "late", "unasked"}


def test_an_unpaired_surrogate_is_a_fault_of_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [text_record(), text_record(id="bad \ud83d", conversations=conversation([("a", "so \ud83d")]))]
    write_records(tmp_path / "data.json", [*records, record(id="r3", video="\ud83d.mp4")])
    given = ["--data_path", str(tmp_path / "data.json"), "--video_folder", str(tmp_path), "--num_workers", "0"]
    assert check(given) == 1
    assert "bad record: 2, namely text (record bad \\ud83d), \\ud83d.mp4 (record r3)" in capsys.readouterr().out
    assert len(without_listed(Records(tmp_path / "data.json"), tmp_path / "data.faults.json")[0]) == 1


def test_where_the_report_cannot_be_written_its_summary_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "data.json", [record(id=str(number)) for number in range(100)])
    given = ["--data_path", str(tmp_path / "data.json"), "--video_folder", str(tmp_path), "--num_workers", "0"]
    with full_disk(1000):
        assert check(given) == 2
    said = capsys.readouterr()
    assert "missing: 100, such as" in said.out
    assert f"{tmp_path / 'data.faults.json'} (File too large)" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_file_is_opened_once_for_all_its_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "a.mp4", range(0, 3000, 250))
    records = [record(id=str(number), time=number / 20) for number in range(100)]
    faults = find_faults(records, Checks(MediaFolders(videos=tmp_path)))
    assert [fault.id for fault in faults] == [str(number) for number in range(60, 100)]
    assert all("ends after 3 s" in fault.detail for fault in faults)
    assert "100/100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "none.json"}, "none.json is missing"),
        ({"num_workers": "-1"}, "--num_workers: -1"),
        ({"report": "data.json/x/report.json"}, "data.json"),
        ({"model_path": "none"}, "none"),
        ({"fps": "0"}, "--fps: 0"),
        ({"video_fps": "2"}, "use --fps"),
        ({"max_length": "0"}, "--max_length: 0"),
        ({"max_length": "9"}, "--model_path"),
    ],
)
def test_bad_input_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    write_records(tmp_path / "data.json", [text_record()])
    options = {"data_path": "data.json", **changes}
    given = [f"--{key}={value if value.lstrip('-').isdigit() else tmp_path / value}" for key, value in options.items()]
    assert check(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1


def test_a_machine_of_many_cores_gets_no_worker_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker holds eight open files of this process, which may often have 1,024."""
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    workers = parser().get_default("num_workers")
    assert 8 * workers < 1024 and workers == MOST_WORKERS
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert parser().get_default("num_workers") == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_features_with_a_nan_are_corrupt(tmp_path: Path, workers: int) -> None:
    """P09: four of eight records use the file with one NaN, in frame 3."""
    features = torch.randn(6, 16, 4).half()
    FeatureFile.write(tmp_path / "good.safetensors", features, {})
    features[3, 5, 1] = float("nan")
    FeatureFile.write(tmp_path / "nan.safetensors", features, {})
    records = [record(id=f"r{n}", video="nan.mp4" if n % 2 else "good.mp4") for n in range(8)]
    data = write_records(tmp_path / "data.json", records)
    assert check([f"--data_path={data}", f"--video_feature_folder={tmp_path}", f"--num_workers={workers}"]) == 1
    faults = json.loads((tmp_path / "data.faults.json").read_text())["faults"]
    assert [(row["id"], row["fault"]) for row in faults] == [(f"r{n}", "corrupt") for n in (1, 3, 5, 7)]
    assert all("nan.safetensors" in row["detail"] and "in frame 3" in row["detail"] for row in faults)
