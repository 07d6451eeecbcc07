"""The conversation of a realtime socket: messages in order, bounded; they become the turns of a question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from flash_vstream.model.prompts import Turn
from flash_vstream.serve.session import check_turn
from flash_vstream.service.chat import read_turns
from flash_vstream.service.errors import ApiError
from flash_vstream.service.realtime_events import MOST_ITEMS, new_id
from flash_vstream.service.schemas import Message
from flash_vstream.service.settings import Settings

Role = Literal["user", "assistant", "system"]


@dataclass(eq=False)
class Item:
    """A message. The text of an answer in progress is empty."""

    id: str
    role: Role
    text: str
    status: str = "completed"

    def describe(self, content: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The item as OpenAI writes it; `content` takes the place of its text."""
        if content is None:
            kind = "output_text" if self.role == "assistant" else "input_text"
            content = [{"type": kind, "text": self.text}] if self.text else []
        head = {"id": self.id, "object": "realtime.item", "type": "message", "status": self.status, "role": self.role}
        return {**head, "content": content}


class Conversation:
    """The messages of one socket. Not thread-safe."""

    def __init__(self) -> None:
        self.id = new_id("conv")
        self.items: list[Item] = []

    def place(self, previous_id: str | None) -> int:
        """Where an item behind another one belongs; None means at the end, "root" at the beginning.

        Raises ApiError 404.
        """
        if previous_id is None:
            return len(self.items)
        return 0 if previous_id == "root" else self._find(previous_id) + 1

    def add(self, item: Item, place: int) -> None:
        """Insert an item."""
        self.items.insert(place, item)

    def id_before(self, place: int) -> str | None:
        """The id of the item in front of a place."""
        return self.items[place - 1].id if place else None

    def has(self, item_id: str) -> bool:
        """Whether an item has this id."""
        return any(item.id == item_id for item in self.items)

    def remove(self, item_id: str) -> None:
        """Take an item out. Raises ApiError 404."""
        del self.items[self._find(item_id)]

    def trim(self, most_text: int) -> list[str]:
        """Drop the oldest turns until the texts have at most so many characters; returns the ids dropped."""
        dropped: list[str] = []
        while sum(len(item.text) for item in self.items) > most_text or len(self.items) > MOST_ITEMS:
            dropped += self.drop_oldest()
        return dropped

    def drop_oldest(self) -> list[str]:
        """Drop the oldest message and the answers behind it; returns the ids dropped."""
        end = 1
        while end < len(self.items) and self.items[end].role == "assistant":
            end += 1
        dropped, self.items = self.items[:end], self.items[end:]
        return [item.id for item in dropped]

    def _find(self, item_id: str) -> int:
        for place, item in enumerate(self.items):
            if item.id == item_id:
                return place
        raise ApiError(404, f"the conversation has no item {item_id[:80]!r}", "item_not_found")


def turns_of(items: Iterable[Item], instructions: str, settings: Settings) -> tuple[Turn, ...]:
    """The turns of a question. Raises ApiError if the last message is not the user's.

    An answer that no prompt can hold, such as an empty one, is left out.
    """
    items = [item for item in items if item.role != "assistant" or is_turn(item.text)]
    if not items or items[-1].role == "assistant":
        raise ApiError(400, "there is no question: create an item with a part input_text before", "no_question")
    messages = [Message(role=item.role, content=item.text) for item in items]
    return read_turns([Message(role="system", content=instructions), *messages], settings)


def is_turn(text: str) -> bool:
    """Whether a prompt can hold a text."""
    try:
        check_turn(text)
    except ValueError:
        return False
    return True
