"""Limits of what is decoded: each holds at its number, and is refused one further, before anything large is made."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from egregore_dist import errors
from egregore_dist.wire import codec, failure
from egregore_dist.workflow import spec
from egregore_dist.workflow.parallel import MAX_BRANCHES


def branch_error(branch: bytes, message: str = "m") -> bytes:
    fields = (msgspec.Raw(branch), "error", "T", message, "n", None, 1)
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(codec.BRANCH_ERROR, msgspec.msgpack.encode(fields)))


def chain(length: int, of: str = "cause") -> bytes:
    """A failure with so many causes, each of the one before."""
    whole: dict[str, Any] = {"type": "KeyError"}
    for _ in range(length):
        whole = {"type": "KeyError", of: whole if of == "cause" else [whole]}
    return msgspec.msgpack.encode(whole)


def test_s6_a_branch_error_stands_in_no_other_ones_name() -> None:
    """A BranchError whose branch is a BranchError is refused: each level would double its text."""
    once = branch_error(msgspec.msgpack.encode("b"))

    assert codec.decode(once).branch == "b"
    with pytest.raises(errors.EncodingError, match="whose branch is a Ext, and no name"):
        codec.decode(branch_error(once))


def test_s6_the_size_of_a_branch_error() -> None:
    """A BranchError of exactly the limit is read, one of a byte more is not."""
    head = len(branch_error(msgspec.msgpack.encode("b"), "m" * 70_000)) - 70_000
    name = msgspec.msgpack.encode("b")
    most = codec.BRANCH_ERROR_LIMIT - (head - 6)

    assert len(codec.decode(branch_error(name, "m" * most)).message) == most
    with pytest.raises(errors.EncodingError, match="at most 131072 are read"):
        codec.decode(branch_error(name, "m" * (most + 1)))


@pytest.mark.parametrize("branch", ["name", 3, ("a", 1), ("a", ("b", (1, None))), 2.5, b"b", True])
def test_names_of_branches_travel(branch: Any) -> None:
    """Every key of a mapping may be the name of a branch."""
    raw = codec.encode(errors.BranchError(branch, message="m"), where="a test")

    assert codec.decode(raw).branch == branch


@pytest.mark.parametrize("branch", [{"a": 1}, [[[[[[1]]]]]]])
def test_s6_the_name_of_a_branch_is_a_key(branch: Any) -> None:
    """A mapping, or a tuple that is nested deeper than keys are, is no name of a branch."""
    with pytest.raises(errors.EncodingError, match="and no name"):
        codec.decode(branch_error(msgspec.msgpack.encode(branch)))


def test_s6_the_depth_of_causes() -> None:
    """A chain of as many causes as are kept is rebuilt; a longer one is refused."""
    deepest = failure._PART_DEPTH

    exc: BaseException | None = failure.rebuild(failure.decode(chain(deepest)))
    for _ in range(deepest):
        assert exc is not None
        exc = exc.__cause__
    assert isinstance(exc, KeyError)
    for longer in (deepest + 1, 500):
        with pytest.raises(errors.EncodingError, match="8 levels deep"):
            failure.decode(chain(longer))


@pytest.mark.parametrize("more", [0, 1])
def test_s6_the_number_of_causes_and_members(more: int) -> None:
    """A failure with as many parts as are kept is read; one with one more is not."""
    members: list[dict[str, Any]] = [{"type": "E"} for _ in range(failure._PARTS - 1)]
    members[0] = {"type": "E", "members": [{"type": "E"}] * (1 + more)}
    raw = msgspec.msgpack.encode({"type": "ExceptionGroup", "members": members})

    if not more:
        assert len(failure.decode(raw).members) == failure._PARTS - 1
        return
    with pytest.raises(errors.EncodingError, match="more than 16 causes and members"):
        failure.decode(raw)


def test_s6_the_size_of_a_failure() -> None:
    """A failure of more than a megabyte is refused."""
    head = len(msgspec.msgpack.encode({"message": "m" * 70_000})) - 70_000
    most = 2**20 - head

    assert len(failure.decode(msgspec.msgpack.encode({"message": "m" * most})).message) == most
    with pytest.raises(errors.EncodingError, match="at most 1048576"):
        failure.decode(msgspec.msgpack.encode({"message": "m" * (most + 1)}))


def test_s6_the_branches_of_a_map() -> None:
    """A list of as many items as a block may have branches is taken apart; a longer one is counted and refused."""
    assert len(codec.split(msgspec.msgpack.encode([0] * MAX_BRANCHES))) == MAX_BRANCHES
    with pytest.raises(errors.EncodingError, match="100001 entries: a block has at most 100000 branches"):
        codec.split(msgspec.msgpack.encode([0] * (MAX_BRANCHES + 1)))


@pytest.mark.parametrize("value", [[], {}, [0] * 15, [0] * 16, [0] * 65536, dict.fromkeys(range(16)), {1: 2}])
def test_entries_are_counted_by_their_header(value: Any) -> None:
    """Lists and mappings of every form of header are counted without decoding them."""
    assert codec.count(msgspec.msgpack.encode(value)) == len(value)
    assert codec.count(msgspec.msgpack.encode("text")) is None


@pytest.mark.parametrize("more", [0, 1])
def test_s6_the_depth_of_a_workflow(more: int) -> None:
    """A stored workflow of as many nested steps as the limit is read; a deeper one is not."""
    step: spec.StepSpec = spec.NodeSpec("n", 0)
    for _ in range(spec.DEPTH - 1 + more):
        step = spec.SequenceSpec("s", (step,))
    raw = spec.encode(spec.WorkflowSpec("w", step))

    if not more:
        assert spec.decode(raw).root == step
        return
    with pytest.raises(msgspec.ValidationError, match="at most 64"):
        spec.decode(raw)


LIMITED = """
import resource, sys
from egregore_dist import errors
from egregore_dist.wire import codec
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
raw = b"\\xdd" + (20 << 20).to_bytes(4, "big") + b"\\x01" * (20 << 20)
try:
    codec.split(raw)
except errors.EncodingError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_s6_memory_stays_near_the_input() -> None:
    """Twenty megabytes of small items are refused in little more memory than they take."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 80 * 1024
