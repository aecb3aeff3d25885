"""The house is held: every module has a storey, imports point only downwards, and files stay small enough to read."""

import ast
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
KERNELS = REPOSITORY / "kernels"

# From the ground up. A module may import its own storey (without a cycle) and everything below.
STOREYS: tuple[tuple[str, ...], ...] = (
    ("errors", "whole_files", "versions"),
    ("kernels",),
    ("data",),
    ("gates", "components", "independent_policy", "refusals", "overlay"),
    ("losses", "strategies", "layers", "bypass", "low_rank", "pooled_inputs"),
    ("models", "policy"),
    ("two_branch",),
    ("hub", "adaptive_files", "policy_log", "outputs", "wrapping"),
    ("adaptive_config", "decider"),
    ("pretrained",),
    ("adapt",),
    ("distances",),
    ("adaptive_ft",),
    ("tasks",),
    ("analysis",),
    ("engine",),
    ("tracking", "meters", "supply"),
    ("throughput", "tally"),
    ("config",),
    ("run_folder", "checks"),
    ("subjects", "exported"),
    ("build",),
    ("evaluation", "saving", "same_run"),
    ("judging",),
    ("recorder", "exporting", "examining"),
    ("flipping",),
    ("measured",),
    ("divergence", "further_sets", "micro_batch"),
    ("trainer",),
    ("embedded",),
    ("comparing",),
    ("commands",),
    ("cli", "train"),
)
LEVEL = {room: level for level, storey in enumerate(STOREYS) for room in storey}

# The rooms of the largest house, from the ground up; what is not named is a module of its own on the ground floor.
DATA_STOREYS = (("format",), ("places",), ("reading", "writing"), ("sources", "world"))
DATA_LEVEL = {room: level for level, storey in enumerate(DATA_STOREYS, start=1) for room in storey}

# What a room must never know, though it may stand below: (room, rooms).
STRANGERS = {
    "kernels": {"adaptive_ft", *LEVEL} - {"kernels"},
    "data": set(LEVEL) - {"data", "errors", "whole_files"},
    "engine": set(LEVEL) - {"engine", "errors", "whole_files"},
    "tasks": {"models", "adapt", "adaptive_ft", "policy", "decider", "layers", "gates"},
    "analysis": {"models", "adapt", "adaptive_ft", "policy", "decider", "layers", "gates"},
}
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "legacy"}
MAX_FILE, MAX_FUNCTION, MAX_KERNEL, MAX_PARAMETERS = 300, 40, 80, 9


def module_name(path: Path) -> str:
    """adaptive_ft.data.reading.stream for adaptive_ft/data/reading/stream.py; a package is named as its folder."""
    root = KERNELS if path.is_relative_to(KERNELS) else REPOSITORY
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for path in sorted(
        [*REPOSITORY.glob("adaptive_ft/**/*.py"), *KERNELS.glob("adaptive_ft_kernels/**/*.py"), REPOSITORY / "train.py"]
    )
}
PYTHON_FILES = sorted([*SOURCES.values(), *KERNELS.glob("benchmarks/**/*.py"), *(REPOSITORY / "tests").glob("**/*.py")])
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PYTHON_FILES}


def room(module: str) -> str:
    """The part of the house a module belongs to: the name right below adaptive_ft."""
    first, _, rest = module.partition(".")
    if first == "adaptive_ft_kernels":
        return "kernels"
    return rest.split(".")[0] if rest else first


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("adaptive_ft", "adaptive_ft_kernels", "train")


