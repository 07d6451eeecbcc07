"""OVO-Bench as its own script asks it and reads replies. The spelling of the prompts is the benchmark's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flash_vstream.eval.sample import LETTERS, Sample

_CHOICE = """Question: {question}
Options:
{options}

Respond only with the letter corresponding to your chosen option (e.g., A, B, C).\x20
Do not include any additional text or explanation in your response."""
_FORWARD = {
    "REC": """You're watching a video in which people may perform a certain type of action repetively.\x20
The person performing this kind of action are referred to as 'they' in the following statement.
You're task is to count how many times have different people in the video perform this kind of action in total.
One complete motion counts as one.\x20
Now, answer the following question: How many times did they {activity}?
Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.
Do not include any additional text or explanation in your response.""",
    "SSR": """You're watching a tutorial video which contain a sequential of steps.\x20
The following is one step from the whole procedures:\x20
{step}
Your task is to determine if the man or woman in the video is currently performing this step.
Answer only with "Yes" or "No".
Do not include any additional text or explanation in your response.""",
    "CRR": """You're responsible of answering questions based on the video content.\x20
The following question are relevant to the latest frames, i.e. the end of the video.
{question}
Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, provide\
 enough information for answering the question.
Answer only with "Yes" or "No".
Do not include any additional text or explanation in your response.""",
}


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """The prompt of a backward or real-time row."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return _CHOICE.format(question=question, options="; ".join(lines) + ";")


def forward_prompt(task: str, row: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """The prompt of a forward row at one of its times."""
    fields = {"activity": row.get("activity"), "step": test.get("step"), "question": row.get("question")}
    return _FORWARD[task].format(**fields)


def is_right(sample: Sample, reply: str) -> bool:
    """The reading of the benchmark's script: the right letter or word stands anywhere in the reply, in its own case.

    So "An answer" is right wherever A is. A number: all digits of the reply, joined. "Y" or "N" alone also counts.
    """
    if sample.answer_type == "REC":
        return "".join(re.findall(r"\d+", reply)) == sample.answer
    if sample.answer_type in _FORWARD and reply == sample.answer[0]:
        return True
    return sample.answer in reply
