"""Whether two workers have the same code."""

from __future__ import annotations

import functools

from egregore_dist.resources import fingerprint


def made(source: str) -> object:
    names: dict[str, object] = {}
    exec(source, names)
    return names["f"]


def test_the_same_code_has_the_same_hash() -> None:
    """A function without a source file is known by its code, the functions inside it too."""
    sources = {
        "def f(x):\n return x + 1",
        "def f(x):\n return x + 2",
        "def f(x):\n return abs(x)",
        "def f(x):\n return str(x)",
        "def f(x):\n return (lambda: 1)()",
        "def f(x):\n return (lambda: 2)()",
    }
    hashes = {fingerprint.of(made(source)) for source in sources}  # type: ignore[arg-type]

    assert hashes == {fingerprint.of(made(source)) for source in sources}  # type: ignore[arg-type]
    assert len(hashes) == len(sources)
    assert all(len(found) == 12 for found in hashes)


def test_a_wrapped_function_is_itself() -> None:
    """What is wrapped counts; what is written in C has no hash."""

    def inner(value: int) -> int:
        return value

    assert fingerprint.of(functools.wraps(inner)(lambda value: value)) == fingerprint.of(inner) != ""
    assert fingerprint.of(len) == ""
