"""Elements of SVG and HTML: all that is put into one is escaped."""

from __future__ import annotations

import html


class Svg(str):
    """Elements, escaped already; templates take them as they are."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def tag(name: str, *inside: str, **attributes: object) -> Svg:
    """One element.

    Args:
        inside: what is in it; what is no `Svg` is text.
        attributes: ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``, None is left out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(_number(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    shown = "".join(part if isinstance(part, Svg) else html.escape(printable(part)) for part in inside)
    return Svg(f"<{name}{said}>{shown}</{name}>")


def picture(width: float, height: float, label: str, *inside: Svg, **attributes: object) -> Svg:
    """A whole picture; ``label`` says what it shows to who cannot see it."""
    return tag(
        "svg",
        tag("title", label),
        *inside,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {round(width)} {round(height)}",
        width=round(width),
        height=round(height),
        role="img",
        **attributes,
    )


def cut(text: str, letters: int) -> str:
    """A text with at most so many letters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def printable(text: str) -> str:
    """A text whose control characters are shown and not obeyed."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
