"""adaptive-ft shards --pictures: pictures with labels become shards, their classes the answer table."""

from pathlib import Path

from adaptive_ft.data.format.manifest import LABELLED_PICTURES, ShardInfo
from adaptive_ft.data.sources.labelled_pictures import LabelledFile, list_labelled_files


def picture_set(
    folder: Path, labels: Path | None, split: str, classes: list[str] | None
) -> tuple[list[LabelledFile], ShardInfo]:
    """The pictures of a split below `folder`, not read yet, and their set; `classes` default to the sorted labels.

    Raises:
        UserError: what listing them refuses.
    """
    files = list_labelled_files(folder, labels, split)
    info = ShardInfo(
        split=split,
        domain="real",
        feature_extractor="none",
        answer_table=classes or sorted({file.label for file in files}),
        content=LABELLED_PICTURES,
    )
    return files, info
