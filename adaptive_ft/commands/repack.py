"""What merge and reshard have in common: samples of finished shard sets go into a new one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.sources.packed import PackedImage, PackedReader, files_of
from adaptive_ft.data.writing.shard_plan import shard_plan
from adaptive_ft.data.writing.shards import Writing, write_shards


class Repacking(Protocol):
    """The options that say how a set is written anew."""

    output: Path
    images_per_shard: int
    processes: int
    verify: bool


def repack(
    options: Repacking,
    sets: Mapping[Path, Manifest],
    images: Iterable[PackedImage],
    info: ShardInfo,
) -> None:
    """Write `images` of `sets` to a new set as `options` say, go on where an interrupted run stopped, and tell.

    Raises UserError for damage, and for images or questions that are in two sets.
    """
    files = (file for folder, manifest in sets.items() for file in files_of(folder, manifest))
    plan = shard_plan({"sets": files}, info, images_per_shard=options.images_per_shard)
    with tqdm(total=sum(manifest.images for manifest in sets.values()), unit="image", desc="shards") as bar:
        written = write_shards(
            images,
            options.output,
            info,
            images_per_shard=options.images_per_shard,
            read=PackedReader(),
            how=Writing(options.processes, plan, options.verify, progress=bar.update),
        )
    print(f"{options.output}: {written.images} images, {written.questions} questions, {len(written.shards)} shards")
