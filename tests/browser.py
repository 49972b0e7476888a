"""A headless Chromium, driven through ChromeDriver, and a server of static files."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import requests

# Where `make web-tools` puts the npm package that the page runs on.
NODE_MODULES = Path(__file__).resolve().parents[1] / ".web" / "node_modules"
DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that WebDriver names
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--hide-scrollbars",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WAIT = 60  # seconds, at most, for what a page shall show


def lacking() -> str:
    """Return what is missing to run the page, or an empty string."""
    needs = {
        "chromium": CHROMIUM,
        "chromedriver": DRIVER,
        "the npm package onnxruntime-web": (NODE_MODULES / "onnxruntime-web").is_dir(),
    }
    return ", ".join(name for name, there in needs.items() if not there)


class Browser:
    """One window of Chromium, by WebDriver's protocol."""

    def __init__(self, port: int, *flags: str) -> None:
        self._address = f"http://127.0.0.1:{port}/session"
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy between this machine and itself
        chrome = {"binary": CHROMIUM, "args": [*FLAGS, *flags]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome}
        wanted["goog:loggingPrefs"] = {"browser": "ALL"}
        answer = self._ask("POST", "", capabilities={"alwaysMatch": wanted})
        self._address += f"/{answer['sessionId']}"

    def _ask(self, verb: str, path: str, **body: Any) -> Any:
        answer = self._http.request(
            verb,
            self._address + path,
            json=body if verb == "POST" else None,
            timeout=120,
        )
        value = answer.json()["value"]
        if not answer.ok:
            raise AssertionError(
                f"{value['error']}: {value['message'].splitlines()[0]}"
            )
        return value

    def open(self, address: str) -> None:
        self._ask("POST", "/url", url=address)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns, or what its promise resolves to."""
        return self._ask("POST", "/execute/sync", script=script, args=list(arguments))

    def cdp(self, command: str, **params: Any) -> Any:
        """Send a command of Chromium's own protocol."""
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=params)

    def element(self, selector: str) -> str:
        query = {"using": "css selector", "value": selector}
        return self._ask("POST", "/element", **query)[ELEMENT]

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self.element(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self.element(selector)}/value", text=text)

    def label(self, selector: str) -> str:
        """Return the name of an element for those who cannot see it."""
        return self._ask("GET", f"/element/{self.element(selector)}/computedlabel")

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask(
            "POST", "/actions", actions=[{"type": "key", "id": "k", "actions": keys}]
        )

    def text(self, selector: str) -> str:
        return self.run(
            "return document.querySelector(arguments[0]).textContent", selector
        )

    def wait(self, condition: str, *arguments: Any) -> Any:
        """Return the value of an expression as soon as it is true."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            value = self.run(f"return {condition}", *arguments)
            if value:
                return value
            time.sleep(0.05)
        shown = self.run("return document.body.innerText")
        raise AssertionError(f"never came true: {condition}; the page shows {shown!r}")

    def size(self, width: int, height: int = 800) -> None:
        """Lay pages out for a screen of this size."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def messages(self) -> list[str]:
        """Return what the page has written to its console since the last call."""
        entries = self._ask("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries]

    def close(self) -> None:
        self._ask("DELETE", "")


@contextlib.contextmanager
def driver() -> Iterator[int]:
    """Run ChromeDriver, and yield its port."""
    command = [str(DRIVER), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = ""
            while "successfully on port" not in line:
                line = process.stdout.readline()
                assert line, "ChromeDriver does not start"
            yield int(line.split()[-1].rstrip("."))
        finally:
            process.terminate()
            process.stdout.read()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *ignored: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as ``python -m http.server`` does, and yield its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
