"""The configuration of a run: one root made of the dataclasses that stand beside the code they configure.

Defaults < YAML (`--config FILE`) < command line, whatever the order on the line; an unknown key is an error with the
nearest name."""

import contextlib
import dataclasses
import io
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from adaptive_ft.adapt import AdaptiveConfig
from adaptive_ft.data.reading.choice import DataConfig
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.errors import UserError, nearest
from adaptive_ft.losses import PolicyLossConfig
from adaptive_ft.models.loading import ModelConfig
from adaptive_ft.strategies import canonical
from adaptive_ft.tasks.classification import PictureConfig
from adaptive_ft.tasks.vqa import VqaConfig
from adaptive_ft.tracking import TrackingConfig

PROGRAM = """Fine-tune a model adaptively: by default the embedded run, recipes/world.yaml, unless --config or --data.*
name another. Defaults < --config < command line. Besides the options below:
--config FILE.yaml   options from a file; of several, the later wins
--strategy NAME      short for --adapt.strategy
--policy NAME        short for --adapt.policy.kind
"""
SWALLOWED = ("--local_rank", "--local-rank")
ALIASES = {
    "--deepspeed_config": "--ds_config",
    "--deepspeed-config": "--ds_config",
    # The one choice this project is about, as the original's users type it.
    "--strategy": "--adapt.strategy",
    "--policy": "--adapt.policy.kind",
}


