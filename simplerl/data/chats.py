"""Read the question, the system message and the last answer of a chat, which a file may also hold as JSON text."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from simplerl.data.rows import is_chat

_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}


def is_missing(value: Any) -> bool:
    """Return whether a value is null, NaN (which pandas writes for null) or blank."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def decoded(value: Any) -> Any:
    """Return the content of a text that is a chat, or a list of one text such as ["2"], in JSON or as Python prints it;
    any other value unchanged. Files of verl and tables saved by pandas hold such texts."""
    if not isinstance(value, str) or re.match(r"""\s*\[\s*[{"']""", value) is None:
        return value
    content: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            content = read(value.strip())
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if is_chat(content):
        return content
    is_one_text = isinstance(content, list) and len(content) == 1 and isinstance(content[0], str)
    return content[0] if is_one_text else value


def chat_turns(value: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (role, text) of each message. Raises ValueError for content that is not text."""
    turns = []
    for message in value:
        role = str(message.get("role", message.get("from")))
        content = message.get("content", message.get("value"))
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"has a {role} turn that is not text")
        turns.append((_ROLES.get(role, role), "".join(map(str, texts)).strip()))
    return turns


def question_and_system(value: Any) -> tuple[str, str | None]:
    """Return the question and the system message of a text or of a chat with one user turn. Raises ValueError for any
    other value."""
    if is_chat(value):
        turns = chat_turns(value)
        users = [text for role, text in turns if role == "user"]
        systems = [text for role, text in turns if role == "system" and text]
        others = sorted({role for role, _ in turns} - {"system", "user", "assistant"})
        if others:
            raise ValueError(f"is a chat with a {others[0]} turn, which prompts do not have")
        if len(users) != 1:
            raise ValueError(f"is a chat with {len(users)} user turns, but a prompt has one")
        return _not_empty(users[0]), "\n".join(systems) or None
    if not isinstance(value, str):
        raise ValueError("is empty" if is_missing(value) else "is not text")
    return _not_empty(value.strip()), None


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def assistant_text(value: Any) -> Any:
    """Return the last assistant turn if the value is a chat, otherwise the value unchanged. Raises ValueError if the
    chat has no assistant turn."""
    if not is_chat(value):
        return value
    texts = [text for role, text in chat_turns(value) if role == "assistant"]
    if not texts:
        raise ValueError("is a chat without an assistant turn")
    return texts[-1]
