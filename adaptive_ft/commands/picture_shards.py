"""adaptive-ft shards --pictures: pictures with labels become shards, their classes the answer table."""

from pathlib import Path

from tqdm import tqdm

from adaptive_ft.data.manifest import LABELLED_PICTURES, Manifest, ShardInfo
from adaptive_ft.data.shards import write_shards
from adaptive_ft.data.sources.labelled_pictures import list_labelled_files, read_labelled_files


def write_picture_shards(
    output: Path, folder: Path, labels: Path | None, split: str, classes: list[str] | None, images_per_shard: int
) -> Manifest:
    """Write the pictures of a split below `folder` to `output`; `classes` default to the sorted labels of the split.

    Raises:
        UserError: what listing, reading or writing them refuses; a label that is none of the classes.
    """
    files = list_labelled_files(folder, labels, split)
    info = ShardInfo(
        split=split,
        domain="real",
        feature_extractor="none",
        answer_table=classes or sorted({file.label for file in files}),
        content=LABELLED_PICTURES,
    )
    records = tqdm(read_labelled_files(folder, files), total=len(files), unit="picture", desc="shards")
    manifest = write_shards(records, output, info, images_per_shard=images_per_shard)
    shards, names = len(manifest.shards), ", ".join(manifest.answer_table)
    print(f"{output}: {manifest.images} pictures, {shards} shards, {len(manifest.answer_table)} classes: {names}")
    return manifest
