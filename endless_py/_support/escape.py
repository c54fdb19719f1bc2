"""What another process says, made fit for a terminal and for a log."""

from __future__ import annotations

LONGEST = 8192  # characters


def escaped(text: str, most: int = LONGEST) -> str:
    """Return the text with all that does not print escaped, and cut to so many characters.

    Control characters move a terminal's cursor or run commands in it; a line's end would begin
    a line that nobody has logged; what turns the direction of writing makes text look like another.
    """
    if len(text) > most:
        text = f"{text[:most]}... ({len(text) - most} characters more)"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
