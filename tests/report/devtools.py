"""A headless Chromium spoken to over its DevTools pipe, for the tests that press keys and change the window."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "remote-debugging-pipe"]


class Browser:
    def __init__(self, to: int, back: int):
        self._to, self._back, self._kept, self._last, self._session = to, back, b"", 0, None
        self.complaints: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"]))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._kept:
            part = os.read(self._back, 1 << 20)
            assert part, "the browser has gone"
            self._kept += part
        message, self._kept = self._kept.split(b"\0", 1)
        return json.loads(message)

    def attach(self) -> None:
        page = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.send("Runtime.enable")
        self.send("Log.enable")

    def resize(self, width: int, height: int = 900) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path: Path) -> None:
        self.send("Page.navigate", url=path.as_uri())
        drawn = "[...document.querySelectorAll('[data-spec]')].every((plot) => plot.dataset.drawn)"
        self.run(f"new Promise((ok) => {{ const look = () => ({_LOADED} && {drawn} ? ok() : setTimeout(look, 50)); look(); }})")

    def run(self, script: str) -> Any:
        """The value of a script; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self) -> None:
        self.run("new Promise((ok) => setTimeout(ok, 400))")

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


_LOADED = "document.readyState === 'complete'"


_START = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads its commands from file descriptor 3 and answers on 4."""


@contextmanager
def browser(program: str, profile: Path):
    """A browser with one blank page; it ends with the block."""
    reads, to = os.pipe()
    back, writes = os.pipe()
    command = [program, *(f"--{flag}" for flag in FLAGS), f"--user-data-dir={profile}"]
    start = [sys.executable, "-c", _START, str(reads), str(writes), *command]
    process = subprocess.Popen(start, pass_fds=(reads, writes), stderr=subprocess.DEVNULL)
    os.close(reads)
    os.close(writes)
    try:
        spoken = Browser(to, back)
        spoken.attach()
        yield spoken
    finally:
        process.kill()
        process.wait()
        os.close(to)
        os.close(back)
