"""A browser for tests: Chromium through its driver, in the plain WebDriver protocol.

Pages are opened from files; nothing is fetched. ``needs_browser`` marks tests that are skipped
where Chromium or its driver is not installed.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium with its driver is installed"
)
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "Down": "\ue015", "Up": "\ue013"}
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Browser:
    """A window of a headless browser."""

    def __init__(self, address: str, profile: Path, *options: str) -> None:
        self._address = address
        arguments = [*_OPTIONS, f"--user-data-dir={profile}", *options]
        chrome = {"binary": CHROMIUM, "args": arguments}
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def _post(self, path: str, **body: Any) -> Any:
        return self._send("POST", self._session + path, body)

    def open(self, page: Path) -> None:
        """Open a file."""
        self._post("/url", url=page.resolve().as_uri())

    def size(self, width: int, height: int) -> None:
        """Make the page's area this large, in pixels, however small a window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)

    def media(self, media: str = "", **features: str) -> None:
        """Emulate a medium (``print``) or features: ``prefers_color_scheme="dark"``."""
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.command("Emulation.setEmulatedMedia", media=media, features=listed)

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._post("/goog/cdp/execute", cmd=name, params=parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; it gets ``arguments``."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def run_async(self, script: str, *arguments: Any) -> Any:
        """What a script gives to the function that is its last argument."""
        return self._post("/execute/async", script=script, args=list(arguments))

    def wait(self, script: str) -> Any:
        """What a script returns as soon as that is true, at most after ten seconds."""
        waiting = (
            "const done = arguments[0], end = performance.now() + 10000;"
            f"const test = () => {{ {script} }};"
            "(function again() { const value = test();"
            "if (value || performance.now() > end) done(value); else setTimeout(again, 10); })();"
        )
        value = self.run_async(waiting)
        assert value, script
        return value

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a selector finds."""
        self._post(f"/element/{self._element(selector)}/click")

    def _element(self, selector: str) -> str:
        found = self._post("/element", using="css selector", value=selector)
        return str(next(iter(found.values())))

    def press(self, *keys: str) -> None:
        """Press keys, by their names in ``KEYS`` or as what they write."""
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keys", "actions": actions}
        self._post("/actions", actions=[source])

    def hover(self, selector: str) -> None:
        """Move the pointer over an element."""
        origin = {"element-6066-11e4-a52e-4f735466cecf": self._element(selector)}
        move = {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": origin}
        source = {"type": "pointer", "id": "mouse", "actions": [move]}
        self._post("/actions", actions=[source])

    def picture(self) -> bytes:
        """The page's area as PNG."""
        return base64.b64decode(self._send("GET", f"{self._session}/screenshot"))

    def complaints(self) -> list[str]:
        """What the browser's console says, refusals of its security policy included."""
        entries = self._post("/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def close(self) -> None:
        """Close the window."""
        self._send("DELETE", self._session)


@contextmanager
def browser(profile: Path, *options: str) -> Iterator[Browser]:
    """A browser with a profile of its own, closed at the end."""
    with subprocess.Popen(
        [str(DRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        try:
            assert driver.stdout is not None
            port = next(
                line.rpartition("port ")[2].strip().rstrip(".")
                for line in driver.stdout
                if "started successfully on port" in line
            )
            window = Browser(f"http://127.0.0.1:{port}", profile, *options)
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
