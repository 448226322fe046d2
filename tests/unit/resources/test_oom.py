"""What the kernel counts of those that it killed for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from egregore_dist.resources import cgroup


@pytest.mark.parametrize(
    ("groups", "file", "content", "kills"),
    [
        ("0::/own", "own/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 0", 3),
        ("0::/not/seen/here", "memory.events", "oom_kill 2", 2),
        ("4:memory:/own", "memory/own/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5", 5),
        ("4:memory:/own\n0::/", "memory/own/memory.oom_control", "oom_kill 5", 5),
        ("4:memory:/own", "memory/own/memory.oom_control", "oom_kill_disable 0", None),
        ("", "other", "", None),
    ],
)
def test_kills_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, file: str, content: str, kills: int | None
) -> None:
    """The count is that of the process's own group, in either version; None where the kernel does not count."""
    root, own = tmp_path / "cgroup", tmp_path / "self"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(content)
    own.write_text(groups)
    monkeypatch.setattr(cgroup, "_ROOT", root)
    monkeypatch.setattr(cgroup, "_SELF", own)

    assert cgroup.oom_kills() == kills
