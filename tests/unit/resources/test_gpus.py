"""The GPUs of a process: what the system shows, and what CUDA's variable lets it see."""

from __future__ import annotations

from pathlib import Path

import pytest

from egregore_dist.resources import gpus


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ("0", "1", "10")),
        ("1,0", ("1", "0")),
        (" 2 , 0 ", ("2", "0")),
        ("", ()),
        ("-1", ()),
        ("none", ()),
        ("0,-1,1", ("0",)),
        ("0,3,1", ("0",)),
        ("0,0", ()),
        ("00,0", ()),
        ("²", ()),
        ("GPU-5a,GPU-7b", ("GPU-5a", "GPU-7b")),
        ("MIG-1/2", ("MIG-1/2",)),
    ],
)
def test_what_is_visible_counts(tmp_path: Path, visible: str | None, names: tuple[str, ...]) -> None:
    """Of three devices those count that ``CUDA_VISIBLE_DEVICES`` names, up to the first entry that names none."""
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps", "xnvidia3"):
        (tmp_path / name).touch()

    assert gpus.found({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, tmp_path) == names


@pytest.mark.parametrize("visible", ["0", "GPU-5a", "0,1", "nonsense"])
def test_what_is_not_there_is_not_visible(tmp_path: Path, visible: str) -> None:
    """Without a device, or a folder of devices, there is none, whatever the variable says."""
    environment = {"CUDA_VISIBLE_DEVICES": visible}

    assert gpus.found(environment, tmp_path) == gpus.found(environment, tmp_path / "nowhere") == ()


@pytest.mark.parametrize(
    ("count", "names"), [(None, ("GPU-5a", "1")), (0, ()), (1, ("GPU-5a",)), (4, ("GPU-5a", "1", "0", "2"))]
)
def test_a_count_goes_before_what_is_found(
    monkeypatch: pytest.MonkeyPatch, count: int | None, names: tuple[str, ...]
) -> None:
    """A worker that was told how many it has says so many, those that are found first, each with a name of its own."""
    monkeypatch.setattr(gpus, "found", lambda: ("GPU-5a", "1"))

    assert gpus.said(count) == names
