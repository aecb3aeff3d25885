"""adaptive-ft shards: questions with region features, or labelled pictures, become tar shards with a manifest."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from adaptive_ft.commands.picture_shards import picture_set
from adaptive_ft.data.answers import build_answer_table, count_outside, process_answer
from adaptive_ft.data.format.manifest import Manifest, ShardInfo
from adaptive_ft.data.format.tokenizer_files import tokenizer_hashes
from adaptive_ft.data.reading.overlap import count_shared
from adaptive_ft.data.records import PendingImage
from adaptive_ft.data.sources.features import FeatureReader, list_features
from adaptive_ft.data.sources.image_names import named_as_asked
from adaptive_ft.data.sources.image_sizes import ImageSizes
from adaptive_ft.data.sources.join import Join, QuestionsByImage, any_answer, records_without_regions
from adaptive_ft.data.sources.labelled_pictures import read_labelled_file
from adaptive_ft.data.sources.question_files import QuestionFiles
from adaptive_ft.data.sources.source_files import files_on_disk
from adaptive_ft.data.sources.unread import UnreadImage
from adaptive_ft.data.writing.bad_images import LeaveOutBadImages, StopAtBadImage
from adaptive_ft.data.writing.shard_part import Read
from adaptive_ft.data.writing.shard_plan import digest, shard_plan
from adaptive_ft.data.writing.shards import IMAGES_PER_SHARD, Writing, as_it_is, write_shards
from adaptive_ft.data.writing.unfinished import check_free
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.reading import may_be_hub_id

# The usual cut for VQA v2: answers given to at least nine training questions.
MIN_ANSWER_COUNT = 9
TOKENIZER = "bert-base-uncased"  # read by LXMERT and VL-BERT


@dataclass
class Command:
    """Convert question files and features to shards; without --features the shards hold questions only (for
    --data.blind). With --pictures: labelled pictures for image classification.
    """

    output: Path
    """New folder for the shards."""
    source: QuestionFiles = field(default_factory=QuestionFiles)
    features: tuple[Path, ...] = ()
    """Region features: files, folders or zips of LXMERT's TSV, VL-BERT's JSON, .npz, .npy or HDF5 (docs/data.md)."""
    image_sizes: tuple[Path, ...] = ()
    """JSON with width and height of each image (COCO's annotations), for features that do not tell them."""
    pictures: Path | None = None
    """Folder of JPEG or PNG pictures to classify, instead of questions: SPLIT/LABEL/NAME.jpg, or as --labels says."""
    labels: Path | None = None
    """CSV path,label[,split] with a header; paths as seen from the folder of --pictures."""
    split: str = "train"
    like: Path | None = None
    """Shards whose answer table and tokenizer these get (a validation set takes those of its training set)."""
    answers: Path | None = None
    """JSON list of the answer table (LXMERT's trainval_label2ans.json); default: the answers of at least
    min_answer_count questions, or the labels of the pictures, sorted.
    """
    min_answer_count: int = MIN_ANSWER_COUNT
    tokenizer: str | None = None
    """Hub id, or folder made by `adaptive-ft tokenizer`, which is copied; default: bert-base-uncased."""
    feature_extractor: str = "bottom-up-attention-faster-rcnn-resnet101-vg"
    """Recorded in the manifest; training refuses to mix extractors."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    images_per_shard: int = IMAGES_PER_SHARD
    allow_overlap: bool = False
    """Write a set although questions of it are in --like too (other features of the same questions)."""
    allow_missing_features: bool = False
    """Leave out questions whose image has no features instead of stopping."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What to do about an image that cannot be read or holds NaN, boxes outside the picture and the like."""
    max_bad_share: float = 0.001
    """Share of the images that --on_bad skip may leave out before it fails."""
    processes: int = 1
    """How many processes read, check and write; the shards are the same with any number."""
    verify: bool = False
    """Read every byte back before the shards get their name."""

    def run(self) -> None:
        """Read, join, write, and say what was written and what was left out."""
        check_free(self.output)
        if self.pictures is None and self.labels is None:
            self._run_on_questions()
        else:
            self._run_on_pictures()

    def _run_on_pictures(self) -> None:
        if self.pictures is None or self.features or self.source != QuestionFiles():
            raise UserError(
                "--labels belongs to --pictures, and --pictures stands alone: without --source or --features."
            )
        classes = list(Manifest.load(self.like).answer_table) if self.like is not None else None
        if self.answers is not None and classes is None:
            classes = _read_table(self.answers)
        files, info = picture_set(self.pictures, self.labels, self.split, classes)
        on_disk = {"pictures": [self.pictures / file.path for file in files]}
        labelled = digest([file.path, file.label, file.number] for file in files)
        plan = shard_plan(on_disk, info, images_per_shard=self.images_per_shard, labelled=labelled)
        manifest = self._write(files, partial(read_labelled_file, self.pictures), info, len(files), plan)
        classes_told = f"{len(manifest.answer_table)} classes: {', '.join(manifest.answer_table)}"
        print(f"{self.output}: {manifest.images} pictures, {len(manifest.shards)} shards, {classes_told}")

    def _run_on_questions(self) -> None:
        tokenizer = self._tokenizer()
        questions = self.source.read()
        if self.like is not None:
            self._compare(self.like, questions)
        images, join, read = self._images(questions)
        info = self._info(questions, tokenizer)
        manifest = self._write(images, read, info, len(questions), self._plan(info))
        print(
            f"{self.output}: {manifest.images} images, {manifest.questions} questions, {len(manifest.shards)} shards, "
            f"{len(manifest.answer_table)} answers in the table"
        )
        outside, answered = count_outside(
            (asked for listed in questions.values() for asked in listed), manifest.answer_table
        )
        if outside:
            print(f"unknown answers: {outside} of {answered} answered questions have none in the table, and score 0")
        if join is not None:
            print(
                f"left out: {join.images_without_questions} images without questions, "
                f"{join.questions_without_regions} questions without features"
            )
        if not info.answered:
            print("no question has answers: a set to predict on (eval --predictions), not to train or judge on")
        print(_told(tokenizer))

    def _compare(self, like: Path, questions: QuestionsByImage) -> None:
        """Say what the set has in common with the shards it is made like; questions must not be, unless allowed."""
        images, shared = count_shared(like, questions)
        if shared and not self.allow_overlap:
            raise UserError(
                f"{shared} of these questions are in '{like}' too: a score on one of the two would be one on training "
                "data of the other. Leave them out of one; for a set that is to take the other's place, as with other "
                "features of the same questions, give --allow_overlap."
            )
        print(f"in common with '{like}': {images} images, {shared} questions")

    def _images(self, questions: QuestionsByImage) -> tuple[Iterable[PendingImage], "Join[UnreadImage] | None", Read]:
        """The images asked about, what knows how they were joined, and what reads them."""
        if not self.features:
            return records_without_regions(questions), None, as_it_is
        read = FeatureReader(ImageSizes.read(self.image_sizes))
        regions = named_as_asked(list_features(self.features), questions)
        join = Join(regions, questions, allow_missing_regions=self.allow_missing_features)
        return join, join, read

    def _plan(self, info: ShardInfo) -> dict[str, Any]:
        """All that shards of questions follow from: files by their role, what each is called, and the other options."""
        named = {"features": self.features, "image_sizes": self.image_sizes}
        other: dict[str, object] = {}
        for option, value in vars(self.source).items():
            (named if isinstance(value, tuple) else other)[f"source.{option}"] = value
        files = {role: [file for path in paths for file in files_on_disk(path)] for role, paths in named.items()}
        called = {role: [str(path.resolve()) for path in paths] for role, paths in named.items()}
        return shard_plan(files, info, images_per_shard=self.images_per_shard, called=called, **other)

    def _write(
        self, images: Iterable[PendingImage], read: Read, info: ShardInfo, most_images: int, plan: dict[str, Any]
    ) -> Manifest:
        """Write the set that `plan` tells apart from others, with a bar that shows how far it is."""
        bad = StopAtBadImage() if self.on_bad == "fail" else LeaveOutBadImages(self.max_bad_share, most_images)
        with tqdm(total=most_images, unit="image", desc="shards") as bar:
            how = Writing(self.processes, plan, self.verify, bad, bar.update)
            manifest = write_shards(
                images, self.output, info, images_per_shard=self.images_per_shard, read=read, how=how
            )
        if bad.left_out:
            print(f"left out as bad: {bad.left_out} images, named above")
        return manifest

    def _info(self, questions: QuestionsByImage, tokenizer: str | Path | None) -> ShardInfo:
        return ShardInfo(
            split=self.split,
            domain="real",
            feature_extractor=self.feature_extractor if self.features else "none",
            answer_table=self._table(questions),
            tokenizer=tokenizer,
            feature_dtype=self.feature_dtype,
            answered=any_answer(questions),
        )

    def _table(self, questions: QuestionsByImage) -> list[str]:
        if self.like is not None:
            return list(Manifest.load(self.like).answer_table)
        if self.answers is not None:
            return _written(_read_table(self.answers))
        everyone = (question for asked in questions.values() for question in asked)
        table = build_answer_table(everyone, min_count=self.min_answer_count)
        if any_answer(questions) and not table:
            raise UserError(
                f"No answer occurs {self.min_answer_count} times: lower --min_answer_count or give --answers or --like."
            )
        return table

    def _tokenizer(self) -> str | Path | None:
        """A folder, or a hub id."""
        if self.like is not None:
            if self.tokenizer is not None:
                raise UserError("--like takes the tokenizer of those shards: leave --tokenizer out.")
            return Manifest.load(self.like).tokenizer_from(self.like)
        name = self.tokenizer or TOKENIZER
        if Path(name).is_dir():
            tokenizer_hashes(Path(name))
            return Path(name)
        if not may_be_hub_id(name):
            raise UserError(f"--tokenizer '{name}' is no folder, and it cannot be a hub id.")
        return name


def _told(tokenizer: str | Path | None) -> str:
    """Which tokenizer was recorded, and as what: a misspelt folder would pass for a hub id."""
    if tokenizer is None:
        return "tokenizer: none recorded"
    if isinstance(tokenizer, Path):
        return f"tokenizer: that of the folder '{tokenizer}', copied beside the shards"
    return f"tokenizer: '{tokenizer}', taken for a hub id, as there is no such folder"


def _read_table(path: Path) -> list[str]:
    """The answer table of a JSON list, empty and doubled entries left out."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The answer table '{path}' cannot be read: {error}") from error
    if not isinstance(content, list) or not all(isinstance(answer, str) for answer in content):
        raise UserError(f"The answer table '{path}' must be a JSON list of texts.")
    return list(dict.fromkeys(filter(None, content)))


def _written(answers: Iterable[str]) -> list[str]:
    """Answers in the official writing, each once."""
    return list(dict.fromkeys(filter(None, map(process_answer, answers))))
