"""`tabagent native`: the browser's host installed, removed, and shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from native_host.host_files import read_config
from native_host.install import (
    ADDON_ID,
    EXTENSION_ID,
    Found,
    NoPlace,
    Wanted,
    found,
    is_firefox_id,
    is_id,
    place_of,
)
from native_host.install import (
    install as write_all,
)
from native_host.install import (
    uninstall as remove_all,
)
from native_host.places import BROWSERS, Browser, Desktop
from tabagent.commands.extension_folder import extension_folder
from tabagent.commands.failure import USAGE, CommandFailed
from tabagent.config import Settings

OURS: Final = "TabAgent"
# The path is not searched from the current directory, which is the browser's.
SERVE: Final = (sys.executable, "-P", "-m", "tabagent", "serve")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `install` was asked for."""

    browser: str
    ids: Sequence[str]
    system: bool = False
    user_data_dir: Path | None = None
    auto_start: bool = True
    approve: bool = True


def install(settings: Settings, wishes: Wishes, desktop: Desktop | None = None) -> None:
    """Write host and manifests, and say where; then let the extensions in."""
    desktop = desktop or Desktop()
    browsers = _chosen(desktop, wishes)
    ids = _ids(browsers, wishes.ids)
    wanted = Wanted(
        None if wishes.system else settings.data_dir,
        SERVE,
        ids,
        auto_start=wishes.auto_start,
        system=wishes.system,
        user_data_dir=wishes.user_data_dir,
    )
    if wishes.system:
        os.umask(0o022)  # everybody has to read it, whoever installs it
    try:
        done = write_all(desktop, browsers, wanted)
    except NoPlace as error:
        raise CommandFailed(str(error), "install for each user: leave --system out") from error
    except OSError as error:
        hint = "as an administrator: sudo" if wishes.system else "tabagent doctor --browser"
        raise CommandFailed(
            f"{error.filename} cannot be written: {error.strerror}", hint
        ) from error
    for one in done:
        typer.echo(f"{one.browser.title} knows the host by {one.file}")
    typer.echo(f"The host lies in {place_of(desktop, wanted.data_dir)}")
    if folder := extension_folder():
        typer.echo(f"The extension, to be loaded unpacked: {folder}")
    if not wishes.auto_start:
        typer.echo("Browsers do not start the server: tabagent serve")
    if wishes.system:
        typer.echo(f"Each user lets the extension in: tabagent clients approve {ids[0]}")
    elif wishes.approve:
        _approve(settings, ids)
    typer.echo("If a browser finds no host: tabagent doctor --browser")


def _chosen(desktop: Desktop, wishes: Wishes) -> list[Browser]:
    if wishes.browser != "all":
        browser = named(wishes.browser)
        if not desktop.has(browser) and wishes.user_data_dir is None:
            typer.echo(f"{browser.title} is not found here; it is told all the same.")
        return [browser]
    if wishes.user_data_dir is not None:
        return [BROWSERS["chromium"]]
    browsers = [browser for browser in BROWSERS.values() if desktop.has(browser)]
    if not browsers:
        names = ", ".join(BROWSERS)
        raise CommandFailed("no browser is found", f"name one: --browser {names}")
    typer.echo(f"Found: {', '.join(browser.title for browser in browsers)}")
    if not wishes.system:
        return browsers
    able = [
        browser for browser in browsers if desktop.windows or desktop.manifest(browser, system=True)
    ]
    for browser in browsers:
        if browser not in able:
            typer.echo(f"{browser.title} has no place for hosts of all users: left out")
    return able


def named(name: str) -> Browser:
    if name not in BROWSERS:
        raise CommandFailed(f"there is no browser {name}", ", ".join((*BROWSERS, "all")), USAGE)
    return BROWSERS[name]


def _ids(browsers: Sequence[Browser], given: Sequence[str]) -> list[str]:
    """Those that were given, and our own for the kinds of browser that none was given for."""
    for name in given:
        if not is_id(name):
            says = "32 letters a to p; Firefox: name@domain or a {uuid}"
            raise CommandFailed(f"{name} is not the id of an extension", says, USAGE)
    ids = list(given)
    for firefox, own in ((False, EXTENSION_ID), (True, ADDON_ID)):
        used = any(browser.firefox == firefox for browser in browsers)
        if used and not any(is_firefox_id(name) == firefox for name in given):
            ids.append(own)
    return ids


def _approve(settings: Settings, ids: Sequence[str]) -> None:
    """Let them in as clients. Who is in already keeps its access."""
    from tabagent.commands.clients import gateway
    from tabagent.parameters.extensions import origin_of

    try:
        with gateway(settings) as (ask, _):
            clients = {row["origin"]: row for row in ask("list_clients", {})["data"]}
            for name in ids:
                origin = origin_of(name)
                client = clients.get(str(origin))
                already = "" if client is None else " already"
                if client is None:
                    called = {"name": OURS} if name in (EXTENSION_ID, ADDON_ID) else {}
                    asked = {"origin": origin, "access": "user", **called}
                    client = ask("approve_client", asked)
                typer.echo(
                    f"Approved{already}: {name}, with {client['access']} access. "
                    f"Take it back: tabagent clients revoke {name}"
                )
    except CommandFailed as error:
        hint = f"let it in later: tabagent clients approve {ids[0]}"
        raise CommandFailed(f"the host is installed, but {error}", hint, error.code) from error


def uninstall(
    settings: Settings, browser: str, *, system: bool, desktop: Desktop | None = None
) -> None:
    """Remove what is ours, and say what that was."""
    desktop = desktop or Desktop()
    browsers = list(BROWSERS.values()) if browser == "all" else [named(browser)]
    data_dir = None if system else settings.data_dir
    try:
        removed, left = remove_all(desktop, data_dir, browsers, profiles=browser == "all")
    except OSError as error:
        raise CommandFailed(
            f"{error.filename} cannot be removed: {error.strerror}",
            "as an administrator: sudo" if system else "",
        ) from error
    for file in removed:
        typer.echo(f"removed {file}")
    for file in left:
        typer.echo(f"left {file}: it leads to another host")
    if not removed:
        typer.echo("Nothing of ours was there.")
        return
    typer.echo("Extensions that were let in are still: tabagent clients list")


def status(settings: Settings, desktop: Desktop | None = None) -> None:
    """Each browser that is here or was told of the host."""
    desktop = desktop or Desktop()
    manifests = list(found(desktop, settings.data_dir))
    for browser in BROWSERS.values():
        own = [one for one in manifests if one.browser is browser]
        if not own and desktop.has(browser):
            typer.echo(
                f"{browser.title}: not told; tabagent native install --browser {browser.name}"
            )
        for one in own:
            typer.echo(f"{browser.title}: {_says(one)}")
    place = place_of(desktop, settings.data_dir)
    config = read_config(place)
    if config is None:
        typer.echo(f"No host in {place}")
    else:
        starts = "started by browsers" if config.get("auto_start") else "not started by browsers"
        typer.echo(f"Host: {place}; the server is {starts}")
    typer.echo("What is wrong, and how to mend it: tabagent doctor --browser")


def _says(one: Found) -> str:
    if one.content is None:
        return f"{one.file} cannot be read"
    everybody = " (for everybody)" if one.system else ""
    return f"{', '.join(one.ids) or 'nobody'} may call {one.host}, says {one.file}{everybody}"
