"""``egregore-dist secret``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from egregore_dist.cli import main
from egregore_dist.wire import strength

ROOT = Path(__file__).parents[3]
LARGE = ("celery", "kombu", "pydantic", "redis", "rich")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md"), *ROOT.glob("examples/*.md")]


def test_s4_the_command_prints_a_secret_that_is_accepted() -> None:
    """``$(egregore-dist secret)`` is a secret that is accepted; the command loads no large library."""
    code = (
        "import sys; from egregore_dist.cli import main; main(['secret'], standalone_mode=False); "
        f"print([name for name in {LARGE!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)
    strength.refuse_weak(done.stdout.strip(), "it")
    assert done.stderr == "[]\n"


def test_the_command_reads_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret can be made while the present one is weak and another setting is wrong."""
    monkeypatch.setenv("EGREGORE_SECRET", "weak")
    monkeypatch.setenv("EGREGORE_RETENTION", "soon")
    result = CliRunner().invoke(main, ["secret"])

    assert result.exit_code == 0
    assert result.stderr == ""


def test_no_page_shows_another_way_to_make_a_secret() -> None:
    """The documentation names the command alone."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES)

    assert "egregore-dist secret" in text
    assert not re.search(r"token_urlsafe|token_hex|openssl rand", text)
