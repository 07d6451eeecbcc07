"""Small downloads in the exact formats of the originals, converted: every row as written out by hand, faults named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from flash_vstream import cli
from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.benchmarks.prepare import convert
from flash_vstream.eval.judging.judge import judge
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.sample import Prediction, Sample
from tests.eval.conftest import N_STREAMS

ACTIVITYNET_Q = [
    {"video_name": "1QIUV7WYKXg", "question": "is the athlete tall", "question_id": "v_1QIUV7WYKXg_3"},
    {"video_name": "_x_y", "question": "what is on the table", "question_id": "v__x_y_10"},
]
ACTIVITYNET_A = [  # in another order
    {"answer": "a cup", "type": 5, "question_id": "v__x_y_10"},
    {"answer": "yes", "type": 3, "question_id": "v_1QIUV7WYKXg_3"},
]
MSVD = [
    {"answer": "someone", "id": 37, "question": "who rides a bike?", "video_id": 1301},
    {"answer": "dog", "id": 38, "question": "what barks?", "video_id": 2},
]
MAPPING = "-4wsuPCjDBc_5_15 vid1301\nklteYv1Uv9A_27_33 vid2\n"
MSRVTT = [
    {"answer": "couch", "category_id": 14, "id": 158581, "question": "what are three people on?", "video_id": 7010}
]
NEXT = (
    "video,frame_count,width,height,question,answer,qid,type\n"
    "2909445186,369,640,480,how do the men play,roll the handle,6,CH\n"
    '2909445186,369,640,480,"where is this, roughly",a park,7,DL\n'
)
NEXT_MAP = {"2909445186": "0101/2909445186", "1": "0202/1"}
EGO: dict[str, Any] = {
    "id": "q1",
    "video_id": "000246",
    "question": "What did I pick up?",
    "answer": "A cup.",
    "answer_type": "Action",
    "start_time": 30,
    "end_time": 61.5,
    "duration": 840,
    "gt_duration": 31.5,
}
FRAMES = ("shot_0007_img_0", "shot_0007_img_1", "shot_0007_img_2", "shot_0010_img_0", "shot_0010_img_2")
MOVIE = EGO | {"video_id": "tt01_0007_0010", "start_time": "shot_0007_img_1.jpg", "end_time": "shot_0010_img_0.jpg"}


def main(arguments: list[str]) -> int:
    return cli.main(["prepare", *arguments])


def prepare(tag: str, source: Path, data_root: Path) -> list[Sample]:
    """Convert a download; the samples of the file that this writes."""
    convert(find_benchmark(tag), source, data_root)
    return find_benchmark(tag).load(data_root)


def put(folder: Path, **files: Any) -> Path:
    """Write files: texts as they are, the rest as JSON. A name's last underscore stands for the dot of its ending."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return folder


def put_frames(folder: Path, names: tuple[str, ...] = FRAMES) -> None:
    folder.mkdir(parents=True)
    for name in reversed(names):
        (folder / f"{name}.jpg").touch()


def written(data_root: Path, tag: str) -> Any:
    """The file that was written."""
    return json.loads(find_benchmark(tag).questions_file(data_root).read_text(encoding="utf-8"))


def test_activitynet(tmp_path: Path) -> None:
    source = put(tmp_path / "download" / "dataset", test_q_json=ACTIVITYNET_Q, test_a_json=ACTIVITYNET_A).parent
    samples = prepare("actnet", source, tmp_path)
    assert samples == [
        Sample("actnet", "v_1QIUV7WYKXg_3", "v_1QIUV7WYKXg", "is the athlete tall", "yes", "Yes/No"),
        Sample("actnet", "v__x_y_10", "v__x_y", "what is on the table", "a cup", "Object"),
    ]
    assert written(tmp_path, "actnet")[1] == {
        "id": "v__x_y_10",
        "video_id": "v__x_y",
        "question": "what is on the table",
        "answer": "a cup",
        "answer_type": "Object",
    }


