"""Where a folder grows until it is whole: `<folder>.unfinished` beside it, renamed at the end."""

import re
import shutil
from pathlib import Path

from adaptive_ft.errors import UserError


def begin_beside(folder: Path, ours: re.Pattern[str]) -> Path:
    """A new, empty `<folder>.unfinished`; what an interrupted writer left there goes if every file in it is of `ours`.

    `ours` matches the path of a file below that folder, as "shard-00000.tar". `folder` must be resolved: a link to an
    empty folder is fine, but cannot be the target of a rename.

    Raises:
        UserError: `folder` is one that no rename can replace, or the unfinished one holds a file of somebody else.
    """
    if folder in (Path.cwd(), Path(folder.anchor)):
        raise UserError(f"'{folder}' cannot be made anew while the program runs in it; name a new folder.")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    inside = [path.relative_to(unfinished).as_posix() for path in sorted(unfinished.rglob("*")) if not path.is_dir()]
    foreign = [unfinished.name] if unfinished.is_file() else [name for name in inside if not ours.fullmatch(name)]
    if foreign:
        raise UserError(f"'{unfinished}' holds '{foreign[0]}', which no interrupted writer left there; move it away.")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"'{unfinished}' cannot be made: {error.strerror}; name another folder.") from None
    return unfinished
