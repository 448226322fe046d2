"""What programs leave where their temporary files are."""

from __future__ import annotations

import os
from pathlib import Path


def remains(folder: Path) -> list[str]:
    """What is left in a folder, but for the empty directory that keeps the name of where sockets were."""
    sockets = folder / f"egregore-{os.geteuid()}"
    return [str(path) for path in folder.iterdir() if path != sockets or any(path.iterdir())]
