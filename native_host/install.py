"""Tells browsers where the host is, and takes that back: manifests, and keys on Windows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from native_host.host_files import (
    OURS,
    as_json,
    base_python,
    read_config,
    read_object,
    write,
    write_host,
)
from native_host.places import BROWSERS, HOST_NAME, Browser, Desktop

EXTENSION_ID: Final = "bilglblhpjjkdfdpaaiabfopbicipchc"
"""Our own extension's, which the key in its manifest.json makes."""
ADDON_ID: Final = "extension@tabagent.local"
"""The same for Firefox, where the add-on says its id itself."""

CHROMIUM_ID: Final = re.compile(r"[a-p]{32}")
FIREFOX_ID: Final = re.compile(
    r"\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}|[A-Za-z0-9._-]*@[A-Za-z0-9._-]+"
)
DESCRIPTION: Final = "TabAgent: models that run on this machine"


class NoPlace(Exception):
    """This browser has no place of the wanted kind here."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be installed. `command` starts the server; the data directory is added to it."""

    data_dir: Path | None  # None: each user's own
    command: Sequence[str]
    ids: Sequence[str]
    auto_start: bool = True
    system: bool = False
    user_data_dir: Path | None = None  # of a Chromium profile
    python: str | None = None  # that runs the host


@dataclass(frozen=True, slots=True)
class Found:
    """One manifest that is there. `key` is the registry's that leads to it, on Windows."""

    browser: Browser
    file: Path
    content: dict[str, Any] | None  # None when it is no JSON object
    system: bool = False
    key: str | None = None
    profile: bool = False  # in a Chromium profile of its own

    @property
    def host(self) -> Path | None:
        path = (self.content or {}).get("path")
        return Path(path) if isinstance(path, str) else None

    @property
    def ids(self) -> list[str]:
        """Of the extensions that may call."""
        named = (self.content or {}).get(_field(self.browser))
        names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        return [name.removeprefix("chrome-extension://").rstrip("/") for name in names]


def place_of(desktop: Desktop, data_dir: Path | None) -> Path:
    """Where the host's files lie: in the data directory, or for everybody."""
    return desktop.shared_place() if data_dir is None else data_dir.absolute() / "native_host"


def install(desktop: Desktop, browsers: Sequence[Browser], wanted: Wanted) -> list[Found]:
    """Write the host, then the manifest of each browser. Raises NoPlace, OSError.

    What is there already stays allowed.
    """
    place = place_of(desktop, None if wanted.system else wanted.data_dir)
    files = [(browser, _manifest_file(desktop, browser, wanted, place)) for browser in browsers]
    config = read_config(place) or {}
    for firefox, field, form in (
        (False, "allowed_origins", "chrome-extension://{}/"),
        (True, "allowed_extensions", "{}"),
    ):
        ids = [form.format(name) for name in wanted.ids if is_firefox_id(name) == firefox]
        config[field] = _together(config.get(field), ids)
    config["manifests"] = _together(config.get("manifests"), [str(file) for _, file in files])
    config |= {
        "data_dir": None if wanted.system else str(_absolute(wanted.data_dir)),
        "command": list(wanted.command),
        "auto_start": wanted.auto_start,
    }
    if wanted.data_dir is not None and not wanted.system:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    python = wanted.python or base_python()
    host = write_host(place, config, python, windows=desktop.windows)
    done = []
    for browser, file in files:
        content = _manifest(browser, host, wanted.ids, read_object(file))
        write(file, as_json(content), 0o644)
        key = None
        if desktop.windows:
            assert desktop.registry is not None
            key = browser.registry
            desktop.registry.set("machine" if wanted.system else "user", key, str(file))
        done.append(Found(browser, file, content, wanted.system, key))
    return done


def _absolute(data_dir: Path | None) -> Path:
    assert data_dir is not None, "a host of one user has a data directory"
    return data_dir.absolute()


def _manifest_file(desktop: Desktop, browser: Browser, wanted: Wanted, place: Path) -> Path:
    if wanted.user_data_dir is not None:
        if browser.firefox or desktop.windows:
            where = "on Windows" if desktop.windows else f"in {browser.title}"
            raise NoPlace(f"a profile has no hosts of its own {where}")
        return wanted.user_data_dir.absolute() / "NativeMessagingHosts" / f"{HOST_NAME}.json"
    if desktop.windows:
        kind = "firefox" if browser.firefox else "chromium"
        return place / f"{HOST_NAME}.{kind}.json"
    file = desktop.manifest(browser, system=wanted.system)
    if file is None:
        raise NoPlace(f"{browser.title} has no place for hosts of all users")
    return file


