"""Functions with any parameters, and values for them, for tests of binding."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from egregore_dist.workflow import Context

MISSING = object()

#: Annotations as they are written. The last is none, of a parameter whose default, if it has one, is `NUMBER`.
ANNOTATIONS = ["", ": dict", ": int", ": Context", "number"]
NUMBER = 77

KINDS = ["positional", "any", "keyword"]
#: Parameters as (name, kind, has a default, annotation), and whether there are ``*rest`` and ``**extra``.
Shape = tuple[list[tuple[str, str, bool, str]], bool, bool]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Any function of up to four named parameters."""
    count = draw(st.integers(0, 4))
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS), min_size=count, max_size=count)), key=KINDS.index)
    parameters, defaulted = [], False
    for name, kind in zip("abcd", kinds, strict=False):
        chosen = draw(st.booleans())
        defaulted = chosen or (defaulted and kind != "keyword")
        parameters.append((name, kind, defaulted, draw(st.sampled_from(ANNOTATIONS))))
    return parameters, draw(st.booleans()), draw(st.booleans())


def function_of(shape: Shape) -> Callable[..., Any]:
    """The function, which returns what its parameters hold."""
    parameters, rest, extra = shape
    written: list[str] = []
    previous = "positional"
    starred = False
    for name, kind, default, annotation in parameters:
        if previous == "positional" != kind and written:
            written.append("/")
        if kind == "keyword" and not starred:
            written.append("*rest" if rest else "*")
            starred = True
        if annotation == "number":
            written.append(f"{name}{' = NUMBER' if default else ''}")
        else:
            written.append(f"{name}{annotation}{' = MISSING' if default else ''}")
        previous = kind
    if parameters and previous == "positional":
        written.append("/")
    if rest and not starred:
        written.append("*rest")
    if extra:
        written.append("**extra")
    namespace = {"MISSING": MISSING, "NUMBER": NUMBER, "Context": Context, "locals": builtins.locals}
    exec(f"def f({', '.join(written)}): return dict(locals())", namespace)
    made: Callable[..., Any] = namespace["f"]  # type: ignore[assignment]
    return made


def defaults(shape: Shape) -> dict[str, Any]:
    """What the parameters hold without data and context."""
    return {name: NUMBER if annotation == "number" else MISSING for name, _, _, annotation in shape[0]}


values = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=2),
    st.lists(st.integers(), max_size=6),
    st.dictionaries(st.one_of(st.sampled_from("abcdxy"), st.integers(0, 2)), st.integers(), max_size=6),
)
