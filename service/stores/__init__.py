"""The stores: where tasks live. This package holds the only SQL."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from service.errors import ConfigurationError
from service.settings import Settings
from service.table import Cursor, Extent, NewTask, Page, Query, Task

__all__ = ["Store", "open_store"]


class Store(Protocol):
    """A table of tasks.

    Each method holds a thread or a connection only until it returns; none leaves a
    transaction or a cursor open. All raise StoreError when the database fails.
    """

    async def extent(self) -> Extent:
        """The highest id and the newest `seq`, read at one instant."""

    async def read_pages(self, query: Query, cursor: Cursor, count: int) -> list[Page]:
        """One to `count` consecutive pages of `cursor.span` ids each, behind `cursor.after`.

        A page's data is at most `page_bytes` long, or one row of at most `row_bytes`: the
        first page shrinks until it is, and the last one is the one before one that is not.
        Raises RowTooLargeError, naming the id, when a single row is longer than that.
        """

    async def create(self, tasks: Sequence[NewTask]) -> list[Task]:
        """Store all tasks or none; durable when it returns."""

    async def read(self, task_id: int) -> Task:
        """One task, or NotFoundError."""

    async def update(self, task_id: int, changes: Mapping[str, str | int]) -> Task:
        """Set the named columns of one task; durable when it returns."""

    async def delete(self, task_id: int) -> None:
        """Delete one task and leave a tombstone; durable when it returns."""

    async def fill(self, tasks: Iterable[NewTask]) -> None:
        """Append many tasks in one go; all are stored or none."""

    async def ping(self) -> None:
        """Return when the database answers."""

    async def close(self) -> None:
        """Finish what is running and let go of the database."""


async def open_store(settings: Settings) -> Store:
    """The store that `settings.database` names, its schema made or checked.

    Raises ConfigurationError when the address is not understood or the database is unfit.
    """
    scheme, separator, _ = settings.database.partition("://")
    if separator and scheme == "sqlite":
        from service.stores.sqlite import SQLiteStore

        return await SQLiteStore.open(settings)
    raise ConfigurationError(
        f"database {settings.database!r}: no store is called {scheme!r}",
        hint="use sqlite:///file.db (relative) or sqlite:////path/to/file.db (absolute)",
    )
