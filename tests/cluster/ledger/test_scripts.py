"""The Lua files themselves."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from egregore_dist.ledger import scripts

FOLDER = resources.files("egregore_dist.ledger") / "lua"
FILES = sorted(file.name for file in FOLDER.iterdir() if file.name.endswith(".lua"))


def text(file: str) -> str:
    return (FOLDER / file).read_text("utf-8")


def header(file: str) -> str:
    """The comment that a file begins with."""
    lines = text(file).splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end])


def code(file: str) -> str:
    """A file without its comments."""
    return re.sub(r"--.*", "", text(file))


def test_each_file_is_a_transition() -> None:
    """The folder holds the transitions, and the three parts that they share; nothing else."""
    shared = ["_common.lua", "_counts.lua", "_limits.lua"]
    assert sorted([*shared, *(f"{name}.lua" for name in scripts.TRANSITIONS)]) == FILES


@pytest.mark.parametrize("name", scripts.TRANSITIONS)
def test_each_transition_says_what_it_takes_and_returns(name: str) -> None:
    """The header documents the arguments, where there are any, and the answer."""
    assert ("-- ARGV  " in header(f"{name}.lua")) == ("ARGV" in code(f"{name}.lua"))
    assert "-- Returns " in header(f"{name}.lua")
    assert re.search(r"^return\b", code(f"{name}.lua"), re.MULTILINE)


def test_the_shared_part_documents_each_key() -> None:
    """KEYS and every kind of key of a run are explained at the top."""
    documented = header("_common.lua")
    kinds = re.search(r"KINDS_OF_KEYS = \{(.*?)\}", code("_common.lua"))
    suffixes = re.search(r"ipairs\(\{ (':code'.*?) \}\)", code("_common.lua"))

    assert kinds is not None
    assert suffixes is not None
    for number in (1, 2, 3):
        assert f"KEYS[{number}]" in documented
    for kind in re.findall(r"'(\w)'", kinds[1]):
        assert f"K:{kind}:<block>" in documented
    for suffix in re.findall(r"':(\w+)'", suffixes[1]):
        assert f"K:{suffix} " in documented


@pytest.mark.parametrize("file", FILES)
def test_time_is_the_servers(file: str) -> None:
    """Only the server's clock is asked, once a transition, and no caller's time is taken."""
    assert code(file).count("'TIME'") == (1 if file == "_common.lua" else 0)
    assert "os." not in code(file)
    assert not re.search(r"\bNOW\s*=.*ARGV|\bnow\b", code(file))


@pytest.mark.parametrize("file", FILES)
def test_what_every_supported_server_has(file: str) -> None:
    """No command or option is newer than Redis 6.2."""
    newer = ["'NX'", "EXPIREAT', 'XX'", "'LMPOP'", "'ZMPOP'", "'SINTERCARD'", "'FCALL'", "'HEXPIRE'", "'HPEXPIRE'"]

    # Of EXPIRE it is; SET and ZADD always had it.
    lines = re.sub(r"'(?:SET|ZADD)', [^\n]*?'NX'", "", code(file))

    assert [word for word in newer if word in lines] == []
