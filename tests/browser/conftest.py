"""A headless Chromium, Debian's: `apt-get install chromium chromium-driver`. Nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


class Browser(webdriver.Chrome):
    """Chromium, and what a test wants to know of it."""

    def look(self, width: int = 1280, scheme: str = "light") -> None:
        """As a screen of that width (CSS pixels; below 500 a phone's) in the light or the dark scheme."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def messages(self) -> list[str]:
        """What the console says since the last call: script errors, refusals of the page's policy."""
        return [entry["message"] for entry in self.get_log("browser")]

    def requests(self) -> set[str]:
        """The addresses that were asked for since the last call, without those that the page's policy refused."""
        events = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        asked = {e["params"]["requestId"]: e["params"] for e in events if e["method"] == "Network.requestWillBeSent"}
        for event in events:
            if event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp":
                asked.pop(event["params"]["requestId"], None)
        return {params["request"]["url"] for params in asked.values()}


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium is not here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Browser(options=options, service=Service(driver)) as started:
        yield started
