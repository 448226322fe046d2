"""Where the boards of a pool are, and what becomes of those that were left."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import msgspec
import pytest

from egregore_dist.engine import boards
from egregore_dist.engine.board import Reader, Where

WHERE = Where("run", "0.0-1", 2, "worker@host/7/lane.0")


def test_without_a_folder_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Elsewhere than in a pool, and where no file can be made, a board costs nothing and does nothing."""
    monkeypatch.delenv(boards.FOLDER, raising=False)
    boards.mine().begin(1, 1)
    monkeypatch.setenv(boards.FOLDER, str(tmp_path / "gone"))
    boards.mine().begin(1, 1)

    assert not list(tmp_path.iterdir())


def test_a_folder_is_found_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Processes find the folder by the environment; one of a process that lives is left alone, others are removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = boards.Folder()
    mine = boards.mine()
    mine.come(*msgspec.structs.astuple(WHERE)[:4])
    note = Reader(folder.path / str(os.getpid())).read()
    assert note is not None
    assert note.where == WHERE

    left = tmp_path / f"{folder.path.name[:16]}left"
    left.mkdir()
    (left / "1").touch()
    remover = threading.Thread(target=boards.remove_left)
    remover.start()
    remover.join()
    assert folder.path.exists()
    assert not left.exists()
    folder.remove()
    assert not folder.path.exists()
    assert boards.FOLDER not in os.environ


def test_a_folder_that_another_worker_removes_before_it_is_locked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers that begin together take a folder that is not locked yet for one that was left: another is made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flock, taken = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not taken:
            taken.append(file)
            boards.remove_left()
        flock(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    folder = boards.Folder()

    assert taken
    assert folder.path.exists()
    assert list(tmp_path.iterdir()) == [folder.path]
    folder.remove()
