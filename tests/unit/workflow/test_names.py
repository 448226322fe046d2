"""Names: what may be one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.workflow import names


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "9", "x" * 128])
def test_s6_valid_names(name: str) -> None:
    """Letters, digits, dot, dash and underscore, up to 128 of them, are a name."""
    assert name == names.checked(name, "node")


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a/b", "é", "a\n", "a:b", "{a}", "node\x00", ".", ".."])
def test_s6_invalid_names(name: str) -> None:
    """Anything else is refused, and the message says what was being named."""
    with pytest.raises(errors.WorkflowError, match=r"cannot name a node: use 1 to 128"):
        names.checked(name, "node")


@pytest.mark.parametrize("name", [None, 3, b"a", ["a"]])
def test_not_a_string(name: object) -> None:
    """A name of another type is refused with that type."""
    with pytest.raises(errors.WorkflowError, match=f"must be a string, not {type(name).__name__}"):
        names.checked(name, "node")


@given(st.text(max_size=140) | st.text("ab.-_", max_size=3))
def test_agrees_with_the_rule(text: str) -> None:
    """A text is a name exactly when it matches the documented pattern."""
    valid = re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", text) is not None and text not in (".", "..")
    try:
        names.checked(text, "node")
    except errors.WorkflowError:
        assert not valid
    else:
        assert valid


@given(st.text(max_size=40) | st.text(alphabet="a\x1b\u202e\U0001f600é\ud800", max_size=40), st.integers(4, 40))
def test_a_plain_text_is_one_harmless_line(text: str, limit: int) -> None:
    """It prints, has so many bytes at most, is plain already when it is made so again, and a plain text is kept."""
    found = names.plain(text, limit)

    assert found.isprintable()
    assert len(found.encode()) <= limit
    assert names.plain(found, limit) == found
    if text.isprintable() and len(text.encode()) <= limit:
        assert found == text
