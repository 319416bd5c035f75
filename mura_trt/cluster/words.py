"""What Ray says, as a user reads it."""

from __future__ import annotations

MOST = 300  # characters


def in_a_line(error: Exception) -> str:
    """What an error says, without Ray's line breaks and the middle of what is long: what happened stands at the end."""
    words = " ".join(str(error).split())
    return words if len(words) <= MOST else f"{words[: MOST // 2]} ... {words[-MOST // 2 :]}"
