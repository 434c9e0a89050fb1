"""A number with its noun, for messages."""

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """Return "1 layer", "2 layers": the noun in the singular or plural."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