def imported(node: ast.AST) -> Iterator[str]:
    """Our modules that an import statement names, as modules where a name is one."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names]
    else:
        names = []
    yield from (name for name in names if is_ours(name))


def imports_of(module: str) -> set[str]:
    return {name for node in ast.walk(TREES[SOURCES[module]]) for name in imported(node)}


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_has_a_storey(module: str) -> None:
    """A new room is put into STOREYS by hand, so that its place in the house is a decision."""
    assert room(module) in LEVEL, (
        f"'{module}' has no storey: write '{room(module)}' into STOREYS in tests/{Path(__file__).name}, above "
        "everything it imports and below everything that imports it."
    )


def test_no_storey_is_empty() -> None:
    """A room that is gone leaves the list too."""
    assert set(LEVEL) == {room(module) for module in SOURCES}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_only_downwards(module: str) -> None:
    """No module imports from a storey above its own."""
    upwards = {name for name in imports_of(module) if LEVEL[room(name)] > LEVEL[room(module)]}
    assert not upwards, f"'{module}' stands below {sorted(upwards)} and must not import them"


def test_rooms_of_data_import_only_downwards() -> None:
    """What shards are stands below where they lie, that below reading and writing them, and those below all sources."""
    inside = {module: module.split(".")[2] for module in SOURCES if module.startswith("adaptive_ft.data.")}
    for module, own in inside.items():
        upwards = {
            name for name in imports_of(module) if DATA_LEVEL.get(inside.get(name, ""), 0) > DATA_LEVEL.get(own, 0)
        }
        assert not upwards, f"'{module}' stands below {sorted(upwards)} and must not import them"


def test_no_import_cycle() -> None:
    """Also inside a storey and inside a package, no chain of imports comes back to where it began."""
    waiting = {module: imports_of(module) & set(SOURCES) - {module} for module in SOURCES}
    while ready := {module for module, needed in waiting.items() if not needed & set(waiting)}:
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
    assert not waiting, f"these modules import each other in a circle: {sorted(waiting)}"


@pytest.mark.parametrize("module", SOURCES)
def test_own_imports_stand_at_module_level(module: str) -> None:
    """An import inside a function would hide an upward step from a reader; one for types alone does not."""
    blocks = [TREES[SOURCES[module]], *(node for node in TREES[SOURCES[module]].body if isinstance(node, ast.If))]
    top = {name for block in blocks for node in block.body for name in imported(node)}
    assert imports_of(module) <= top


@pytest.mark.parametrize("who", STRANGERS)
def test_rooms_keep_to_themselves(who: str) -> None:
    """Data knows no task or model, the engine no model, the kernels nothing of adaptive_ft."""
    for module in SOURCES:
        if room(module) == who:
            known = {room(name) for name in imports_of(module)} & STRANGERS[who]
            assert not known, f"'{module}' must know nothing of {sorted(known)}"


def test_only_gates_and_layers_call_the_kernels() -> None:
    """All other modules reach the kernels through the layers; the build of a run names the code behind them."""
    callers = {
        module
        for module in SOURCES
        if room(module) != "kernels" and any(room(name) == "kernels" for name in imports_of(module))
    }
    assert callers == {"adaptive_ft.build", "adaptive_ft.gates", "adaptive_ft.layers"}


def test_our_kernels_folder_shadows_no_package() -> None:
    """transformers imports Hugging Face's package `kernels` where it is installed; our folder must not be it."""
    assert not (KERNELS / "__init__.py").exists()
    assert not (REPOSITORY / "tests/kernels").exists()
    found = importlib.util.find_spec("kernels")
    # Started in the checkout, python sees our folder as a package without files; anything installed wins over it.
    assert found is None or found.origin is None or not Path(found.origin).is_relative_to(KERNELS)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_files_and_functions_are_small(path: Path) -> None:
    """At most 300 lines a file, 40 a function with 9 parameters, 80 a Triton kernel; every file says what it is for."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    tree = TREES[path]
    assert ast.get_docstring(tree), "the module docstring is missing"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                assert length <= MAX_KERNEL, f"kernel {node.name} has {length} lines"
                continue
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [argument for argument in named if argument.arg not in ("self", "cls")]
            assert len(own) <= MAX_PARAMETERS, f"{node.name} has {len(own)} parameters"


def test_every_file_has_a_name_of_its_own() -> None:
    """No file or folder whose name could hold anything."""
    names = set(
        itertools.chain.from_iterable(path.relative_to(REPOSITORY).with_suffix("").parts for path in PYTHON_FILES)
    )
    assert not names & NAMELESS
