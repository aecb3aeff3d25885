"""A database in a nameless temporary file, for what is read in one order and needed in another.

SQLite removes the file from its folder when it makes it, so that nothing is left, whatever happens to the process. It
lies where SQLITE_TMPDIR or TMPDIR say, else in /var/tmp or /tmp.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from adaptive_ft.errors import UserError

LARGEST_ID = 2**63 - 1
"""The largest whole number that the database holds."""
_CACHE_KB = 32 * 1024


def staging_database() -> sqlite3.Connection:
    """A new, empty database on the disk, of which a little is kept in memory."""
    # Whoever reads it may hand the reading to a thread, as tokenizers do in training: one at a time, but not the first.
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    # Nobody will ever read it again: neither a journal nor waiting for the disk is of use.
    for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{_CACHE_KB}"):
        database.execute(f"PRAGMA {setting}")
    return database


@contextmanager
def staging() -> Iterator[None]:
    """What fails inside for want of room, or of a folder, is told; what breaks a rule of a table passes through."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"questions are sorted in a temporary file, and it cannot be written ({error}); make room, or let TMPDIR "
            "name another folder"
        ) from None