@dataclass
class RunConfig:
    """Everything a run depends on; saved as config.yaml in the run folder."""

    name: str | None = None
    """Folder of the run under output_dir; default: strategy-policy, numbered when taken."""
    output_dir: str = "runs"
    resume: Literal["none", "auto"] = "none"
    """auto: the newest whole checkpoint of this run, or a fresh start when there is none."""
    stop_file: str | None = None
    """Save a whole checkpoint and end with exit code 75 soon after this file is there; SIGTERM and SIGUSR1 ask for the
    same."""
    rank_timeout: float = 600
    """Seconds after which a rank that is frozen, or makes no step in training or evaluation, ends the whole run."""
    export_to: str | None = None
    """Write the merged plain Hugging Face model here at the end (strategies with constant decisions, or
    adapt.eval_decisions global)."""
    seed: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    ds_config: str = "ds_configs/zero2.json"
    """DeepSpeed JSON: engine matters only, numbers stay "auto"."""
    kernels: Literal["auto", "triton", "torch", "reference"] = "auto"
    """Code behind the gated layers. auto: Triton on a GPU, PyTorch on a CPU, unless ADAPTIVE_FT_KERNELS names one;
    reference: both branches in full, to compare with."""
    num_train_epochs: float = 4
    max_steps: int | None = None
    """Stop after this many updates instead of num_train_epochs."""
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    """Keep only the inputs of every layer for the backward pass and compute the layer once more there: less memory,
    about a third more time, the same updates."""
    save_steps: int | None = None
    """Checkpoints between epochs, every so many updates (one is always written at the end of an epoch)."""
    save_total_limit: int = 2
    """Whole checkpoints kept, the best one besides."""
    eval_on_start: bool = True
    """Evaluate the pretrained model before the first update."""
    model: ModelConfig = field(default_factory=ModelConfig)
    adapt: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    losses: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: VqaConfig = field(default_factory=VqaConfig)
    pictures: PictureConfig = field(default_factory=PictureConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def load_run_config(arguments: Sequence[str], *, loud: bool = True) -> RunConfig:
    """The RunConfig of a command line, with the YAML of its `--config` underneath.

    A misspelt option ends the program with exit code 2 and the nearest name (`loud=False`: silently, for the ranks
    that do not print).

    Raises:
        UserError: the YAML cannot be read or holds an unknown key or a value of a wrong type; an unknown strategy; a
            value that an option's own class refuses.
    """
    own, files = _split_config_files(_without_launcher(arguments))
    from_files = [word for file in files for word in yaml_arguments(Path(file))]
    config = _parsed(from_files + own, loud=loud)
    # A misspelt strategy must not wait for the model: the embedded run pretrains one first.
    canonical(config.adapt.strategy)
    return config


def _parsed(words: Sequence[str], *, loud: bool) -> RunConfig:
    """What the parser makes of `words`; what a class of options refuses leaves as its own sentence, without a box."""
    box = io.StringIO()
    try:
        # console_outputs=False alone still prints the box about a value of a wrong type.
        with contextlib.redirect_stderr(box):
            return tyro.cli(RunConfig, prog="train.py", description=PROGRAM, args=words, console_outputs=loud)
    except SystemExit as end:
        behind: BaseException | None = end
        while behind is not None and not isinstance(behind, UserError):
            behind = behind.__context__
        if behind is not None:
            raise behind from None
        if loud:
            sys.stderr.write(box.getvalue() + "".join(_meant_short_names(words)))
        raise


def _meant_short_names(words: Sequence[str]) -> typing.Iterator[str]:
    """A line for each misspelt short name of an option: the parser never sees those, so it cannot suggest them."""
    short = ("--config", *ALIASES)
    known = [f"--{option.name}" for option in dataclasses.fields(RunConfig)]
    for word in words:
        name = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        if name.startswith("--") and "." not in name and name not in known:
            hint = nearest(name, [*known, *short])
            if any(f"'{option}'" in hint for option in short):
                yield f"{hint.strip()} ({word})\n"


def yaml_arguments(path: Path) -> list[str]:
    """The content of a YAML file as command-line words, so that one parser checks and converts both.

    Raises:
        UserError: no such file, not YAML, not a mapping, an unknown key.
    """
    if not path.is_file():
        raise UserError(f"There is no config file '{path}'.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"The config file '{path}' is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"The config file '{path}' must hold a mapping of options, it holds a {type(content).__name__}."
        )
    return option_words(content, path)


def option_words(options: Mapping[str, Any], path: Path) -> list[str]:
    """Options as a YAML file holds them as command-line words; raises UserError for an unknown key, told of `path`."""
    return list(_words(options, RunConfig, "", path))


def dump_run_config(config: RunConfig) -> str:
    """The YAML text of a config; `--config` reads it back to an equal config."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def dotted_options(config: RunConfig) -> dict[str, Any]:
    """The single values of a config, as they stand in its YAML, under their dotted names."""
    return dotted(_plain(dataclasses.asdict(config)))


def dotted(section: Any, prefix: str = "") -> dict[str, Any]:
    """The single values of nested mappings under their dotted names; nothing for what is no mapping."""
    found: dict[str, Any] = {}
    for name, value in section.items() if isinstance(section, Mapping) else ():
        found |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _words(section: Mapping[str, Any], owner: type, prefix: str, path: Path) -> typing.Iterator[str]:
    kinds = typing.get_type_hints(owner)
    for key, value in section.items():
        if key not in kinds:
            raise UserError(f"'{path}' has an unknown key '{prefix}{key}'.{_hint(f'{prefix}{key}')}")
        kind = kinds[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(f"'{path}': '{prefix}{key}' is a section of options, not the single value {value!r}.")
            yield from _words(value, typing.cast(type, kind), f"{prefix}{key}.", path)
        elif _takes_bool(kind):
            if not isinstance(value, bool):
                raise UserError(f"'{path}': '{prefix}{key}' must be true or false, not {value!r}.")
            yield f"--{prefix}{key}" if value else f"--{prefix}no-{key.replace('_', '-')}"
        else:
            yield f"--{prefix}{key}"
            yield from [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _hint(wrong: str) -> str:
    """The option that has this name in another section, else the nearest of the whole tree."""
    known = list(_dotted(RunConfig))
    moved = [option for option in known if option.split(".")[-1] == wrong.split(".")[-1]]
    return f" Did you mean {' or '.join(map(repr, moved))}?" if moved else nearest(wrong, known)


def _dotted(owner: type, prefix: str = "") -> typing.Iterator[str]:
    """All options and sections below `owner`, as they are written on the command line."""
    for name, kind in typing.get_type_hints(owner).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            yield from _dotted(typing.cast(type, kind), f"{prefix}{name}.")


def _takes_bool(kind: Any) -> bool:
    return kind is bool or (isinstance(kind, types.UnionType) and bool in typing.get_args(kind))


def _plain(value: Any) -> Any:
    """Tuples as lists, so that the YAML is plain."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _without_launcher(arguments: Sequence[str]) -> list[str]:
    """Drop what launchers add (deepspeed: --local_rank=N) and write aliases out."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in SWALLOWED:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in SWALLOWED)):
            name, equals, value = word.partition("=")
            kept.append(ALIASES.get(name, name) + equals + value)
    return kept


def _split_config_files(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    own: list[str] = []
    files: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            file = next(words, None)
            if file is None:
                raise UserError("--config needs the path of a YAML file.")
            files.append(file)
        elif word.startswith("--config="):
            files.append(word.partition("=")[2])
        else:
            own.append(word)
    return own, files
