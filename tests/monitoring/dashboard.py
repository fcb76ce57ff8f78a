"""TensorBoard on a free port of this machine, and a headless Chromium that looks at it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import selenium.webdriver as webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
_PATIENCE_SECONDS = 60
_T = TypeVar("_T")

# Every element that matches, those inside web components too.
_ALL = """
const found = [];
const visit = root => {
  found.push(...root.querySelectorAll(arguments[0]));
  root.querySelectorAll('*').forEach(element => element.shadowRoot && visit(element.shadowRoot));
};
visit(document);
"""


class Dashboard:
    """A TensorBoard that serves a folder of runs."""

    def __init__(self, address: str):
        self.address = address

    def get(self, path: str, **parameters: str) -> Any:
        """Returns the server's answer, parsed as JSON."""
        return json.loads(self.read(path, **parameters))

    def post(self, path: str, content: Any) -> Any:
        """Returns the server's answer to a JSON body, parsed as JSON."""
        kind = {"Content-Type": "application/json"}
        url = f"{self.address}/{path}"
        request = urllib.request.Request(url, json.dumps(content).encode(), kind)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def read(self, path: str, **parameters: str) -> bytes:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.address}/{path}?{query}") as answer:
            return answer.read()


@contextlib.contextmanager
def serving(runs: Path) -> Iterator[Dashboard]:
    """Serves a folder of runs by the data server; enters the block once they are read."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={runs}", "--load_fast=true"]
    command += ["--host=localhost", "--port=0", "--reload_interval=1"]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            address = next(
                found[0] for line in lines if (found := re.search(r"http://\S+:\d+", line))
            )
            dashboard = Dashboard(address)
            expected = {path.parent for path in runs.rglob("events.out.tfevents.*")}
            until(lambda: len(dashboard.get("data/runs")) == len(expected))
            yield dashboard
        finally:
            server.terminate()


class Browser:
    """A page of TensorBoard in Chromium."""

    def __init__(self, driver: Any):
        self._driver = driver

    def open(self, address: str) -> None:
        """Opens a page, and does not wait for its content."""
        self._driver.get("about:blank")
        self._driver.get(address)

    def texts(self, selector: str) -> list[str]:
        """Returns the text of each element that matches a CSS selector."""
        script = _ALL + "return found.map(element => element.innerText || element.textContent)"
        return [text.strip() for text in self._driver.execute_script(script, selector)]

    def count(self, selector: str, condition: str = "true") -> int:
        """Counts the elements that match a CSS selector and a condition on `element`."""
        script = _ALL + f"return found.filter(element => {condition}).length"
        return self._driver.execute_script(script, selector)

    def in_frames(self, depth: int) -> None:
        """Enters the page of a plugin, `depth` frames deep."""
        for _ in range(depth):
            frame = until(lambda: self._driver.execute_script(_ALL + "return found[0]", "iframe"))
            self._driver.switch_to.frame(frame)

    def leave_frames(self) -> None:
        self._driver.switch_to.default_content()

    def screenshot(self) -> bytes:
        """Returns the window as PNG."""
        return self._driver.get_screenshot_as_png()


@contextlib.contextmanager
def browsing(width: int = 1400, height: int = 900) -> Iterator[Browser]:
    """Opens a headless Chromium whose WebGL needs no GPU."""
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (
        *("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"),
        *("use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader"),
        *("force-device-scale-factor=1", f"window-size={width},{height}"),
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def until(ask: Callable[[], _T]) -> _T:
    """Asks until an answer is not empty, and returns it; fails after a minute."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            answer = ask()
        except (WebDriverException, urllib.error.URLError):
            answer = None
        if answer or time.monotonic() > end:
            assert answer, "the page does not come to show it"
            return answer
        time.sleep(0.2)
