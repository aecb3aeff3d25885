"""Pictures and their labels are taken from a CSV or from folders; every fault is named with its line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptive_ft.data.records import ImageRecord, validate_labelled_picture, validate_record
from adaptive_ft.data.sources.labelled_pictures import list_labelled_files, read_labelled_file
from adaptive_ft.errors import UserError
from tests.data.picture_files import write_picture

CSV = """label,path,split
dress,train/a.jpg,train
"long, sleeve",train/b.png,train
dress,val/a.jpg,validation
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train/a.jpg", "train/b.png", "val/a.jpg")):
        write_picture(tmp_path / name, seed)
    (tmp_path / "labels.csv").write_text(CSV)
    return tmp_path


def read(folder: Path, labels: Path | None, split: str = "train") -> list[ImageRecord]:
    return [read_labelled_file(folder, file) for file in list_labelled_files(folder, labels, split)]


def label_of(record: ImageRecord) -> str:
    (question,) = record.questions
    (label,) = question.scores
    return label


def test_the_rows_of_a_split_become_records(folder: Path) -> None:
    records = read(folder, folder / "labels.csv")
    assert [label_of(record) for record in records] == ["dress", "long, sleeve"]
    assert [record.questions[0].question_id for record in records] == [2, 3]
    for record, name in zip(records, ("train/a.jpg", "train/b.png"), strict=True):
        assert record.picture == (folder / name).read_bytes()
        assert (record.width, record.height) == (30, 20)
        validate_record(record)
        validate_labelled_picture(record, ["dress", "long, sleeve"])


def test_ids_come_from_the_paths_and_differ(folder: Path) -> None:
    names = ["a/b.jpg", "a-b.jpg", "a b.jpg", "ä/b.jpg", f"{'deep/' * 30}x.jpg", f"{'deep/' * 31}x.jpg", "a/b.png"]
    for name in names:
        write_picture(folder / "one" / name)
    (folder / "all.csv").write_text("path,label\n" + "".join(f"one/{name},x\n" for name in names))
    records = read(folder, folder / "all.csv")
    assert records[0].image_id.startswith("one-a-b-")
    assert len({record.image_id for record in records}) == len(names)
    for record in records:
        validate_record(record)


def test_folders_name_split_and_class(folder: Path) -> None:
    for name in ("train/shoes/2.png", "train/shoes/1.jpg", "train/hat/deep/3.jpg", "train/hat/.hidden"):
        write_picture(folder / "tree" / name) if "hidden" not in name else (folder / "tree" / name).touch()
    records = read(folder / "tree", None)
    assert [label_of(record) for record in records] == ["hat", "shoes", "shoes"]
    assert [record.questions[0].question_id for record in records] == [1, 2, 3]


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints/a.png", "__MACOSX/cat/b.png", "cat/.ipynb_checkpoints/a-checkpoint.png", "cat/._a.png"]
)
def test_what_editors_and_macos_leave_behind_is_no_class_and_no_picture(name: str, folder: Path) -> None:
    write_picture(folder / "tree/train/cat/a.png")
    write_picture(folder / "tree/train" / name)
    assert [file.path for file in list_labelled_files(folder / "tree", None, "train")] == ["train/cat/a.png"]


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "no header": ("train/a.jpg,dress,train\n", "line 1: the header lacks label and path"),
    "no label column": ("path,split\ntrain/a.jpg,train\n", "line 1: the header lacks label; it must name"),
    "semicolons": ("path;label\ntrain/a.jpg;dress\n", "line 1: .* it has semicolons: separate the columns by commas"),
    "empty file": ("", "the header lacks label and path"),
    "empty label": ("path,label\ntrain/a.jpg,dress\ntrain/b.png, \n", "line 3: the label is empty"),
    "short row": ("path,label,split\ntrain/a.jpg,dress\n", "line 2: the split is empty"),
    "empty path": ("path,label\n,dress\n", "line 2: the path is empty"),
    "twice": ("path,label\ntrain/a.jpg,x\ntrain/a.jpg,y\n", r"line 3: 'train/a.jpg' stands in line 2 already"),
    "unknown split": ("path,label,split\ntrain/a.jpg,x,dev\n", "no row of the split 'train'; it has 'dev'"),
    "missing picture": ("path,label\ntrain/c.jpg,x\n", r"line 2: '.*train/c\.jpg' cannot be read \(No such file"),
    "no name": ("path,label\ntrain/\0.jpg,x\n", r"line 2: .* cannot be read \(embedded null byte"),
    "a folder": ("path,label\ntrain,x\n", r"line 2: '.*train' cannot be read \(Is a directory"),
    "other format": ("path,label\nlabels.csv,x\n", r"line 2: '.*labels\.csv' is neither a PNG nor a JPEG"),
    "cut picture": ("path,label\ntrain/cut.png,x\n", r"line 2: '.*cut\.png' is no whole picture"),
    "no text": (b"path,label\n\xff\xfe,x\n", "is no CSV in UTF-8"),
    "open quote": ('path,label\n"train/a.jpg,x\n', "is no CSV in UTF-8"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_csv_is_refused_with_its_line(name: str, folder: Path) -> None:
    content, message = FAULTS[name]
    (folder / "train/cut.png").write_bytes((folder / "train/b.png").read_bytes()[:200])
    labels = folder / "faulty.csv"
    labels.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read(folder, labels)


FAULTY_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: None, "there is no picture folder"),
    "no split": (lambda folder: write_picture(folder / "dev/hat/1.jpg"), "no split 'train'; it has 'dev'"),
    "no split but what macOS adds": (lambda folder: write_picture(folder / "__MACOSX/a.jpg"), "it has none"),
    "no class": (lambda folder: write_picture(folder / "train/1.jpg"), r"'.*train/1\.jpg' lies in no class folder"),
    "nothing": (lambda folder: (folder / "train/hat").mkdir(parents=True), "holds no pictures"),
}


@pytest.mark.parametrize("name", FAULTY_FOLDERS)
def test_faulty_folders_are_refused(name: str, tmp_path: Path) -> None:
    make, message = FAULTY_FOLDERS[name]
    make(tmp_path / "tree")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "tree", None)


def test_a_missing_csv_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read '.*none\.csv': No such file"):
        read(folder, folder / "none.csv")
