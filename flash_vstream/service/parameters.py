"""OpenAI's parameters of a chat that would change an answer in a way that this server cannot."""

from __future__ import annotations

from flash_vstream.service.errors import ApiError
from flash_vstream.service.schemas import ChatRequest

# A value that counts as false asks for nothing. Parameters that are not listed here and not used change no answer.
REMEDIES = {
    "temperature": "decoding is greedy, give 0",
    "frequency_penalty": "decoding is greedy, give 0",
    "presence_penalty": "decoding is greedy, give 0",
    "logit_bias": "decoding is greedy, leave it out",
    "logprobs": "probabilities are not given, give false",
    "top_logprobs": "probabilities are not given, give 0",
    "tools": "they are not supported, leave them out",
    "functions": "they are not supported, leave them out",
    "audio": "answers are text, leave it out",
    "web_search_options": "answers come from what was watched, leave them out",
}


def check_parameters(request: ChatRequest) -> None:
    """Raise ApiError 400 for a parameter that this server cannot follow; it names the value and the remedy."""
    for name, remedy in REMEDIES.items():
        if value := getattr(request, name):
            raise ApiError(400, f"{name} is {str(value)[:80]}: {remedy}", "unsupported_value", name)
    if (request.n or 1) > 1:
        raise ApiError(400, f"n is {str(request.n)[:80]}: one answer is given, give 1", "unsupported_value", "n")
    if request.response_format and request.response_format.type != "text":
        form = request.response_format.type[:80]
        raise ApiError(
            400, f"response_format is {form!r}: answers are text, give 'text'", "unsupported_value", "response_format"
        )
    if set(request.modalities or ()) - {"text"}:
        raise ApiError(400, "modalities: answers are text, give ['text']", "unsupported_value", "modalities")
