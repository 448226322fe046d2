"""The functions that a branch executes, with the choices on the way."""

from __future__ import annotations

from egregore_dist.resources import chains
from egregore_dist.resources.chains import Choice

NESTED = (0, Choice(((1, Choice(((2,), ()))), (0,))), 3)


def test_a_chain_has_the_functions_of_its_choices() -> None:
    """All of them, those of choices in choices too."""
    assert list(chains.functions(NESTED)) == [0, 1, 2, 0, 3]
    assert list(chains.functions(())) == []


def test_a_chain_is_named() -> None:
    """Its functions are those of the workflow, and its shape stays."""
    assert chains.named(NESTED, "abcd") == ("a", Choice((("b", Choice((("c",), ()))), ("a",))), "d")
