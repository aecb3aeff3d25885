"""adaptive-ft inspect: what can be gated in a model, what a strategy decides, and how many parameters that takes."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import yaml
from tyro.conf import Positional

from adaptive_ft.adapt import AdaptiveModel, get_adaptive_model
from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.commands.memory_table import Machine, memory_lines
from adaptive_ft.components import ComponentMap
from adaptive_ft.errors import UserError
from adaptive_ft.models import Anatomy, describe
from adaptive_ft.models.outline import outline
from adaptive_ft.policy import PolicyConfig
from adaptive_ft.tracking import quiet_libraries

Kind = Literal["light", "mirror", "learned", "fixed"]

# The networks that look at the input; the others have two numbers per decision, or none that trains.
KINDS: tuple[Kind, ...] = ("light", "mirror")
DECIDED = ("spottune", "spottune_res", "spottune_block", "blockdrop")
# The K of last_K in the table, as in the original's.
LAST_LAYERS = 4
WORDS = ("strategy", "policy")
COUNTS = ("decisions", "dead")
MILLIONS = ("trainable", "delta", "other", "head", "policy net", "frozen", "held")
COLUMNS = (*WORDS, *COUNTS, *MILLIONS)
LEGEND = (
    "Millions of parameters. trainable = delta + other (embeddings, pooler) + head + policy net; frozen: pretrained\n"
    "weights that some input may use; held: all in memory, with the pretrained half of weights that are always tuned."
)


@dataclass
class Command:
    """Print the components of a model, the decisions of a strategy and the parameters; reads config.json only."""

    model: Positional[str]
    """Hub id, or folder of a checkpoint."""
    strategy: str | None = None
    """One strategy in detail; default: a table over all."""
    frozen_layers: tuple[int, ...] = ()
    """For specific_k: 0-based numbers of the layers to freeze; in the table, adds that strategy."""
    delta_rank: int | None = None
    """Rank of the deltas, as --adapt.delta_rank; default: full deltas."""
    policy: Kind | None = None
    """One policy; default: both that look at the input."""
    memory: bool = False
    """Print instead what each rank would hold and move under every DeepSpeed config, without activations."""
    world_size: int = 1
    """memory: number of ranks."""
    micro_batches: int = 1
    """memory: accumulated in every update, as --gradient_accumulation_steps."""
    rows: int | None = None
    """memory: rows (words, regions, patches) per rank and update, for the expected efficiency."""
    tflops: float = 400.0
    """rows: what a device reaches on dense products, in 10^12 operations a second (an assumption)."""
    link: float = 25.0
    """rows: what a rank sends, in 10^9 bytes a second (an assumption)."""

    def run(self) -> None:
        """Print; raises UserError for a model, strategy or layer that does not exist."""
        quiet_libraries()
        refuse_run_folder(Path(self.model))
        if self.memory:
            print("\n".join(self._memory()))
            return
        found = outline(self.model)
        model = found.model
        anatomy = describe(model)
        names = (self.strategy,) if self.strategy else self._strategies(len(anatomy.components.layers))
        rows = list(self._adapted(names))
        backbone = type(anatomy.backbone(model)).__name__
        lines = [
            f"{self.model}: {type(model).__name__}, backbone {backbone}, {len(anatomy.components)} components",
            *((f"  only the backbone is shown and counted, not the rest of {found.part_of}",) if found.part_of else ()),
            *component_lines(anatomy.components),
            *ungated_lines(anatomy),
            *(decision_lines(rows[0].model) if self.strategy else ()),
            "",
            *table([row.cells() for row in rows]),
            LEGEND,
        ]
        print("\n".join(lines))

    def _memory(self) -> list[str]:
        (row, *_) = self._adapted((self.strategy or DECIDED[0],))
        machine = Machine(self.rows, self.tflops, self.link) if self.rows else None
        words = f"{self.model}: strategy {row.model.config.strategy}, policy {row.policy}"
        return [words, *memory_lines(row.model, self.world_size, self.micro_batches, machine)]

    def _strategies(self, num_layers: int) -> tuple[str, ...]:
        """Every strategy that needs no more than the model, in the order of the original's table."""
        # last_K with K the number of layers is standard.
        last = (f"last_{LAST_LAYERS}",) if num_layers > LAST_LAYERS else ()
        chosen = ("specific_k",) if self.frozen_layers else ()
        return (*DECIDED, "standard", "pretrained_frozen", *last, *chosen)

    def _adapted(self, strategies: Iterable[str]) -> Iterator["Adapted"]:
        """The model adapted in every way, each built anew; one row for a strategy without a policy."""
        for strategy in strategies:
            # In the table an option belongs to the rows it fits; given with another strategy by name it is an error.
            layers = self.frozen_layers if self.strategy or strategy == "specific_k" else ()
            rank = self.delta_rank if self.strategy or strategy != "blockdrop" else None
            for kind in (self.policy,) if self.policy else KINDS:
                config = AdaptiveConfig(strategy, layers, PolicyConfig(kind), delta_rank=rank)
                model = get_adaptive_model(outline(self.model).model, config)
                yield Adapted(model, kind if model.decisions else "none")
                if not model.decisions:
                    break


