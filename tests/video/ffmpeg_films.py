"""Makes the films of the comparison with FFmpeg: containers x codecs x orientation x time stamps, with FFmpeg itself.

Frame n carries its number in twelve blocks, six in the second and six in the third quarter of the height, from left to
right the bits 1, 2, 4, ... 2048: light is 1. The number read from a turned or mirrored frame is wrong.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .clips import with_matrix

WIDTH, HEIGHT, RATE, FRAMES = 96, 64, 10, 24

H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 8 -bf 0"
H264_B = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 8 -bf 2"
HEVC = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p -x265-params log-level=none:keyint=8:bframes=2"
MPEG4, MPEG4_B = "-c:v mpeg4 -q:v 2 -g 8", "-c:v mpeg4 -q:v 2 -g 8 -bf 2"
VP8 = "-c:v libvpx -b:v 1M -g 8 -deadline realtime -cpu-used 8"
VP9 = "-c:v libvpx-vp9 -b:v 1M -g 8 -deadline realtime -cpu-used 8"
AV1 = "-c:v libaom-av1 -b:v 500k -g 8 -usage realtime -cpu-used 8"
MPEG1, MPEG2 = "-c:v mpeg1video -q:v 2 -g 8 -r 25", "-c:v mpeg2video -q:v 2 -g 8 -r 25"
MPEG2_B = f"{MPEG2} -bf 2"
MJPEG = "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p"
OPEN = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -bf 2 -x264-params open-gop=1:keyint=8:min-keyint=8:scenecut=0"

# File ending -> codecs. FFmpeg 5 and later makes and reads each of them.
PAIRS = {
    "mp4": [H264, H264_B, HEVC, MPEG4, MPEG4_B, VP9, AV1, OPEN, MJPEG],
    "mov": [H264, H264_B, HEVC, MPEG4_B, MJPEG, "-c:v prores_ks", "-c:v qtrle", "-c:v png"],
    "mkv": [H264, H264_B, HEVC, MPEG4, MPEG4_B, VP8, VP9, AV1, MJPEG, MPEG2_B, "-c:v ffv1", "-c:v libtheora", OPEN],
    "webm": [VP8, VP9, AV1],
    "avi": [H264, H264_B, MPEG4, MPEG4_B, MJPEG, "-c:v huffyuv", "-c:v msmpeg4v2", "-c:v ffv1",
            "-c:v rawvideo -pix_fmt yuv420p"],
    "ts": [H264, H264_B, HEVC, MPEG2, MPEG2_B, MPEG4, OPEN],
    "m2ts": [H264_B, MPEG2],
    "flv": [H264, H264_B, "-c:v flv -q:v 2 -g 8"],
    "wmv": ["-c:v wmv1 -q:v 2 -g 8", "-c:v wmv2 -q:v 2 -g 8", "-c:v msmpeg4 -q:v 2 -g 8"],
    "asf": ["-c:v wmv2 -q:v 2 -g 8", H264],
    "mpg": [MPEG1, MPEG2],
    "3gp": ["-c:v h263 -q:v 2 -g 8 -s 128x96", MPEG4],
    "ogv": ["-c:v libtheora -q:v 9 -g 8"],
    "mxf": [MPEG2],
    "nut": [H264_B, MPEG4, VP8],
    "gif": ["-c:v gif"],
    "h264": [H264, H264_B],
    "m4v": [MPEG4],
    "y4m": ["-pix_fmt yuv420p"],
    "ivf": [VP8, VP9],
}  # fmt: skip
FRAGMENTED = "-movflags frag_keyframe+empty_moov"
TICKS = "-vsync passthrough -enc_time_base 1/1000 -vf settb=1/1000,setpts="
VARIABLE = f"{TICKS}N*170+mod(N*7\\,5)*20"  # steps of 0.11 s and 0.21 s
LATE = "-output_ts_offset 7.3"
PAUSE = f"{TICKS}(N+120*gte(N\\,12))*100"  # from 1.1 s to 13.2 s
SPECIAL = {
    **{f"variable {end} {number}": (end, f"{codec} {VARIABLE}")
       for number, codec in enumerate([H264, H264_B]) for end in ("mp4", "mov", "mkv", "flv")},
    **{f"variable {end}": (end, f"{codec} {VARIABLE}")
       for end, codec in [("ts", H264), ("webm", VP9), ("wmv", "-c:v wmv2 -q:v 2"), ("nut", H264_B), ("mp4", HEVC),
                          ("mkv", MPEG4)]},
    **{f"late {end} {number}": (end, f"{codec} {LATE}")
       for number, codec in enumerate([H264, H264_B]) for end in ("mp4", "mov", "mkv", "ts", "flv")},
    "late webm": ("webm", f"{VP8} {LATE}"),
    "late wmv": ("wmv", f"-c:v wmv2 -q:v 2 {LATE}"),
    "late mpg": ("mpg", f"{MPEG1} {LATE}"),
    **{f"fragmented {number}": ("mp4", f"{codec} {FRAGMENTED}") for number, codec in enumerate([H264, H264_B, HEVC])},
    **{f"pause {end}": (end, f"{codec} {PAUSE}")
       for end, codec in [("mp4", H264_B), ("mkv", H264), ("webm", VP8), ("flv", H264), ("ts", H264), ("nut", H264)]},
    "fast start": ("mp4", f"{H264_B} -movflags faststart"),
    "live webm": ("webm", f"{VP8} -f webm -live 1"),
    "anamorphic": ("mp4", f"{H264_B} -vf setsar=4/3"),
    "4:4:4": ("mp4", "-c:v libx264 -preset ultrafast -pix_fmt yuv444p -g 8"),
    "ten bits": ("mkv", "-c:v libx264 -preset ultrafast -pix_fmt yuv420p10le -g 8"),
    "grey": ("mkv", "-c:v ffv1 -pix_fmt gray"),
    "odd": ("avi", f"{MPEG4} -vf scale=101:75"),
    "odd 4:4:4": ("mkv", "-c:v libx264 -preset ultrafast -pix_fmt yuv444p -g 8 -vf scale=101:75"),
    "interlaced": ("ts", "-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 8 -x264-params interlaced=1"),
    "one key frame": ("mp4", "-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 999 -bf 3"),
    "periodic refresh": ("mp4", "-c:v libx264 -preset veryfast -pix_fmt yuv420p -x264-params intra-refresh=1:keyint=8"),
    "29.97": ("mp4", f"{H264_B} -r 30000/1001"),
    "one frame": ("mp4", f"{H264} -frames:v 1"),
}  # fmt: skip

ORIENTED = {"mp4": [H264_B, HEVC, MPEG4], "mov": [H264_B, "-c:v prores_ks"]}
# Of the eight orientations: (a, b, c, d) of x' = a x + c y, y' = b x + d y.
MATRICES = {
    "0": (1, 0, 0, 1), "90": (0, 1, -1, 0), "180": (-1, 0, 0, -1), "270": (0, -1, 1, 0),
    "mirrored 0": (-1, 0, 0, 1), "mirrored 90": (0, 1, 1, 0), "mirrored 180": (1, 0, 0, -1),
    "mirrored 270": (0, -1, -1, 0),
}  # fmt: skip

BEGIN_BETWEEN_KEYS = ["ts 0", "ts 1", "ts 6", "m2ts 0", "interlaced"]
# Two recordings, the second with the numbers from 100 on, one behind the other.
JOINED = {
    "ts": [H264, H264_B, HEVC, MPEG4], "m2ts": [H264_B], "mkv": [H264, H264_B, HEVC, MPEG4], "webm": [VP8, VP9],
    "mpg": [MPEG1], "avi": [MPEG4, MJPEG],
    "gif": ["-c:v gif"], "h264": [H264_B],
}  # fmt: skip
GO_BACK = {".mkv", ".webm"}  # in which FFmpeg lets the time go back to 0 where the second recording begins
JUMPING = [H264, H264_B, HEVC]  # transport streams, the second of which begins an hour later or earlier


@dataclass(frozen=True)
class Film:
    """A file, and the numbers of its frames at 0, 0.1, ... s where the right value is by design not FFmpeg's own."""

    path: Path
    by_design: list[int] | None = None


