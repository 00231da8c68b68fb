"""Why a database cannot be served from."""

from __future__ import annotations


class DatabaseUnusable(Exception):
    """The message says why, `fix` what to do. The database is left as it is."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


class NewerDatabase(Exception):
    """It was written by a version of TabAgent that knows more."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"is of version {found}, this TabAgent knows {known}")

    def unusable(self, name: str) -> DatabaseUnusable:
        return DatabaseUnusable(f"{name} {self}", "install that version, or a newer one")
