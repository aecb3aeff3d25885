"""The data section of a config: where copies go."""

import os
import tempfile
from pathlib import Path

import pytest

from adaptive_ft.data.reading.choice import DataConfig, open_set
from adaptive_ft.errors import UserError


def test_a_user_without_a_name_is_called_by_number(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container; here the folder then belongs to somebody else, which names it."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"/adaptive-ft-shards-54321/\w+' belongs to another user"):
        open_set(f"pipe:cat {shard_folder}/{{}}", DataConfig())
