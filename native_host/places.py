"""Where each browser looks for native-messaging hosts, by system."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

HOST_NAME: Final = "tabagent.host"
Hive = Literal["user", "machine"]


class Registry(Protocol):
    """What of the Windows registry is needed: default values of keys."""

    def has(self, hive: Hive, key: str) -> bool: ...
    def get(self, hive: Hive, key: str) -> str | None: ...
    def set(self, hive: Hive, key: str, value: str) -> None: ...
    def delete(self, hive: Hive, key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Browser:
    """Places are relative: `linux` to the user's configuration directory (Firefox: to the home),
    `mac` to `Application Support`, the `_system` ones to the root; empty where there is none.
    """

    name: str
    title: str
    linux: str
    linux_system: str
    mac: str
    mac_system: str
    registry: str
    programs: tuple[str, ...]
    program_key: str
    firefox: bool = False


_FIREFOX: Final = "Mozilla/NativeMessagingHosts"
_SOFTWARE: Final = "Software\\{}\\NativeMessagingHosts\\" + HOST_NAME

BROWSERS: Final = {
    browser.name: browser
    for browser in (
        Browser(
            "chrome",
            "Google Chrome",
            "google-chrome",
            "etc/opt/chrome/native-messaging-hosts",
            "Google/Chrome",
            "Library/Google/Chrome/NativeMessagingHosts",
            _SOFTWARE.format("Google\\Chrome"),
            ("google-chrome", "google-chrome-stable"),
            "Software\\Google\\Chrome",
        ),
        Browser(
            "chromium",
            "Chromium",
            "chromium",
            "etc/chromium/native-messaging-hosts",
            "Chromium",
            "Library/Application Support/Chromium/NativeMessagingHosts",
            _SOFTWARE.format("Chromium"),
            ("chromium", "chromium-browser"),
            "Software\\Chromium",
        ),
        Browser(
            "edge",
            "Microsoft Edge",
            "microsoft-edge",
            "etc/opt/edge/native-messaging-hosts",
            "Microsoft Edge",
            "Library/Microsoft/Edge/NativeMessagingHosts",
            _SOFTWARE.format("Microsoft\\Edge"),
            ("microsoft-edge", "microsoft-edge-stable"),
            "Software\\Microsoft\\Edge",
        ),
        # Brave and Vivaldi read Chrome's keys on Windows, and document no place for everybody.
        Browser(
            "brave",
            "Brave",
            "BraveSoftware/Brave-Browser",
            "",
            "BraveSoftware/Brave-Browser",
            "",
            _SOFTWARE.format("Google\\Chrome"),
            ("brave", "brave-browser"),
            "Software\\BraveSoftware\\Brave-Browser",
        ),
        Browser(
            "vivaldi",
            "Vivaldi",
            "vivaldi",
            "",
            "Vivaldi",
            "",
            _SOFTWARE.format("Google\\Chrome"),
            ("vivaldi", "vivaldi-stable"),
            "Software\\Vivaldi",
        ),
        Browser(
            "firefox",
            "Firefox",
            ".mozilla/native-messaging-hosts",
            "usr/lib/mozilla/native-messaging-hosts",
            _FIREFOX,
            f"Library/Application Support/{_FIREFOX}",
            _SOFTWARE.format("Mozilla"),
            ("firefox", "firefox-esr"),
            "Software\\Mozilla\\Mozilla Firefox",
            firefox=True,
        ),
    )
}


def _configuration() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _registry() -> Registry | None:
    if sys.platform == "win32":
        from native_host.registry import WindowsRegistry

        return WindowsRegistry()
    return None


@dataclass(frozen=True, slots=True)
class Desktop:
    """All that differs between one user's system and another's."""

    system: str = sys.platform
    home: Path = field(default_factory=Path.home)
    configuration: Path = field(default_factory=_configuration)
    root: Path = Path("/")
    registry: Registry | None = field(default_factory=_registry)
    which: Callable[[str], str | None] = shutil.which

    @property
    def windows(self) -> bool:
        return self.system == "win32"

    def manifest(self, browser: Browser, *, system: bool = False) -> Path | None:
        """Where this browser looks for ours; None where the registry says it, or it never does."""
        if self.windows:
            return None
        if self.system == "darwin":
            support = self.home / "Library/Application Support"
            own = support / browser.mac / ("" if browser.firefox else "NativeMessagingHosts")
            shared = browser.mac_system
        else:
            own = (
                self.home / browser.linux
                if browser.firefox
                else self.configuration / browser.linux / "NativeMessagingHosts"
            )
            shared = browser.linux_system
        if not system:
            return own / f"{HOST_NAME}.json"
        return self.root / shared / f"{HOST_NAME}.json" if shared else None

    def has(self, browser: Browser) -> bool:
        """Whether this browser is here: it has been used, or its program is found."""
        if self.windows:
            registry = self.registry
            return registry is not None and (
                registry.has("user", browser.program_key)
                or registry.has("machine", browser.program_key)
            )
        manifest = self.manifest(browser)
        assert manifest is not None
        if manifest.parent.parent.is_dir():
            return True
        if self.system == "darwin":
            apps = [self.root / "Applications", self.home / "Applications"]
            return any((place / f"{browser.title}.app").exists() for place in apps)
        return any(self.which(program) for program in browser.programs)

    def shared_place(self) -> Path:
        """Where a host lies that serves every user of this machine."""
        if self.windows:
            return Path(os.environ.get("PROGRAMDATA", "C:\\ProgramData")) / "TabAgent/native_host"
        if self.system == "darwin":
            return self.root / "Library/Application Support/TabAgent/native_host"
        return self.root / "usr/local/lib/tabagent/native_host"
