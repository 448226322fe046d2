"""SVG, element by element: everything that comes from elsewhere is escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

from egregore_dist.monitor import words

#: Width of a letter of the pictures' font, in pixels: on the safe side.
LETTER = 7.3


def tag(name: str, *inside: Markup | str, **attributes: object) -> Markup:
    """One element; ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``, None is left out."""
    said = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    shown = Markup("").join(part if isinstance(part, Markup) else escape(words.clean(part)) for part in inside)
    return Markup("<{0}{1}>{2}</{0}>").format(name, said, shown)


def picture(width: float, height: float, label: str, *inside: Markup, **attributes: object) -> Markup:
    """A whole picture; ``label`` says what it shows to who cannot see it."""
    box = f"0 0 {round(width)} {round(height)}"
    return tag(
        "svg",
        tag("title", label),
        *inside,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=box,
        width=round(width),
        height=round(height),
        role="img",
        **attributes,
    )


def cut(text: str, letters: int) -> str:
    """A text with at most so many letters."""
    return words.clean(text, letters)


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