def numbered(number: int) -> np.ndarray:
    """uint8 [H, W, 3]: the frame that carries a number."""
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for bit in range(12):
        row, column = divmod(bit, 6)
        rows = slice(HEIGHT * (1 + row) // 4, HEIGHT * (2 + row) // 4)
        frame[rows, column * WIDTH // 6 : (column + 1) * WIDTH // 6] = 230 if number >> bit & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a decoded frame of any size carries."""
    height, width = frame.shape[:2]
    lights = [frame[height * (3 + 2 * (bit // 6)) // 8, (2 * (bit % 6) + 1) * width // 12].mean() for bit in range(12)]
    return sum(1 << bit for bit, light in enumerate(lights) if light > 128)


def make_films(folder: Path) -> dict[str, Film]:
    """All films, by name."""
    plain = {f"{end} {number}": (end, codec) for end, codecs in PAIRS.items() for number, codec in enumerate(codecs)}
    singles = {
        name: folder / f"{name.replace(' ', '-').replace(':', '')}.{end}"
        for name, (end, _) in (plain | SPECIAL).items()
    }
    _encode(folder, 0, {singles[name]: options for name, (_, options) in (plain | SPECIAL).items()})
    films = {name: Film(path) for name, path in singles.items()}
    films["pause ts"] = Film(singles["pause ts"], list(range(FRAMES)))  # FFmpeg closes it with a step of 1 ms
    for end, codecs in ORIENTED.items():
        for codec in codecs:
            source = films[f"{end} {PAIRS[end].index(codec)}"].path
            for name, matrix in MATRICES.items():
                film = folder / f"{source.stem}-{name.replace(' ', '-')}.{end}"
                film.write_bytes(with_matrix(source.read_bytes(), matrix))
                films[f"{source.stem} turned {name}"] = Film(film)
    for name in BEGIN_BETWEEN_KEYS:
        source = singles[name]
        data, packet = source.read_bytes(), 192 if source.suffix == ".m2ts" else 188
        film = source.with_name(f"late-{source.name}")
        film.write_bytes(data[len(data) // 3 // packet * packet :])
        films[f"{name} begins between key frames"] = Film(film)
    return films | _joined_films(folder) | _films_of_several_streams(folder, singles)


def _joined_films(folder: Path) -> dict[str, Film]:
    pairs = {f"joined {end} {n}": (end, codec, "") for end, codecs in JOINED.items() for n, codec in enumerate(codecs)}
    for number, codec in enumerate(JUMPING):
        pairs[f"later {number}"] = ("ts", codec, "-output_ts_offset 3600")
        pairs[f"earlier {number}"] = ("ts", codec, "-output_ts_offset 3600")
    parts = [
        {name: folder / f"{name.replace(' ', '-')}-part{k}.{end}" for name, (end, *_) in pairs.items()} for k in (0, 1)
    ]
    for k, first in enumerate((0, 100)):
        outputs = {}
        for name, (_, codec, offset) in pairs.items():
            is_late = (name.startswith("later") and k == 1) or (name.startswith("earlier") and k == 0)
            outputs[parts[k][name]] = f"{codec} {offset if is_late else ''}"
        _encode(folder, first, outputs)
    films = {}
    for name, (end, *_) in pairs.items():
        path = folder / f"{name.replace(' ', '-')}.{end}"
        path.write_bytes(b"".join(part[name].read_bytes() for part in parts))
        numbers = [first + k for first in (0, 100) for k in range(FRAMES)]
        films[name] = Film(path, numbers if path.suffix in GO_BACK else None)
    return films


def _films_of_several_streams(folder: Path, singles: dict[str, Path]) -> dict[str, Film]:
    """A film beside a picture, a cover, sound, or a film that is no default."""
    film, small = singles["mp4 1"], singles["odd"]
    picture = folder / "picture.jpg"
    _run("-f", "lavfi", "-i", "color=red:size=320x320", "-frames:v", "1", str(picture))
    sound = ["-f", "lavfi", "-i", "sine=duration=2.4"]
    pause, long_sound = singles["pause mkv"], ["-f", "lavfi", "-i", "sine=duration=14.4"]
    made: dict[str, tuple[str, list[str]]] = {
        "picture first": ("mp4", ["-i", str(picture), "-i", str(film), "-map", "0", "-map", "1", "-c", "copy",
                                  "-disposition:v:0", "0", "-disposition:v:1", "default"]),
        "picture first mkv": ("mkv", ["-i", str(picture), "-i", str(film), "-map", "0", "-map", "1", "-c", "copy"]),
        "cover": ("mp4", ["-i", str(film), "-i", str(picture), "-map", "1", "-map", "0", "-c", "copy",
                          "-disposition:v:0", "attached_pic"]),
        "sound": ("mp4", ["-i", str(film), *sound, "-map", "1", "-map", "0", "-c:v", "copy"]),
        "sound ts": ("ts", ["-i", str(film), *sound, "-map", "1", "-map", "0", "-c:v", "copy"]),
        "default of two": ("mkv", ["-i", str(small), "-i", str(film), "-map", "0", "-map", "1", "-c", "copy",
                                   "-disposition:v:0", "0", "-disposition:v:1", "default"]),
        "pause with sound": ("ts", ["-i", str(pause), *long_sound, "-map", "0", "-map", "1", "-c:v", "copy"]),
    }  # fmt: skip
    through_pause = [*range(11), *[11] * 121, *range(12, FRAMES)]
    films = {}
    for name, (end, arguments) in made.items():
        path = folder / f"{name.replace(' ', '-')}-streams.{end}"
        _run(*arguments, str(path))
        films[name] = Film(path, through_pause if name == "pause with sound" else None)
    return films


def _encode(folder: Path, first: int, outputs: dict[Path, str]) -> None:
    """Encode the frames from number `first` on to many files at once."""
    raw = folder / f"raw-{first}.rgb"
    raw.write_bytes(b"".join(numbered(first + k).tobytes() for k in range(FRAMES)))
    arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", str(raw)]
    for path, options in outputs.items():
        arguments += ["-map", "0:v", "-threads", "1", *options.split(), str(path)]
    _run(*arguments)


def _run(*arguments: str) -> None:
    done = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", "-y", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
