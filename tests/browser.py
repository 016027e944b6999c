"""
A headless Chromium for tests, driven by its DevTools protocol through two pipes.

It can reach no network, and remembers what was asked for and what went wrong. Needs no package.
Below it: the fixtures of the tests of pages, and what is in the file of a page. As a program it
writes a picture of an element of a page; the width, 1000, the scheme and JavaScript may follow:

    python tests/browser.py step.html '#text' text.png 1000 dark 'pickToken(3)'
"""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",  # commands come on file 3, answers go to file 4
    "--no-sandbox",  # which root may not use
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's is small
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
KEYS = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
KEYS |= {"0": 48, "+": 187, "-": 189}


class Browser:
    """One page of a Chromium. errors and requests are what it has had, as they came."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory()
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()
        # exec replaces the shell, which is there to give the pipes their numbers
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        flags = (*FLAGS, f"--user-data-dir={self.profile.name}", "about:blank")
        self.process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *flags],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.count, self.session = b"", 0, None
        self.errors, self.requests = [], []
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in pages if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in "Page", "Runtime", "Log", "Network":
            self.call(f"{domain}.enable")

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self.commands)  # a browser whose pipe ends, ends
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)
        with contextlib.suppress(OSError):  # a child of the browser's may still be writing there
            self.profile.cleanup()

    def message(self):
        """Read the next message, and note what it tells of errors and requests."""
        while b"\0" not in self.buffer:
            more = os.read(self.answers, 2**20)
            if not more:
                raise RuntimeError("Chromium has ended")
            self.buffer += more
        text, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(text)
        method, what = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning"):
            self.errors.append(what["args"])
        elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            if "willReadFrequently" not in what["entry"]["text"]:  # it is the tests that read
                self.errors.append(what["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        return message

    def call(self, method, **params):
        self.count += 1
        command = {"id": self.count, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while (message := self.message()).get("id") != self.count:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def open(self, path, width=1000, scheme="light"):
        """Open a file in a window of that width, and wait until its script has run."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.js("window.before = true")  # to tell the page that was here, if it is opened again
        self.call("Page.navigate", url=path.as_uri())
        until, now = time.monotonic() + 30, "document.readyState + location.href + !window.before"
        while self.js(now) != f"complete{path.as_uri()}true":
            assert time.monotonic() < until, f"{path} doesn't open"
            time.sleep(0.02)
        # a ResizeObserver draws, in the first frame; after the second one has begun, it has drawn
        frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.call("Runtime.evaluate", expression=f"{frames}.then(() => 0)", awaitPromise=True)

    def js(self, expression):
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)}).textContent")

    def move(self, selector, x=None, y=None, click=False):
        """Move the mouse to a place in an element, its middle by default, and click if asked to."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.js(f"(({{x, y, width, height}}) => [x, y, width, height])"
                      f"({found}.getBoundingClientRect())")  # fmt: skip
        x = box[0] + (box[2] / 2 if x is None else x)
        y = box[1] + (box[3] / 2 if y is None else y)
        self.mouse("mouseMoved", x, y)
        if click:
            self.mouse("mousePressed", x, y)
            self.mouse("mouseReleased", x, y)
        return x, y

    def picture(self, selector):
        """Return a PNG of an element."""
        sides = "({x, y, width, height}) => ({x: x + scrollX, y: y + scrollY, width, height})"
        found = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        clip = self.js(f"({sides})({found})") | {"scale": 1}
        how = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        return base64.b64decode(self.call("Page.captureScreenshot", **how)["data"])

    def drag(self, selector, x, to_x, y):
        """Press the mouse at x, y of an element, move it to to_x, y, and let go."""
        start, y = self.move(selector, x, y)
        self.mouse("mousePressed", start, y)
        for part in 0.3, 0.6, 1:
            self.mouse("mouseMoved", start + part * (to_x - x), y, buttons=1)
        self.mouse("mouseReleased", start + to_x - x, y)

    def mouse(self, kind, x, y, **more):
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, **more)

    def key(self, name):
        """Press a key."""
        text = {"text": "\r"} if name == "Enter" else {}  # a button is pressed by a letter
        down = "keyDown" if text else "rawKeyDown"
        code = {"key": name, "windowsVirtualKeyCode": KEYS[name]}
        self.call("Input.dispatchKeyEvent", type=down, **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)


# ----------------------------------------------------------------------------
# Fixtures, to be imported where they are needed; and the page as a file

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")


@pytest.fixture(scope="module")
def chromium():
    """A browser for the tests of a module."""
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(name="browser")
def without_errors(chromium):
    """The browser; no test may leave an error in it."""
    chromium.errors.clear()
    chromium.requests.clear()
    yield chromium
    assert chromium.errors == []


@pytest.fixture(name="opened")
def with_page(browser, page):
    """The browser with the module's page, which may ask for nothing else."""
    browser.open(page)
    yield browser
    assert browser.requests == [page.as_uri()]


def data_of(page):
    """Return what is in a page's script of data; no address of anything else is in the page."""
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert "<" not in data  # or a text of the user's could become markup
    for address in "http:", "https:", "src=", "url(", "import(", "fetch(", "XMLHttpRequest":
        assert address not in text.replace(r"\u003cimg src=", "")  # which is a hostile text's
    return json.loads(data)


if __name__ == "__main__":
    page, selector, out, *more = sys.argv[1:]
    width, scheme, code = [*more, *("1000", "light", "0")[len(more) :]]
    browser = Browser()
    browser.call("Emulation.setScrollbarsHidden", hidden=True)
    browser.open(Path(page).resolve(), int(width), scheme)
    browser.js(code)
    Path(out).write_bytes(browser.picture(selector))
    browser.close()
