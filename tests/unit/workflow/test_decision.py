"""Decisions: how they are made, and where their choices come from."""

from __future__ import annotations

import pickle
from typing import Annotated, Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import pytest

from egregore_dist import errors
from egregore_dist.workflow import Sequence, Step, decision, describe, node, parallel
from egregore_dist.workflow.decision import Decision


@node
def small(x: int) -> int:
    return x


@node("big_name")
def big(x: int) -> int:
    return x


both = parallel(small, big)
named_flow = Sequence(small, big, name="flow_name")


@decision("route")
def by_literal(x: int) -> Literal["small", "big_name"]:
    """Choose."""
    return "small" if x < 10 else "big_name"


@decision
def by_strings(data: dict[str, Any]) -> str:
    """big"""
    for word in ("both", "unrelated"):
        if word in data:
            return word
    return max(["flow_name"], key=lambda _: "small")


@decision
async def by_async(x: int) -> Literal["small"]:
    return "small"


@decision
def by_annotated(x: int) -> Annotated[Literal["small"], "doc"] | Literal["big"]:
    return "small"


@decision
def missing(x: int) -> Literal["small", "nowhere", "neither"]:
    return "small"


@decision
def nothing(x: int) -> str:
    return str(x)


@decision
def mentions_itself(x: int) -> str:
    if x < 0:
        raise ValueError("mentions_itself")
    return "small"


@decision
def ping(x: int) -> Literal["pong"]:
    return "pong"


@decision
def pong(x: int) -> Literal["ping", "small"]:
    return "ping"


@decision
def to_other_decision(x: int) -> Literal["by_literal", "small"]:
    return "small"


@decision
def odd_literal(x: int) -> Literal["two words"]:
    return "two words"


@decision
def number_literal(x: int) -> Literal[1, 2]:
    return 1


def choices(made: Decision[..., Any]) -> dict[str, Step]:
    placed = Sequence(small, made).steps[1]
    assert isinstance(placed, Decision)
    assert placed.choices is not None
    return dict(placed.choices)


def test_calling_runs_the_plain_function() -> None:
    """A decision is called like its function, here."""
    assert by_literal(3) == "small"
    assert by_literal.__doc__ == "Choose."
    assert (by_literal.name, by_strings.name) == ("route", "by_strings")
    assert (by_literal.is_async, by_async.is_async) == (False, True)


def test_to_gives_the_choices() -> None:
    """.to takes steps by their own names, and by the answer that leads to them."""
    routed = nothing.to(small, named_flow, both.alias("p"), big=big, other=both)

    expected = {"small": small, "flow_name": named_flow, "big": big, "other": both}
    assert expected.items() <= dict(routed.choices or {}).items()
    assert list(routed.choices or {}) == ["small", "flow_name", "p", "big", "other"]


def test_to_leaves_the_decision_alone() -> None:
    """.to returns a new decision each time."""
    first, second = nothing.to(small), nothing.to(big)

    assert nothing.choices is None
    assert (list(first.choices or {}), list(second.choices or {})) == (["small"], ["big_name"])


def test_to_without_choices() -> None:
    """.to() of nothing is refused."""
    with pytest.raises(errors.WorkflowError, match=r"decision 'nothing': \.to\(\) needs at least one step"):
        nothing.to()


def test_to_with_two_choices_of_one_name() -> None:
    """Two choices of one name are refused, naming both."""
    for steps, named in [((small, small), {}), ((small,), {"small": big})]:
        with pytest.raises(errors.WorkflowError, match="decision 'nothing' has two choices named 'small'"):
            nothing.to(*steps, **named)


def test_to_with_a_choice_that_has_no_name() -> None:
    """A positional choice needs a name to be chosen by."""
    with pytest.raises(errors.WorkflowError, match=r"choice 1 \(unnamed parallel\) has no name.*answer=step"):
        nothing.to(small, both)


def test_to_with_what_is_not_a_step() -> None:
    """A choice that is no step is refused with the way to wrap it."""

    def plain(x: int) -> int:
        return x

    with pytest.raises(errors.WorkflowError, match=r"decision 'nothing', choice 0 is the plain function plain.*wrap"):
        nothing.to(plain)  # type: ignore[arg-type]
    with pytest.raises(errors.WorkflowError, match="decision 'nothing', choice 'p' is the plain function"):
        nothing.to(p=plain)  # type: ignore[arg-type]


