"""The runs of a comparison: which are finished, what is still to be made, and the programs that make it."""

from pathlib import Path

from adaptive_ft.comparing.jobs import Job
from adaptive_ft.comparing.recipe import PlannedRun, Recipe
from adaptive_ft.config import RunConfig, dump_run_config
from adaptive_ft.embedded import PRETRAINING, RECIPES, generated_place, is_made
from adaptive_ft.errors import UserError
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.same_run import changed_options
from adaptive_ft.whole_files import write_whole

TRAIN = RECIPES.parent / "train.py"
COST = "cost.json"
MODULE = ("-m", "adaptive_ft.cli")


def is_finished(run: PlannedRun) -> bool:
    """Whether a run has ended and been judged on everything it should be.

    Raises:
        UserError: its folder holds a run with other options, which its row would tell wrongly.
    """
    folder = RunFolder(run.folder)
    if not folder.config_file.is_file():
        return False
    changed = changed_options(folder, run.config)
    if changed:
        raise UserError(
            f"'{run.folder}' is a run with other options than the comparison's ({'; '.join(changed)}): remove the"
            " folder, or name another place with runs_dir."
        )
    try:
        return folder.summary_file.is_file() and set(run.config.data.also_val) <= set(folder.also_val())
    except UserError:  # damaged scores of further sets: the run judges them again
        return False


def training(recipe: Recipe, run: PlannedRun) -> Job:
    """train.py with the run's options in a file, which a person may start in the same way."""
    options = recipe.output_dir / "options" / f"{run.config.name}.yaml"
    options.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options, dump_run_config(run.config))
    name = str(run.config.name)
    return Job(name, (str(TRAIN), "--config", str(options)), recipe.output_dir / "logs" / f"{name}.log", recipe.ranks)


def preparation(recipe: Recipe, left: list[PlannedRun]) -> list[Job]:
    """What must be made once before runs stand on it side by side: generated data and bases, one job for each."""
    missing: dict[str, PlannedRun] = {}
    for run in left:
        data, base = generated_place(run.config), own_base(run.config)
        needed = [place for place in (data, base) if place is not None]
        if (data is not None and not data.is_dir()) or (base is not None and not is_made(base)):
            missing.setdefault(" and ".join(map(str, needed)), run)
    return [
        Job(
            f"making {what}",
            (*MODULE, "prepare", training(recipe, run).words[-1]),
            recipe.output_dir / "logs" / f"prepare-{number}.log",
            recipe.jobs * recipe.ranks,
        )
        for number, (what, run) in enumerate(missing.items(), start=1)
    ]


def own_base(config: RunConfig) -> Path | None:
    """The base of a run where the program makes it itself, None for any other."""
    return Path(config.model.name) if config.model.name in PRETRAINING else None


def measurement(recipe: Recipe) -> Job:
    """The measuring of the steps' cost on the ranks that a run has."""
    words = (*MODULE, "cost", str(recipe.path))
    return Job("cost of a step", words, recipe.output_dir / "logs/cost.log", recipe.ranks)
