"""The Windows registry, as far as browsers look for hosts in it."""

from __future__ import annotations

import contextlib
import sys

from native_host.places import Hive

if sys.platform == "win32":
    import winreg

    HIVES = {"user": winreg.HKEY_CURRENT_USER, "machine": winreg.HKEY_LOCAL_MACHINE}

    class WindowsRegistry:
        """Default values of keys."""

        def has(self, hive: Hive, key: str) -> bool:
            try:
                winreg.CloseKey(winreg.OpenKey(HIVES[hive], key))
            except OSError:
                return False
            return True

        def get(self, hive: Hive, key: str) -> str | None:
            try:
                return winreg.QueryValue(HIVES[hive], key) or None
            except OSError:
                return None

        def set(self, hive: Hive, key: str, value: str) -> None:
            with winreg.CreateKey(HIVES[hive], key) as made:
                winreg.SetValueEx(made, "", 0, winreg.REG_SZ, value)

        def delete(self, hive: Hive, key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                winreg.DeleteKey(HIVES[hive], key)
