"""Decisions: functions that name the step to take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any, ClassVar, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from egregore_dist import errors
from egregore_dist.workflow import functions, hints, names, resolvable
from egregore_dist.workflow.step import Step, as_step, check_nesting, label, listed

P = ParamSpec("P")
R = TypeVar("R")


class Decision(Step, Generic[P, R]):
    """A function whose answer names the step to take; that step gets the decision's own input.

    The result of the chosen step is the decision's result, under the decision's name. Calling a decision runs the
    plain function, here. Made by `decision`.

    Attributes:
        fn: the function.
        choices: the steps by the answers that lead to them, or None while they are not given.
        is_async: whether the function is an ``async def``.
    """

    kind: ClassVar[str] = "decision"
    name: str
    fn: Callable[P, R]
    choices: Mapping[str, Step] | None
    is_async: bool

    def __init__(self, fn: Callable[P, R], name: str | None = None) -> None:
        function = functions.checked(fn, "decision", name)
        self._init(**functions.wrapper_attributes(function, type(self)))
        self._init(
            fn=function,
            name=functions.own_name(function, "decision") if name is None else names.checked(name, "decision"),
            choices=None,
            is_async=functions.is_async(function),
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, in this process."""
        return self.fn(*args, **kwargs)

    def to(self, /, *steps: Step, **named: Step) -> Self:
        """A copy of this decision with its choices.

        Args:
            steps: steps to choose from, by their own names.
            named: steps to choose from, by the answer that leads to them.

        Raises:
            WorkflowError: there is no choice, one is not a step, two have one name, or they are not those of the
                ``Literal`` that annotates the function's answer.
        """
        choices: dict[str, Step] = {}
        for position, step in enumerate(steps):
            placed = as_step(step, f"{label(self)}, choice {position}")
            if placed.own_name is None:
                raise errors.WorkflowError(
                    f"{label(self)}, choice {position} ({label(placed)}) has no name to be chosen by: "
                    "give it as answer=step, or name it with .alias('answer')"
                )
            self._add(choices, placed.own_name, placed)
        for answer, step in named.items():
            names.checked(answer, f"choice of {label(self)}")
            self._add(choices, answer, as_step(step, f"{label(self)}, choice {answer!r}"))
        if not choices:
            raise errors.WorkflowError(f"{label(self)}: .to() needs at least one step to choose")
        self._check_answers(choices)
        return self._with(choices)

    def placed(self) -> Self:
        """This decision with its choices; where none were given, those that its function's module holds."""
        resolvable.check(self.fn, label(self), final=False, returns=True)
        if self.choices is not None:
            return self
        return self._with(_Search(self, ()).choices())

    @property
    def nesting(self) -> int:
        return 1 + max((step.nesting for step in (self.choices or {}).values()), default=0)

    def __repr__(self) -> str:
        if self.choices is None:
            return f"decision({self.name!r})"
        return f"decision({self.name!r}).to({listed(tuple(self.choices.values()))})"

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        # As for nodes: what a module holds travels as a reference.
        return functions.global_name(self) or super().__reduce_ex__(protocol)

    def _with(self, choices: Mapping[str, Step]) -> Self:
        made = self._changed(choices=dict(choices))
        check_nesting(made)
        return made

    def _add(self, choices: dict[str, Step], answer: str, step: Step) -> None:
        if answer in choices:
            raise errors.WorkflowError(
                f"{label(self)} has two choices named {answer!r} ({label(choices[answer])} and {label(step)}): "
                "give one of them as another_answer=step"
            )
        choices[answer] = step

    def _check_answers(self, choices: Mapping[str, Step]) -> None:
        answers = _literal_answers(self)
        if answers is None:
            return
        missing = [answer for answer in answers if answer not in choices]
        unknown = [answer for answer in choices if answer not in answers]
        if missing:
            raise errors.WorkflowError(f"{label(self)} can answer {_quoted(missing)}, but no choice has that name")
        if unknown:
            raise errors.WorkflowError(
                f"{label(self)} has the unknown target {_quoted(unknown)}: its function only answers {_quoted(answers)}"
            )


class DecisionDecorator(Protocol):
    """Makes decisions of functions."""

    def __call__(self, function: Callable[P, R], /) -> Decision[P, R]:
        """Make a decision of ``function``."""


