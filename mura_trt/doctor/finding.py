"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WORKS = "works"
PROBLEM = "problem"
ABSENT = "absent"  # not here, and nothing here needs it
UNKNOWN = "unknown"  # could not be tried


@dataclass(frozen=True)
class Finding:
    """A check's result, in words for people."""

    status: str
    """``works``, ``problem``, ``absent`` or ``unknown``."""
    found: str
    mend: str | None = None
    """What to do about it; every problem has one."""
    seconds: float = 0.0
    """How long the check took."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What other checks go on with; JSON types."""