def _manifest(
    browser: Browser, host: Path, ids: Iterable[str], there: dict[str, Any] | None
) -> dict[str, Any]:
    field = _field(browser)
    form = "{}" if browser.firefox else "chrome-extension://{}/"
    wanted = [form.format(name) for name in ids if is_firefox_id(name) == browser.firefox]
    return {
        "name": HOST_NAME,
        "description": DESCRIPTION,
        "path": str(host),
        "type": "stdio",
        field: _together((there or {}).get(field), wanted),
    }


def _field(browser: Browser) -> str:
    return "allowed_extensions" if browser.firefox else "allowed_origins"


def _together(there: Any, more: Iterable[str]) -> list[str]:
    """Both, each once, what was there first."""
    kept = [name for name in there if isinstance(name, str)] if isinstance(there, list) else []
    return list(dict.fromkeys((*kept, *more)))


def is_firefox_id(name: str) -> bool:
    return not CHROMIUM_ID.fullmatch(name)


def is_id(name: str) -> bool:
    """Whether an extension can have this id, of either kind."""
    return bool(CHROMIUM_ID.fullmatch(name) or FIREFOX_ID.fullmatch(name))


def found(desktop: Desktop, data_dir: Path | None) -> Iterator[Found]:
    """Every manifest of our name: where browsers look, and where `install` noted one."""
    seen = set()
    for browser in BROWSERS.values():
        for system in (False, True):
            file, key = _where(desktop, browser, system=system)
            if file is None or (file, key, system) in seen:
                continue  # Windows leads several browsers by one key
            if file.exists() or key is not None:
                seen.add((file, key, system))
                yield Found(browser, file, read_object(file), system, key)
    config = read_config(place_of(desktop, data_dir)) or {}
    noted = config.get("manifests")
    files = {file for file, _, _ in seen}
    for name in noted if isinstance(noted, list) else ():
        file = Path(str(name))
        if file not in files and file.exists():
            files.add(file)
            yield Found(BROWSERS["chromium"], file, read_object(file), profile=True)


def _where(desktop: Desktop, browser: Browser, *, system: bool) -> tuple[Path | None, str | None]:
    if not desktop.windows:
        return desktop.manifest(browser, system=system), None
    assert desktop.registry is not None
    said = desktop.registry.get("machine" if system else "user", browser.registry)
    return (None, None) if said is None else (Path(said), browser.registry)


def uninstall(
    desktop: Desktop, data_dir: Path | None, browsers: Sequence[Browser], *, profiles: bool
) -> tuple[list[Path], list[Path]]:
    """Remove our manifests of these browsers, and the host with the last of them. Raises OSError.

    `profiles`: also those of Chromium profiles. (What was removed, what of our name was left
    because it leads to another host.)
    """
    place = place_of(desktop, data_dir)
    keys = {browser.registry for browser in browsers}
    removed, left, kept = [], [], []
    for one in list(found(desktop, data_dir)):
        named = one.browser in browsers or one.key in keys
        if not named or (one.profile and not profiles):
            kept.append(one)
        elif not _is_ours(one, place):
            left.append(one.file)
        else:
            if one.key is not None:
                assert desktop.registry is not None
                desktop.registry.delete("machine" if one.system else "user", one.key)
            removed.append(one.file)
    removed = [file for file in dict.fromkeys(removed) if file not in {one.file for one in kept}]
    for file in removed:
        file.unlink(missing_ok=True)
    if not any(_is_ours(one, place) for one in kept):
        for name in OURS:
            file = place / name
            if file.exists():
                file.unlink()
                removed.append(file)
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
            removed.append(place)
    return removed, left


def _is_ours(one: Found, place: Path) -> bool:
    """Whether it leads to our host; a broken one only where it was noted as ours."""
    if one.host is not None:
        return one.host.parent == place
    config = read_config(place) or {}
    return str(one.file) in (config.get("manifests") or ())
