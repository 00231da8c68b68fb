"""The side panel itself, beside a tab. It is no page that playwright knows: it is spoken to by CDP."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.extension.chromium import ORIGIN, Chromium

STEP_MS = 20


class SidePanel:
    """Opened as a person opens it, with a gesture, beside `tab`."""

    def __init__(self, browser: Chromium, tab: Page, timeout_s: float = 15) -> None:
        self._answers: dict[int, dict[str, Any]] = {}
        self._count, self._timeout_s = 0, timeout_s
        self._page = browser.page("README.md")
        self._cdp = browser.context.new_cdp_session(self._page)
        self._cdp.on("Target.receivedMessageFromTarget", self._hear)
        self._page.evaluate(
            "chrome.windows.getCurrent().then(({id}) => chrome.sidePanel.open({windowId: id}))"
        )
        target = self._until(self._target, "the panel did not open")
        tab.bring_to_front()
        attached = self._cdp.send("Target.attachToTarget", {"targetId": target, "flatten": False})
        self._session = attached["sessionId"]
        self.wait("document.getElementById('prompt')")

    def close(self) -> None:
        self.run("window.close()")
        self._until(lambda: self._target() is None, "the panel did not close")
        self._page.close()

    def _target(self) -> str | None:
        found = self._cdp.send("Target.getTargets")["targetInfos"]
        url = f"{ORIGIN}/side_panel.html"
        return next((t["targetId"] for t in found if t["url"] == url and not t["attached"]), None)

    def run(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it gives."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        reply = self.send("Runtime.evaluate", {**asked, "userGesture": True})
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until it is true."""
        return self._until(lambda: self.run(f"Boolean({expression})"), f"not in time: {expression}")

    def text(self, selector: str = "body") -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def ask(self, text: str) -> None:
        self.wait("!document.getElementById('prompt').disabled")
        self.run(
            f"document.getElementById('prompt').value = {json.dumps(text)};"
            "document.getElementById('composer').requestSubmit()"
        )

    def screenshot(self, path: Path) -> None:
        shot = self.send("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))

    def send(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = json.dumps({"id": number, "method": method, "params": params or {}})
        self._cdp.send(
            "Target.sendMessageToTarget", {"sessionId": self._session, "message": message}
        )
        reply = self._until(lambda: self._answers.pop(number, None), f"no answer to {method}")
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def _hear(self, event: dict[str, Any]) -> None:
        said = json.loads(event["message"])
        if "id" in said:
            self._answers[said["id"]] = said

    def _until(self, condition: Any, what: str) -> Any:
        """Events arrive while playwright waits, and not else."""
        for _ in range(int(self._timeout_s * 1000 / STEP_MS)):
            if value := condition():
                return value
            self._page.wait_for_timeout(STEP_MS)
        raise AssertionError(what)