@overload
def decision(name: Callable[P, R], /) -> Decision[P, R]: ...


@overload
def decision(name: str | None = None) -> DecisionDecorator: ...


def decision(name: Any = None) -> Any:
    """Make a decision of a function that returns the name of the step to take.

    Use it as ``@decision`` or ``@decision("name")``, and give the choices where it is placed:
    ``Sequence(load, route.to(small, big=large))``. Without ``.to`` the choices are the steps that the function's
    module holds under the names that it can return, by its ``Literal`` annotation or else the strings in its code.

    Args:
        name: the name of the decision and of its result; by default that of the function.

    Raises:
        WorkflowError: the name or the function is not valid.
    """
    if name is not None and not isinstance(name, str):
        if not callable(name):
            raise errors.WorkflowError(
                f"decision() takes a name or a function, not {names.shortened(name)}: @decision('a_name') or @decision"
            )
        return Decision(name)
    if name is not None:
        names.checked(name, "decision")

    def decorate(function: Callable[P, R], /) -> Decision[P, R]:
        return Decision(function, name)

    return decorate


class _Search:
    """The choices of a decision that was placed without ``.to``, found in its function's module and closure."""

    def __init__(self, decision: Decision[..., Any], above: tuple[Decision[..., Any], ...]) -> None:
        self._decision = decision
        self._above = (*above, decision)
        function = inspect.unwrap(functions.underlying(decision.fn))
        self._code: CodeType | None = getattr(function, "__code__", None)
        self._scope: dict[str, object] = dict(getattr(function, "__globals__", {}))
        self._scope |= functions.closure(function)
        self._named: dict[str, Step] = {}
        for value in self._scope.values():
            if isinstance(value, Step) and value.name is not None:
                self._named.setdefault(value.name, value)

    def choices(self) -> dict[str, Step]:
        answers = _literal_answers(self._decision)
        if answers is not None:
            missing = [answer for answer in answers if self._find(answer) is None]
            if missing:
                raise errors.WorkflowError(
                    f"{label(self._decision)} can answer {_quoted(missing)}, but its module holds no such step: "
                    "define it before the workflow, or give the choices with .to(...)"
                )
        else:
            strings = dict.fromkeys(_strings(self._code)) if self._code is not None else {}
            answers = tuple(text for text in strings if self._leads_elsewhere(text))
        if not answers:
            raise errors.WorkflowError(
                f"{label(self._decision)} has no choices: none of the strings in its code names a step of its module; "
                f"give them with .to(...), as in {self._decision.name}.to(small_step, big=big_step)"
            )
        return {answer: self._placed(answer) for answer in answers}

    def _find(self, answer: str) -> Step | None:
        held = self._scope.get(answer)
        return held if isinstance(held, Step) else self._named.get(answer)

    def _leads_elsewhere(self, answer: str) -> bool:
        step = self._find(answer)
        # Its own name in a message is no way to itself.
        return step is not None and not (isinstance(step, Decision) and step.fn is self._decision.fn)

    def _placed(self, answer: str) -> Step:
        step = self._find(answer)
        if not isinstance(step, Decision) or step.choices is not None:
            return as_step(step, f"{label(self._decision)}, choice {answer!r}")
        if any(step.fn is decision.fn for decision in self._above):
            way = " -> ".join(decision.name for decision in (*self._above, step))
            raise errors.WorkflowError(f"{label(step)} can lead to itself ({way}): give its choices with .to(...)")
        return step._with(_Search(step, self._above).choices())


def _literal_answers(decision: Decision[..., Any]) -> tuple[str, ...] | None:
    answers = hints.literals(hints.hints_of(decision.fn).get("return", Any))
    for answer in answers or ():
        names.checked(answer, f"choice of {label(decision)}")
    return answers


def _strings(constant: object) -> Iterator[str]:
    if isinstance(constant, str):
        yield constant
    elif isinstance(constant, CodeType):
        for inner in constant.co_consts:
            yield from _strings(inner)
    elif isinstance(constant, tuple | frozenset):
        # A set has no order; a spec must not differ from process to process.
        for inner in sorted(constant, key=repr) if isinstance(constant, frozenset) else constant:
            yield from _strings(inner)


def _quoted(answers: tuple[str, ...] | list[str]) -> str:
    return ", ".join(repr(answer) for answer in answers)
