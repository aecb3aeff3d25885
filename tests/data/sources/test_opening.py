"""Source files, plain or packed, whatever they are called."""

import gzip
from pathlib import Path

import pytest

from adaptive_ft.data.sources.opening import open_source, read_json
from adaptive_ft.errors import UserError


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.gzip"])
def test_the_first_bytes_decide(name: str, tmp_path: Path) -> None:
    plain, packed = tmp_path / f"plain-{name}", tmp_path / f"packed-{name}"
    plain.write_bytes(b'{"a": 1}')
    packed.write_bytes(gzip.compress(b'{"a": 1}'))
    for path in (plain, packed):
        with open_source(path) as file:
            assert file.read() == b'{"a": 1}'
        assert read_json(path) == {"a": 1}


def test_missing_and_cut_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        open_source(tmp_path / "absent.json")
    path = tmp_path / "cut.json"
    path.write_bytes(gzip.compress(b'{"a": 1}' * 100)[:-12])
    with pytest.raises(UserError, match="is not readable JSON"):
        read_json(path)
