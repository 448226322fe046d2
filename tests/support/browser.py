"""A headless Chromium, driven through its WebDriver: what users see, and what the console says."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
#: Why there is no browser on this machine, or "".
MISSING = "" if CHROMIUM and DRIVER else "no browser: apt-get install chromium chromium-driver"

#: What keys are called in `Browser.press`.
TAB, ENTER = "\ue004", "\ue007"

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Gone(Exception):
    """An element was replaced while it was used."""


class Browser:
    """One window.

    Args:
        driver: the WebDriver's address.
        size: of the window, in pixels.
        dark: whether its user likes it dark.
        zone: the time zone of its user, by name; None for that of this machine.
        language: of its user, such as ``de-DE``; None for that of this machine.
    """

    def __init__(
        self,
        driver: str,
        size: tuple[int, int] = (1280, 900),
        *,
        dark: bool = False,
        zone: str | None = None,
        language: str | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=driver, timeout=60)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += [f"--window-size={size[0]},{size[1]}", "--hide-scrollbars"]
        arguments += ["--blink-settings=preferredColorScheme=0"] if dark else []
        options = {"args": arguments, "binary": CHROMIUM}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}, "timeouts": {"script": 20000}}
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        # No window is narrower than some 500 pixels, but phones are.
        view = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._emulate("DeviceMetrics", **view)
        if zone is not None:
            self._emulate("Timezone", timezoneId=zone)
        if language is not None:
            self._emulate("Locale", locale=language)

    def close(self) -> None:
        """Close the window."""
        self._call("DELETE", self._path(""))
        self._http.close()

    def go(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self._call("POST", self._path("/url"), {"url": address})

    def tab(self, address: str) -> str:
        """Open an address in a new tab, and go there; returns the tab that was left."""
        left = str(self._call("GET", self._path("/window")))
        self.switch(self._call("POST", self._path("/window/new"), {"type": "tab"})["handle"])
        self.go(address)
        return left

    def switch(self, tab: str) -> None:
        """Go to another tab."""
        self._call("POST", self._path("/window"), {"handle": tab})

    def run(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self._call("POST", self._path("/execute/sync"), {"script": script, "args": list(arguments)})

    def text(self, selector: str = "body") -> str:
        """The text of an element, or "" where there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def click(self, selector: str) -> None:
        """Click an element as a user does; one that was replaced in between is looked up again."""

        def clicked() -> bool:
            try:
                found = self._call("POST", self._path("/element"), {"using": "css selector", "value": selector})
                self._call("POST", self._path(f"/element/{found[_ELEMENT]}/click"), {})
            except Gone:
                return False
            return True

        until(clicked, what=f"a click on {selector}")

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        found = self._call("POST", self._path("/element"), {"using": "css selector", "value": selector})
        self._call("POST", self._path(f"/element/{found[_ELEMENT]}/value"), {"text": text})

    def press(self, key: str) -> None:
        """Press a key, and let it go."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", self._path("/actions"), {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def accept(self) -> None:
        """Answer a question of the page with yes."""
        self._call("POST", self._path("/alert/accept"), {})

    def dismiss(self) -> None:
        """Answer a question of the page with no."""
        self._call("POST", self._path("/alert/dismiss"), {})

    def until_text(self, selector: str, text: str) -> None:
        """Wait until an element has a text."""
        until(lambda: text in self.text(selector), what=f"{text!r} in {selector}")

    def console(self) -> list[str]:
        """What the console has said since the last time, other than by the page's own choice."""
        return [entry["message"] for entry in self._call("POST", self._path("/se/log"), {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """Keep what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", self._path("/screenshot"))))

    def _emulate(self, what: str, **parameters: object) -> None:
        command = {"cmd": f"Emulation.set{what}Override", "params": parameters}
        self._call("POST", self._path("/goog/cdp/execute"), command)

    def _path(self, of: str) -> str:
        return f"/session/{self._session}{of}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(method, path, json=body).json()["value"]
        if isinstance(answer, dict) and answer.get("error") == "stale element reference":
            raise Gone
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{method} {path}: {answer['error']}: {answer.get('message', '')[:500]}")
        return answer


@contextmanager
def driver(log: Path) -> Iterator[str]:
    """Start a WebDriver on a port of its own; its address."""
    assert DRIVER is not None
    with log.open("wb") as file:
        process = subprocess.Popen([DRIVER, "--port=0"], stdout=file, stderr=subprocess.STDOUT)
    try:
        port: list[str] = []

        def says_port() -> bool:
            port[:] = re.findall(r"started successfully on port (\d+)", log.read_text())
            return bool(port)

        until(says_port, what="chromedriver")
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        process.terminate()
        process.wait(10)
