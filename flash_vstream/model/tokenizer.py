"""Tokenizers of checkpoints: any that transformers reads, and Llama's `tokenizer.model` with sentencepiece's own ids.

transformers reads `tokenizer.model` differently from sentencepiece where a text starts or ends with a space, which is
the case around a placeholder ("USER: <image>").
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tokenizers import Regex, normalizers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPACE = "\u2581"  # sentencepiece's mark for a space


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder; `tokenizer.model` is read only without a `tokenizer.json`. Raises ValueError."""
    folder = Path(folder)
    try:
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            return _from_sentencepiece(folder)
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, DecodeError) as error:
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise ValueError(f"{folder} has no readable tokenizer ({reason}): copy its tokenizer files again") from error


def _from_sentencepiece(folder: Path) -> PreTrainedTokenizerFast:
    """A Llama tokenizer that treats spaces as `tokenizer.model` says."""
    # Only here: some pairs of sentencepiece and protobuf fail at this import, and most checkpoints do not need it.
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    llama = LlamaTokenizer.from_pretrained(folder)
    backend = llama.backend_tokenizer
    steps: list[normalizers.Normalizer] = []
    if model.normalizer_spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.normalizer_spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    # The normalizer has already marked the spaces.
    backend.pre_tokenizer = None
    # Not a LlamaTokenizer: that class replaces the saved treatment of spaces by its own when it is loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=llama.model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=llama.chat_template,
        **llama.special_tokens_map,
    )
