"""What a world is made of: the sizes a person may set, and the splits with what sets them apart."""

from dataclasses import asdict, dataclass

from adaptive_ft.data.world.attributes import MAX_OBJECTS
from adaptive_ft.errors import UserError

WORLD_VERSION = 4
"""Counted up whenever the same config gives another world."""

IMAGE_ID_SPACE = 1_000_000
QUESTION_ID_SPACE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Sizes and difficulty of one world; two worlds of equal configs are equal byte by byte."""

    seed: int = 0
    """Seed of everything that is drawn."""
    source_train_images: int = 6000
    """Pictures to pretrain on."""
    source_val_images: int = 400
    """Held-out pictures of the source domain: what pretraining learned, and what fine-tuning forgets."""
    target_train_images: int = 600
    """Pictures to fine-tune on; few, so that overfitting can be seen."""
    target_val_images: int = 400
    """Held-out pictures of the target domain, the answer priors turned round."""
    target_val_indomain_images: int = 400
    """Held-out pictures of the target domain with the answer priors of its training pictures."""
    questions_per_image: int = 5
    """Mean number of questions; a picture has one fewer, as many, or one more."""
    num_regions: int = 10
    """Boxes per picture: one per object, the others show background as a detector's false finds do."""
    prior_ratio: float = 0.5
    """Target domain: how much rarer each answer of a question type is than the next more frequent one."""
    new_pair_share: float = 0.5
    """Target domain: share of objects with a colour-shape pair that the source domain never shows."""
    disagreement: float = 0.06
    """Mean chance that one annotator gives another answer than the true one."""
    images_per_shard: int = 500
    """Pictures per tar file."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no world."""
        for split in WORLD_SPLITS:
            if not 1 <= (images := split.num_images(self)) < IMAGE_ID_SPACE:
                raise UserError(f"world: {split.images_option} is {images}; use 1 to {IMAGE_ID_SPACE - 1}.")
        if not 2 <= self.questions_per_image < QUESTION_ID_SPACE - 1:
            raise UserError(f"world: questions_per_image is {self.questions_per_image}; use 2 to 8.")
        if self.num_regions < MAX_OBJECTS:
            raise UserError(
                f"world: num_regions is {self.num_regions}; a picture has up to {MAX_OBJECTS} objects, "
                f"so use {MAX_OBJECTS} or more."
            )
        for name, low, high in (("prior_ratio", 0.05, 1), ("new_pair_share", 0, 1), ("disagreement", 0, 0.2)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"world: {name} is {getattr(self, name)}; use {low} to {high}.")
        for name, least in (("images_per_shard", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"world: {name} is {getattr(self, name)}; use {least} or more.")

    @classmethod
    def small(cls, seed: int = 0) -> "WorldConfig":
        """A world for tests, made in about a second."""
        return cls(
            seed=seed,
            source_train_images=48,
            source_val_images=16,
            target_train_images=24,
            target_val_images=16,
            target_val_indomain_images=8,
            images_per_shard=20,
        )

    def to_dict(self) -> dict[str, int | float]:
        """The fields as plain numbers, for world.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Split:
    """One of the sets of pictures; `number` makes seeds and question ids differ between splits."""

    domain: str
    part: str
    number: int
    keeps_pictures: bool

    @property
    def name(self) -> str:
        """Folder below the world, such as source/train."""
        return f"{self.domain}/{self.part}"

    def num_images(self, config: object) -> int:
        """Number of pictures that `config`, of a world or of labelled pictures, asks for."""
        return int(getattr(config, self.images_option))

    @property
    def images_option(self) -> str:
        """The option that says how many pictures it has."""
        return f"{self.domain}_{self.part}_images"

    @property
    def turns_priors(self) -> bool:
        """Whether its answers stand in the order of the training pictures' reversed, as VQA-CP's test split."""
        return self.part == "val"


SPLITS = (
    Split("source", "train", 0, keeps_pictures=False),
    Split("source", "val", 1, keeps_pictures=True),
    Split("target", "train", 2, keeps_pictures=True),
    Split("target", "val", 3, keeps_pictures=True),
)
"""The shards of source/train hold no pictures: they would be most of the bytes, and no step reads them."""

WORLD_SPLITS = (*SPLITS, Split("target", "val_indomain", 4, keeps_pictures=True))
"""Those of a world of questions: target/val turns the answer priors round, target/val_indomain does not."""
