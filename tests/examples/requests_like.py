"""``requests`` as far as the page uses it, so that the tests need not install it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


class Response:
    """What came back."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self._body)


def get(url: str) -> Response:
    """Fetch ``url``."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        return Response(answer.read())