def test_to_with_an_answer_that_is_no_name() -> None:
    """Answers are names."""
    with pytest.raises(errors.WorkflowError, match="'two words' cannot name a choice of decision 'nothing'"):
        nothing.to(**{"two words": small})


def test_to_must_cover_the_literal() -> None:
    """Every answer of the Literal annotation needs a choice."""
    with pytest.raises(errors.WorkflowError, match="decision 'route' can answer 'big_name', but no choice"):
        by_literal.to(small)


def test_to_may_not_exceed_the_literal() -> None:
    """A choice that the Literal annotation does not allow is an unknown target."""
    with pytest.raises(errors.WorkflowError, match="decision 'route' has the unknown target 'third'"):
        by_literal.to(small, big, third=small)


def test_choices_by_literal() -> None:
    """Without .to, the answers of the Literal annotation are looked up in the module: by variable, then by name."""
    assert {"small": small, "big_name": big} == choices(by_literal)
    assert {"small": small, "big": big} == choices(by_annotated)
    assert {"small": small} == choices(by_async)


def test_choices_by_strings() -> None:
    """Without a Literal, the strings in the code that name a step are the choices, those in tuples and lambdas too."""
    assert {"big": big, "both": both, "flow_name": named_flow, "small": small} == choices(by_strings)


def test_own_name_is_no_choice() -> None:
    """A decision that mentions its own name does not lead to itself."""
    assert list(choices(mentions_itself)) == ["small"]
    assert list(choices(mentions_itself.alias("other"))) == ["small"]


def test_missing_literal_targets_are_all_listed() -> None:
    """An answer of the Literal that names no step is refused, with all such answers."""
    with pytest.raises(
        errors.WorkflowError, match=r"decision 'missing' can answer 'nowhere', 'neither'.*\.to\(\.\.\.\)"
    ):
        parallel(missing)


@pytest.mark.parametrize("place", [Sequence, parallel, lambda d: d.map(), lambda d: small >> d, describe.describe])
def test_no_choices_at_all(place: Any) -> None:
    """A decision whose choices cannot be found is refused where it is placed or submitted, explaining .to."""
    with pytest.raises(errors.WorkflowError, match=r"decision 'nothing' has no choices.*nothing\.to\(small_step"):
        place(nothing)


def test_decisions_that_lead_to_each_other() -> None:
    """A circle of decisions is refused, and shown."""
    with pytest.raises(errors.WorkflowError, match=r"can lead to itself .ping -> pong -> ping."):
        Sequence(ping)


def test_a_decision_leads_to_a_decision() -> None:
    """A choice may be a decision, which then has its choices too."""
    inner = choices(to_other_decision)["by_literal"]

    assert isinstance(inner, Decision)
    assert list(inner.choices or {}) == ["small", "big_name"]


def test_choices_in_a_closure() -> None:
    """A local function's choices are the steps that it refers to."""
    local = small.alias("local_name")

    @decision
    def pick(x: int) -> str:
        assert local is not None
        return "local"

    assert {"local": local} == choices(pick)


@pytest.mark.parametrize("made", [odd_literal, number_literal])
def test_literals_that_are_no_names(made: Decision[..., Any]) -> None:
    """A Literal whose answers cannot be names is refused."""
    with pytest.raises(errors.WorkflowError, match="choice of decision"):
        Sequence(made)


def test_decision_of_something_else() -> None:
    """decision() of a step, a generator, a lambda without a name or a value is refused."""
    for given, message in [(small, "step already"), (lambda x: x, "no name of its own"), (3, "a name or a function")]:
        with pytest.raises(errors.WorkflowError, match=message):
            decision(given)  # type: ignore[call-overload]
    with pytest.raises(errors.WorkflowError, match="cannot name a decision"):
        decision("two words")


def test_a_decision_of_main_travels_with_its_choices() -> None:
    """A decision with its choices is pickled by value where no module holds it."""
    namespace: dict[str, Any] = {"__name__": "__main__", "node": node, "decision": decision}
    exec("@node\ndef s(x):\n    return x\n@decision\ndef pick(x):\n    return 's'\n", namespace)

    loaded = pickle.loads(cloudpickle.dumps(namespace["pick"].placed()))

    assert loaded(1) == "s"
    assert list(loaded.choices) == ["s"]
