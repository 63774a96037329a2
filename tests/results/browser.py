"""A headless Chromium, driven over a pipe with the standard library alone.

By hand, to look at a page: python tests/results/browser.py PAGE.html PICTURE.png [WIDTH HEIGHT [dark]]
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page in one browser.

    Attributes:
        errors: what the console called an error, and requests that went anywhere but to a file.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._count = 0
        self._rest = b""
        self._profile = tempfile.mkdtemp()
        there, self._in = os.pipe()
        self._out, back = os.pipe()
        # Chromium reads commands from 3 and writes answers to 4
        shell = f'exec "$@" 3<&{there} 4>&{back}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                 "--no-first-run", "--hide-scrollbars", "--force-color-profile=srgb",
                 f"--user-data-dir={self._profile}"]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", CHROMIUM, *flags, "about:blank"],
            pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *about: object) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            self._session = None
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **params: object) -> dict:
        """Call a method of the DevTools protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(
        self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False
    ) -> float:
        """Open a file; return the seconds until it has drawn itself."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        start = time.perf_counter()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            time.sleep(0.02)
        return time.perf_counter() - start

    def run(self, code: str) -> object:
        """Evaluate an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", {}).get("description")))
        return answer["result"].get("value")

    def point(self, selector: str) -> tuple[float, float]:
        """Scroll to an element and return its middle."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return box[0], box[1]

    def move(self, selector: str) -> None:
        """Bring the mouse over an element."""
        x, y = self.point(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click on an element, as a person does."""
        x, y = self.point(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **(text if kind == "keyDown" else {}))  # fmt: skip

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of the window."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            if not select.select([self._out], [], [], 60)[0]:
                raise TimeoutError("Chromium has not answered for a minute")
            part = os.read(self._out, 1 << 20)
            if not part:
                raise EOFError("Chromium has ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, about: dict) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"].get("exception", about).get("description", about)))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(str([argument.get("value") for argument in about["args"]]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("file:", "data:")):
            self.errors.append(f"a request to {about['request']['url'][:200]}")


if __name__ == "__main__":
    source, picture, *rest = sys.argv[1:]
    size = {"width": int(rest[0]), "height": int(rest[1])} if len(rest) > 1 else {}
    with Browser() as browser:
        print(browser.open(Path(source), dark="dark" in rest, **size))
        browser.screenshot(Path(picture))
        print("\n".join(browser.errors))