@dataclass(frozen=True)
class Adapted:
    """One row of the table."""

    model: AdaptiveModel
    policy: str
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", self.model.count_parameters())

    def cells(self) -> tuple[str, ...]:
        """The row in words; parameters in millions."""
        counts, tying = self.counts, self.model.tying
        # Without a policy what has a delta is always tuned: its pretrained half is held but never used alone. A delta
        # of low rank always stands on the pretrained weight.
        unused = 0 if tying.decisions or self.model.config.delta_rank else counts["delta"]
        numbers = (
            *(counts[group] for group in ("trainable", "delta", "other", "head", "policy")),
            counts["frozen"] - unused,
            counts["trainable"] + counts["frozen"],
        )
        return (
            self.model.config.strategy,
            self.policy,
            str(len(tying.decisions)),
            str(tying.live.count(False)),
            *map(millions, numbers),
        )


def refuse_run_folder(path: Path) -> None:
    """Refuse the folder of a run, which holds no model of its own, and name the base that the run started from.

    Raises:
        UserError: `path` holds a config.yaml and no config.json.
    """
    written = path / "config.yaml"
    if not written.is_file() or (path / "config.json").is_file():
        return
    try:
        base = yaml.safe_load(written.read_text(encoding="utf-8"))["model"]["name"] or path / "base"
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        base = "--model.name"
    raise UserError(f"'{path}' is a run folder, no model: give the base it started from, '{base}'.")


def millions(count: int) -> str:
    """Millions with three significant digits, and at least one decimal as in the original's table."""
    decimals = max(1, 9 - len(str(count))) if count else 1
    return f"{count / 1e6:.{decimals}f}"


def component_lines(components: ComponentMap) -> list[str]:
    """One line for each run of layers with the same components, and one for the dead columns."""
    places = {layer: [part.place for part in group] for layer, group in groupby(components, lambda part: part.layer)}
    lines = []
    for _, run in groupby(places, lambda layer: (layer.rpartition(".")[0], tuple(places[layer]))):
        first, *others = run
        span = f"{first} to {others[-1]}" if others else first
        lines.append(f"  {span}: {len(places[first])} each: {', '.join(folded(places[first]))}")
    dead = [column for column, live in enumerate(components.live) if not live]
    return [*lines, f"  dead columns: {ranges(dead)}"] if dead else lines


def decision_lines(model: AdaptiveModel) -> list[str]:
    """One line a layer with its decisions' columns and names, and one for the dead ones."""
    tying = model.tying
    if not tying.decisions:
        return [f"strategy {model.config.strategy}: no decisions"]
    lines = [f"strategy {model.config.strategy}: {len(tying.decisions)} decisions"]
    start = 0
    for layer, group in groupby(tying.decisions, lambda name: ".".join(name.split(".")[:2])):
        names = list(group)
        inside = [name.removeprefix(layer).removeprefix(".") or "the whole layer" for name in names]
        lines.append(f"  {ranges(range(start, start + len(names)))}: {layer}: {', '.join(folded(inside))}")
        start += len(names)
    dead = [column for column, live in enumerate(tying.live) if not live]
    return [*lines, f"  dead decisions: {ranges(dead)}"] if dead else lines


def ungated_lines(anatomy: Anatomy) -> list[str]:
    """One line with the weights of the layers that no gate chooses, if any; the layer's number is left open."""
    names = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in anatomy.ungated)
    return [f"  always frozen: {', '.join(names)}"] if names else []


def folded(places: Sequence[str]) -> list[str]:
    """The places with the heads of one attention as one: "attention.head.0-11"."""
    heads = re.compile(r"(.*\.head)\.(\d+)")
    folds = []
    for stem, run in groupby(places, lambda place: found[1] if (found := heads.fullmatch(place)) else place):
        numbers = [int(found[2]) for place in run if (found := heads.fullmatch(place))]
        folds.append(f"{stem}.{ranges(numbers)}" if numbers else stem)
    return folds


def ranges(numbers: Iterable[int]) -> str:
    """Rising numbers with their runs drawn together: "408-420, 422, 424"."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, the two words to the left and the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < len(WORDS) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (COLUMNS, *rows)
    ]
