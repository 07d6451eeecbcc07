"""StreamingBench as its own scripts ask it and read replies. The spelling of the prompts is the benchmark's."""

from __future__ import annotations

from collections.abc import Sequence

from flash_vstream.eval.sample import LETTERS, Sample

N_OPTIONS = 4  # that the benchmark shows
_CHOICE = """You are an advanced video question-answering AI assistant. You have been provided with some frames from\
 the video and a multiple-choice question related to the video. Your task is to carefully analyze the video and provide\
 the best answer to question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of\
 the correct option.

Question: {question}

Options:
{options}

The best option is:"""
_SEQUENTIAL = """You are an advanced video question-answering AI assistant. You have been provided with a video and a\
 multiple-choice question related to the video. Your task is to carefully analyze the video and the provided context to\
 answer the question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of the\
 correct option.

{context}

Here is the question. Answer it and don't confuse it with the previous conversation.
Question: {question}

Options:
{options}

The best option is:"""
_CONTEXT = (
    "Here are the contextual information related to the video. Please answer the questions based on the contextual"
    " information: "
)
_PROACTIVE = """You are an advanced image question-answering AI assistant. You have been provided with images and a\
 question related to the images. Your task is to carefully analyze the images and provide the answer to the question.\
 You need to carefully confirm whether the images content meet the conditions of the question, and then output the\
 correct content.

Question: {question} Is it the right time to output "{output}"? You can only answer yes or no.

The answer is:"""


def option_lines(options: Sequence[str]) -> list[str]:
    """The options as the benchmark shows them: the first four, lettered unless the first begins with "A."."""
    shown = list(options[:N_OPTIONS])
    if options[0].startswith("A."):
        return shown
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, shown, strict=False)]


def choice_prompt(question: str, lines: Sequence[str]) -> str:
    """The prompt of a question with the lines of its options."""
    return _CHOICE.format(question=question, options="\n".join(lines))


def sequential_prompt(question: str, lines: Sequence[str], earlier: Sequence[str]) -> str:
    """The prompt of a sequential question, after the sentences about the earlier ones."""
    context = _CONTEXT + "".join(earlier) if earlier else ""
    return _SEQUENTIAL.format(context=context, question=question, options="\n".join(lines))


def context_sentence(stamp: str, question: str, lines: Sequence[str], answer: str) -> str:
    """The sentence about a sequential question that precedes the later ones."""
    return (
        f"At timestamp {stamp}, the following question and answer occurred: Question: {question};"
        f" Options: {', '.join(lines)}; Answer: {answer}; "
    )


def proactive_prompt(question: str, output: str) -> str:
    """The prompt of a poll."""
    return _PROACTIVE.format(question=question, output=output)


def is_right(sample: Sample, reply: str) -> bool:
    """The reading of the benchmark's script: the first character is the letter; in a poll, "yes" stands anywhere."""
    if not sample.is_lettered:
        return ("yes" in reply.lower()) == (sample.answer == "Yes")
    return reply[:1] == sample.answer
