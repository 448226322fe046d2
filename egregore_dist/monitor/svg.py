"""SVG for pages: texts are without secrets too."""

from __future__ import annotations

from markupsafe import Markup, escape

from egregore_dist.client import svg
from egregore_dist.client.svg import Svg
from egregore_dist.monitor import words

#: Width of a letter of the pictures' font, in pixels: on the safe side.
LETTER = 7.3


def tag(name: str, *inside: Markup | str, **attributes: object) -> Markup:
    """One element, as `svg.tag` makes it."""
    shown = (Svg(part) if isinstance(part, Markup) else words.clean(part) for part in inside)
    return escape(svg.tag(name, *shown, **attributes))


def picture(width: float, height: float, label: str, *inside: Markup, **attributes: object) -> Markup:
    """A whole picture; ``label`` says what it shows to who cannot see it."""
    parts = (Svg(part) for part in inside)
    return escape(svg.picture(width, height, words.clean(label), *parts, **attributes))


def cut(text: str, letters: int) -> str:
    """A text with at most so many letters."""
    return words.clean(text, letters)
