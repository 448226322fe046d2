"""The types that the language shows to editors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXPECTED = [
    "nodes.Node[[x: int, *, by: float =], str]",
    "str",
    "nodes.Node[[url: str], Coroutine[Any, Any, bytes]]",
    "Coroutine[Any, Any, bytes]",
    "str",
    "decision.Decision[[x: int], Literal['bare'] | Literal['named']]",
    "decision.Decision[[x: int], Literal['bare'] | Literal['named']]",
    "str",
    "int | None",
    "sequence.Sequence",
    "nodes.Node[[x: int, *, by: float =], str]",
    "sequence.Sequence",
    "parallel.Map",
    "parallel.Parallel",
    "egregore_dist.client.run.Run",
    "egregore_dist.client.run.Run",
    "list[egregore_dist.client.why.Reason]",
    "egregore_dist.client.runreport.RunReport",
    "Iterator[egregore_dist.client.logs.LogLine]",
]


def test_editors_see_signatures() -> None:
    """A node keeps its function's signature, a submission gives a Run, and wrong arguments are found."""
    file = Path(__file__).with_name("api.py")

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )

    # mypy's releases write a default as "=" or as "= ...".
    output = checked.stdout.replace("= ...", "=")
    revealed = re.findall(r'Revealed type is "(.*)"', output)
    assert [re.sub(r"\b(?:egregore_dist\.workflow|typing|builtins)\.", "", line) for line in revealed] == EXPECTED
    assert checked.returncode == 0, checked.stdout + checked.stderr