def test_msvd(tmp_path: Path) -> None:
    source = put(tmp_path / "download", test_qa_json=MSVD, youtube_mapping_txt=MAPPING)
    samples = prepare("msvd", source, tmp_path)
    assert samples == [
        Sample("msvd", "37", "-4wsuPCjDBc_5_15", "who rides a bike?", "someone"),
        Sample("msvd", "38", "klteYv1Uv9A_27_33", "what barks?", "dog"),
    ]


def test_msrvtt(tmp_path: Path) -> None:
    samples = prepare("msrvtt", put(tmp_path / "download", test_qa_json=MSRVTT), tmp_path)
    assert samples == [Sample("msrvtt", "158581", "video7010", "what are three people on?", "couch")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_nextqa(tmp_path: Path, mark: str) -> None:
    source = put(tmp_path / "download", test_csv=mark + NEXT, map_vid_vidorID_json=NEXT_MAP)
    samples = prepare("nextoe", source, tmp_path)
    assert samples == [
        Sample("nextoe", "2909445186_6", "0101/2909445186", "how do the men play", "roll the handle", "CH"),
        Sample("nextoe", "2909445186_7", "0101/2909445186", "where is this, roughly", "a park", "DL"),
    ]


def test_second_reference_answers_of_next_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """E8: its own script counts a reply that matches either reference."""
    references = {"2909445186": {"6": "spin it", "7": "the garden"}, "1": {"0": "no"}}
    files: dict[str, Any] = {"test_csv": NEXT, "map_vid_vidorID_json": NEXT_MAP}
    source = put(tmp_path / "download", **files, add_reference_answer_test_json=references)
    samples = prepare("nextoe", source, tmp_path)
    assert [sample.other_answers for sample in samples] == [("spin it",), ("the garden",)]
    replies = ("spin it", "a park")
    answered = [
        replace(sample, prediction=Prediction(reply, None, 1, 0.1))
        for sample, reply in zip(samples, replies, strict=True)
    ]
    judged = judge(answered, JudgeSettings("offline"))
    assert [each.verdict and each.verdict.correct for each in judged] == [True, True]
    main(["nextoe", "--data_root", str(tmp_path), "--allow_missing"])
    assert "2 questions have a second one" in capsys.readouterr().out
    put(tmp_path / "without", **files)
    assert [sample.other_answers for sample in prepare("nextoe", tmp_path / "without", tmp_path)] == [(), ()]
    assert "add_reference_answer_test.json" in capsys.readouterr().err
    put(source, add_reference_answer_test_json={"2909445186": ["spin it"]})
    with pytest.raises(ValueError, match=r"add_reference_answer_test.json .*'2909445186'"):
        prepare("nextoe", source, tmp_path)


def test_either_number_of_videos_of_rvs_ego_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """E9: it is distributed as 10 videos of an hour, and in the release as 99 clips."""
    turn = {"question": "What?", "answer": "It.", "start_time": 0, "end_time": 9}
    for n_videos, said in ((10, "10 (all)"), (99, "99 (all)"), (9, "9 (the whole set has 10: -1 or 99: -90)")):
        rows = [{"video_id": f"v{n}", "conversations": [turn]} for n in range(n_videos)]
        source = put(tmp_path / f"download-{n_videos}", ego4d_oe_json=rows)
        main(["realtime_vsego4d", "--source", str(source), "--data_root", str(tmp_path), "--allow_missing"])
        assert f"  videos     {said}\n" in capsys.readouterr().out


def test_videos_of_rvs_are_found_by_the_name_in_their_path(tmp_path: Path) -> None:
    """E9: the file names its videos twice."""
    turn = {"question": "What?", "answer": "It.", "start_time": 0, "end_time": 9}
    rows = [
        {"video_id": name, "video_path": f"/data/rvs/{n}.mp4", "conversations": [turn]} for n, name in enumerate("abc")
    ]
    videos = tmp_path / "vstream-realtime" / "videos"
    videos.mkdir(parents=True)
    for name in ("a.mp4", "0.mp4", "1.mp4"):
        (videos / name).touch()
    samples = prepare("realtime_vsego4d", put(tmp_path / "download", ego4d_oe_json=rows), tmp_path)
    assert [(sample.id, sample.video_id) for sample in samples] == [("a_0", "a"), ("b_0", "1"), ("c_0", "c")]


def test_folders_that_are_links_are_entered(tmp_path: Path) -> None:
    """E11, also in a loop of links."""
    put(tmp_path / "disk" / "annotations", test_q_json=ACTIVITYNET_Q, test_a_json=ACTIVITYNET_A)
    source = tmp_path / "download"
    source.mkdir()
    (source / "dataset").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(source)
    (tmp_path / "disk" / "annotations" / "here").symlink_to(tmp_path / "disk" / "annotations")
    assert len(prepare("actnet", source, tmp_path)) == 2


def test_vstream_qa_asks_after_the_whole_video(tmp_path: Path) -> None:
    source = put(tmp_path / "download", test_qa_ego4d_json=[EGO], test_qa_movienet_json=[MOVIE])
    text, answer = "What did I pick up?", "A cup."
    expected = Sample("vsego4d", "q1", "000246", text, answer, "Action")
    assert prepare("vsego4d", source, tmp_path) == [expected]
    expected = Sample("vsmovienet", "q1", "tt01_0007_0010", text, answer, "Action")
    assert prepare("vsmovienet", source, tmp_path) == [expected]


def test_realtime_ego4d_asks_at_end_time(tmp_path: Path) -> None:
    samples = prepare("realtime_vsego4d", put(tmp_path / "download", test_qa_ego4d_json=[EGO]), tmp_path)
    assert samples == [Sample("realtime_vsego4d", "q1", "000246", "What did I pick up?", "A cup.", "Action", 61.5)]
    assert written(tmp_path, "realtime_vsego4d") == [{name: EGO[name] for name in EGO if name != "gt_duration"}]


def test_realtime_in_the_form_of_conversations(tmp_path: Path) -> None:
    turns = [
        {"question": "What now?", "answer": "A door.", "start_time": 1.0, "end_time": 4.0},
        {"question": "And then?", "answer": "A hall.", "start_time": 5, "end_time": 9, "answer_type": "Scene"},
    ]
    rows = [{"video_id": "v1", "video_path": "videos/v1.mp4", "duration": 60, "conversations": turns}]
    samples = prepare("realtime_vsego4d", put(tmp_path / "download", ego4d_oe_json=rows), tmp_path)
    assert samples == [
        Sample("realtime_vsego4d", "v1_0", "v1", "What now?", "A door.", "", 4.0),
        Sample("realtime_vsego4d", "v1_1", "v1", "And then?", "A hall.", "Scene", 9.0),
    ]


@pytest.mark.parametrize("place", ["download/movienet_frames", "vstream-realtime/movienet_frames", "download"])
def test_movie_times_are_sorted_positions_of_key_frames(tmp_path: Path, place: str) -> None:
    """shot_0007_img_1 is the second frame of the clip, there from 1 s on. shot_0010_img_0 the fourth, seen at 4 s."""
    put_frames(tmp_path / place / "tt01_0007_0010")
    source = put(tmp_path / "download", test_qa_movienet_json=[MOVIE])
    (sample,) = prepare("realtime_vsmovienet", source, tmp_path)
    (row,) = written(tmp_path, "realtime_vsmovienet")
    assert (row["start_time"], sample.end_time) == (1.0, 4.0)


def test_key_frames_are_sorted_by_number_not_by_letter(tmp_path: Path) -> None:
    put_frames(tmp_path / "download" / MOVIE["video_id"], ("shot_9_img_0", "shot_10_img_0", "shot_10_img_1"))
    row = MOVIE | {"start_time": "shot_9_img_0", "end_time": "shot_10_img_1"}
    (sample,) = prepare("realtime_vsmovienet", put(tmp_path / "download", test_qa_movienet_json=[row]), tmp_path)
    (row,) = written(tmp_path, "realtime_vsmovienet")
    assert (row["start_time"], sample.end_time) == (0.0, 3.0)


def changed(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """The rows, the last one changed; a field that becomes None is taken away."""
    last = {name: value for name, value in {**rows[-1], **changes}.items() if value is not None}
    return [*rows[:-1], last]


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("actnet", {"test_q_json": ACTIVITYNET_Q}, "test_a.json"),
    ("actnet", {"test_q_json": ACTIVITYNET_Q, "test_a_json": ACTIVITYNET_A[:1]}, "row 1 of .*test_q.json asks 'v_1QIU"),
    (
        "actnet",
        {"test_q_json": ACTIVITYNET_Q[:1], "test_a_json": ACTIVITYNET_A},
        "row 1 of .*test_a.json answers 'v__x_",
    ),
    (
        "actnet",
        {"test_q_json": ACTIVITYNET_Q, "test_a_json": [*ACTIVITYNET_A, ACTIVITYNET_A[0]]},
        "row 3 of .*test_a.json answers 'v__x_y_10' again",
    ),
    (
        "actnet",
        {"test_q_json": [*ACTIVITYNET_Q, ACTIVITYNET_Q[0]], "test_a_json": ACTIVITYNET_A},
        "row 3 of .*test_q.json has the id 'v_1QIUV7WYKXg_3' of row 1",
    ),
    (
        "actnet",
        {"test_q_json": ACTIVITYNET_Q, "test_a_json": changed(ACTIVITYNET_A, type=11)},
        "row 1 of .*test_q.json .* answer_type '11'",
    ),
    (
        "actnet",
        {"test_q_json": ACTIVITYNET_Q, "test_a_json": changed(ACTIVITYNET_A, type=None)},
        "row 2 of .*test_a.json has no type",
    ),
    (
        "actnet",
        {"test_q_json": changed(ACTIVITYNET_Q, video_name="other"), "test_a_json": ACTIVITYNET_A},
        "row 2 of .*test_q.json .* video_name 'other'",
    ),
    (
        "msvd",
        {"test_qa_json": changed(MSVD, video_id=5), "youtube_mapping_txt": MAPPING},
        "row 2 of .* about vid5, which",
    ),
    ("msvd", {"test_qa_json": changed(MSVD, video_id="x"), "youtube_mapping_txt": MAPPING}, "row 2 of .* video_id 'x'"),
    ("msvd", {"test_qa_json": changed(MSVD, id=37), "youtube_mapping_txt": MAPPING}, "row 2 of .* id '37' of row 1"),
    ("msvd", {"test_qa_json": MSVD, "youtube_mapping_txt": "a vid1301\nvid2\n"}, "line 2 of .*mapping.txt is 'vid2'"),
    ("msvd", {"test_qa_json": "[", "youtube_mapping_txt": MAPPING}, "test_qa.json is not JSON"),
    ("msrvtt", {"test_qa_json": [*MSRVTT, 7]}, "row 2 of .* is '7', not an object"),
    ("msrvtt", {"test_qa_json": changed(MSRVTT, answer=None)}, "row 1 of .* has no answer"),
    ("nextoe", {"test_csv": NEXT, "map_vid_vidorID_json": {"1": "0202/1"}}, "row 1 of .*test.csv is about video '2909"),
    ("nextoe", {"test_csv": NEXT + "1,2\n", "map_vid_vidorID_json": NEXT_MAP}, "row 3 of .*test.csv has not as many"),
    (
        "nextoe",
        {"test_csv": NEXT.replace("DL", "D?"), "map_vid_vidorID_json": NEXT_MAP},
        "row 2 of .* answer_type 'D?'",
    ),
    ("nextoe", {"test_csv": NEXT.replace("qid", "n"), "map_vid_vidorID_json": NEXT_MAP}, "test.csv has no column qid"),
    ("nextoe", {"test_csv": NEXT.replace("type", "type,a0"), "map_vid_vidorID_json": NEXT_MAP}, "multiple-choice set"),
    ("nextoe", {"test_csv": NEXT, "map_vid_vidorID_json": []}, "map_vid_vidorID.json must hold an object"),
    ("vsego4d", {"test_qa_ego4d_json": [EGO, EGO]}, "row 2 of .* id 'q1' of row 1"),
    ("realtime_vsego4d", {"test_qa_ego4d_json": changed([EGO], end_time=None)}, "row 1 of .* has no end_time"),
    ("realtime_vsego4d", {"ego4d_oe_json": [{"video_id": "v", "conversations": 3}]}, "row 1 of .* has conversations"),
    (
        "realtime_vsmovienet",
        {"test_qa_movienet_json": [MOVIE]},
        "row 1 of .*: start_time .*movienet_frames",
    ),
]


@pytest.mark.parametrize(("tag", "files", "message"), FAULTS)
def test_a_fault_in_a_download_is_named_and_nothing_is_written(
    tmp_path: Path, tag: str, files: dict[str, Any], message: str
) -> None:
    source = put(tmp_path / "download", **files)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as error:
        prepare(tag, source, tmp_path)
    assert "\n" not in str(error.value)
    assert not find_benchmark(tag).questions_file(tmp_path).exists()


def test_a_key_frame_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = put(tmp_path / "download", test_qa_movienet_json=[MOVIE])
    put_frames(source / MOVIE["video_id"], FRAMES[:3])
    with pytest.raises(ValueError, match=r"end_time .*'shot_0010_img_0\.jpg'.* 3 "):
        prepare("realtime_vsmovienet", source, tmp_path)


def test_a_file_that_is_there_twice_is_not_guessed(tmp_path: Path) -> None:
    put(tmp_path / "download" / "a", test_qa_json=MSRVTT)
    put(tmp_path / "download" / "b", test_qa_json=MSRVTT)
    with pytest.raises(ValueError, match=r"several test_qa.json: .*a/test_qa.json, .*b/test_qa.json"):
        prepare("msrvtt", tmp_path / "download", tmp_path)


def test_the_download_is_not_overwritten(tmp_path: Path) -> None:
    source = put(tmp_path / "MSRVTT-QA", test_qa_json=MSRVTT)
    with pytest.raises(ValueError, match=r"test_qa.json"):
        prepare("msrvtt", source, tmp_path)
    assert json.loads((source / "test_qa.json").read_text()) == MSRVTT


def test_the_command_counts_and_lists_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = put(tmp_path / "download", test_qa_json=MSVD, youtube_mapping_txt=MAPPING)
    command = ["msvd", "--data_root", str(tmp_path)]
    videos = tmp_path / "MSVD-QA" / "videos"
    videos.mkdir(parents=True)
    (videos / "klteYv1Uv9A_27_33.avi").touch()
    assert main([*command, "--source", str(source)]) == 2
    printed = capsys.readouterr()
    assert "questions  2 (the whole set has 13,157: -13,155)" in printed.out
    assert "videos     2 (the whole set has 504: -502)" in printed.out
    assert "found      0 with features, 1 as video or frames, 1 missing" in printed.out
    assert "missing    -4wsuPCjDBc_5_15\n" in printed.out
    assert printed.err.startswith("error: msvd: 1 of 2 videos are missing (-4wsuPCjDBc_5_15)")
    assert printed.err.count("\n") == 1
    assert main([*command, "--allow_missing"]) == 0  # without --source: what is there is checked
    (videos / "-4wsuPCjDBc_5_15.avi").touch()
    assert main(command) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["imagenet"], "'imagenet'"),
        (["msvd"], "msvd: there is no test_qa.json"),
        (["msvd", "--source", "nowhere"], "--source nowhere"),
        (["synthetic", "--source", "."], "--source"),
        (["synthetic", "--streams", "0"], "--streams"),
        (["synthetic", "--model_path", "nowhere"], "nowhere"),
    ],
)
def test_the_command_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    assert main([*command, "--data_root", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and message in printed and printed.count("\n") == 1


def test_the_synthetic_world_is_made_with_features_and_times(synthetic_root: Path) -> None:
    benchmark = find_benchmark("synthetic")
    samples = benchmark.load(synthetic_root)
    assert len(samples) >= 20 and {sample.split for sample in samples} <= {"now", "back then"}
    rows = written(synthetic_root, "synthetic")
    assert all(row["start_time"] <= row["end_time"] < row["duration"] for row in rows)
    media = benchmark.find_media(samples, synthetic_root)
    assert len(media) == N_STREAMS
    with safe_open(media[samples[0].video_id], framework="pt") as file:
        shape, metadata = file.get_slice("feature").get_shape(), file.metadata()
    assert shape[0] == rows[0]["duration"] and metadata["fps"] == "1.0"
