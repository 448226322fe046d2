"""Limits of what is decoded: each holds at its number, and is refused one further, before anything large is made."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from egregore_dist import Sequence, errors, node, parallel
from egregore_dist.wire import code, codec, failure, signing
from egregore_dist.workflow import spec
from egregore_dist.workflow.parallel import MAX_BRANCHES
from tests.support.secret import secret_of

NODE = spec.NodeSpec("n", 0)


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
    holds_at_its_limit(spec.WorkflowSpec("w", step), "at most 64 steps inside", more=more)


@pytest.mark.parametrize("more", [0, 1])
def test_s6_the_steps_of_a_workflow(more: int) -> None:
    """A workflow of as many steps as the limit is written and read; one of a step more is not."""
    steps = (spec.SequenceSpec("s", (NODE,) * (spec.STEPS - 3)), *(NODE,) * (1 + more))
    holds_at_its_limit(spec.WorkflowSpec("w", spec.SequenceSpec("s", steps)), "at most 200000 steps", more=more)


@pytest.mark.parametrize("more", [0, 1])
def test_s6_the_bytes_of_a_workflow(more: int) -> None:
    """A workflow of as many bytes as the limit is written and read; one of a byte more is not, nor is it decoded."""
    name = "n" * (spec.LARGEST - len(msgspec.msgpack.encode(spec.WorkflowSpec("n" * 70_000, NODE))) + 70_000 + more)
    holds_at_its_limit(spec.WorkflowSpec(name, NODE), "at most 16777216 bytes", more=more)


def holds_at_its_limit(workflow: spec.WorkflowSpec, message: str, *, more: int) -> None:
    raw = msgspec.msgpack.encode(workflow)
    if not more:
        assert spec.encode(workflow) == raw
        assert spec.decode(raw) == workflow
        return
    with pytest.raises(errors.WorkflowError, match=rf"is too large.*{message}.*Use \.map"):
        spec.encode(workflow)
    with pytest.raises(msgspec.ValidationError, match=message):
        spec.decode(raw)


@pytest.mark.parametrize("signer", [signing.Signer([]), signing.Signer([secret_of("bounds").encode()])])
def test_s6_the_bytes_of_references(signer: signing.Signer) -> None:
    """References of as many bytes as the limit are written and read; those of a byte more are not."""
    around = len(code.encode_references(["r" * 70_000], signer)) - 70_000
    most = "r" * (code.LARGEST_REFERENCES - around)

    raw = code.encode_references([most], signer)
    assert code.decode_references(raw) == (most,)
    with pytest.raises(errors.WorkflowError, match="1 functions take 16777217 bytes, and at most 16777216"):
        code.encode_references([most + "r"], signer)
    with pytest.raises(msgspec.ValidationError, match="at most 16777216 bytes"):
        code.decode_references(raw + b"r")


@node
def first(data: int) -> int:
    return data


def test_s6_a_workflow_that_is_too_large_is_refused_when_it_is_submitted() -> None:
    """The error names the workflow and the cure, before a server is asked."""
    half = parallel(*[first.alias(f"n{number}") for number in range(MAX_BRANCHES)])
    with pytest.raises(errors.WorkflowError, match="workflow 'huge' is too large: a workflow has at most 200000 steps"):
        Sequence(half, half.alias("again"), first, name="huge").submit(1)


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


TINY = """
import resource, sys
from egregore_dist import errors
from egregore_dist.wire import codec
reads, head, tail = (codec.split, b"\\x81", b"\\x00") if sys.argv[1] == "key" else (codec.decode, b"", b"")
for item in (b"\\x90", b"\\x80", b"\\x81\\x00\\x80"):
    many = (8 << 20) // len(item)
    raw = b"".join((head, b"\\xdd", many.to_bytes(4, "big"), item * many, tail))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        reads(raw)
    except errors.EncodingError as refused:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, refused)
"""


@pytest.mark.parametrize("where", ["value", "key"])
def test_s6_tiny_containers_are_counted_before_they_are_made(where: str) -> None:
    """Eight megabytes of tiny lists and mappings, in a value or a key, are refused in little more than they take."""
    done = subprocess.run([sys.executable, "-c", TINY, where], capture_output=True, text=True, check=True)

    assert done.stdout.count("more than 4000000 lists and mappings in ") == 3
    assert max(int(line.split()[0]) for line in done.stdout.splitlines()) < 40 * 1024


@pytest.mark.parametrize("more", [0, 1])
def test_s6_the_containers_of_a_value(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of as many containers as the limit is encoded, joined and read; one of one more is not."""
    monkeypatch.setattr(codec, "CONTAINERS", 1000)
    value: list[Any] = [[], {}, {"text": "\u0410" * 40}, errors.BranchError("b", message="m"), *[[1]] * (995 + more)]
    raw = msgspec.msgpack.encode(value, enc_hook=codec.replacement)
    parts = [msgspec.msgpack.encode(part, enc_hook=codec.replacement) for part in value]
    pairs = list(enumerate(parts))

    reads = (
        lambda: codec.decode(raw),
        lambda: codec.encode(value, where="a test"),
        lambda: codec.join_list(parts),
        lambda: codec.join_mapping(pairs),
    )
    for read in reads:
        if not more:
            read()
            continue
        with pytest.raises(errors.EncodingError, match="more than 1000 lists and mappings in"):
            read()


@pytest.mark.parametrize("window", [40, 2**20])
def test_containers_are_counted_exactly_beside_everything_else(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, texts, bytes and dates of every size, full of bytes that begin containers, are not counted."""
    monkeypatch.setattr(codec, "_WINDOW", window)
    sizes = [*range(40), 255, 256, 65535, 65536]
    scalars = [None, True, -1, 200, -100, 2**15, -(2**14), 2**31, -(2**30), 2**63, -(2**62), 1.0000000001, dt.date.max]
    texts = ["\u0410" * size for size in sizes] + ["a" * size for size in sizes] + [b"\x90" * size for size in sizes]
    extensions = [msgspec.msgpack.Ext(5, b"\x90" * size) for size in sizes]
    value = [*scalars, *texts, *extensions, [0] * 15, [0] * 16, [0] * 65536, dict.fromkeys(range(15)), {1: {2: []}}]
    value += [dict.fromkeys(range(size)) for size in (16, 65536)]
    raw = msgspec.msgpack.encode(value)
    many = 1 + len(extensions) + 9

    assert len(raw.translate(None, codec._NO_CONTAINERS)) > 2 * many
    assert not codec._has_more_containers(raw, len(raw), many)
    assert codec._has_more_containers(raw, len(raw), many - 1)


def test_a_million_records_are_read() -> None:
    """A list of a million mappings, each with a list of its own, is read."""
    record = {"key": [1]}
    raw = codec.join_list([msgspec.msgpack.encode(record)] * 1_000_000)

    assert codec.decode(raw)[-1] == record


@pytest.mark.parametrize("end", [b"\xc1\x90", b"\xcb\x90", b"\xd9", b"\xd9\xff\x90", b"\xc9\x90", b"\xa2\x90"])
def test_containers_are_counted_up_to_what_is_malformed(end: bytes) -> None:
    """What ends early, or has a byte that begins nothing, is left to the decoder."""
    assert not codec._has_more_containers(b"\x90" * 9 + end, 11, 9 + (end[0] == 0xC9))
