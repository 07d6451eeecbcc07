"""One question of a benchmark, in the form that predicting, judging and reporting share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A question, its answer, and when it is asked.

    tag, id: together they name the item; an id occurs once in a tag. video_id: without a file ending.
    start_time: seconds, where the evidence begins, if the set says so. end_time: seconds; the question is asked then,
    on the frames in [0, end_time); None is asked after the whole video. duration: seconds of the video.
    options: the choices of a multiple-choice item. system: an instruction of the set, placed by `prompt_of`.
    split: "now" or "back then" in the synthetic world, else "".
    """

    tag: str
    id: str
    video_id: str
    question: str
    answer: str
    answer_type: str = ""
    start_time: float | None = None
    end_time: float | None = None
    duration: float | None = None
    options: tuple[str, ...] = ()
    system: str = ""
    split: str = ""
