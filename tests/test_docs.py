"""The pages: every Python block runs as it stands; tables, links and commits name what there is.

The base model that the pages name comes from a hub on this machine: a ViT of as many heads and layers, but narrow.
"""

import dataclasses
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from adaptive_ft import AdaptiveConfig, PolicyConfig, get_adaptive_model
from adaptive_ft.build import build
from adaptive_ft.cli import run_command
from adaptive_ft.config import load_run_config
from adaptive_ft.data.sources.labelled_pictures import LabelledFile
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.trainer import Trainer
from tests.conftest import REPOSITORY
from tests.local_hub import TOKEN, local_hub

BASE = "google/vit-base-patch16-224"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
# Each page is one program: its blocks in order, at the lines where they stand.
RUN = """
import sys
import torch

for page in sys.argv[1:]:
    torch.manual_seed(0)
    names = {"pictures": torch.randn(4, 3, 224, 224), "labels": torch.tensor([3, 1, 4, 1]), "__name__": page}
    exec(compile(open(page).read(), page, "exec"), names)
    print(page, sorted(names))
"""


def blocks_of(page: Path) -> str:
    """The page with everything but its Python blocks left blank."""
    text = page.read_text(encoding="utf-8")
    kept = [match.span(1) for match in BLOCK.finditer(text)]
    if not kept:
        return ""
    edges = [0, *(edge for span in kept for edge in span), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(piece if number % 2 else "\n" * piece.count("\n") for number, piece in enumerate(pieces))


def train_on_photos(place: Path, ranks: Ranks) -> None:
    """The run "clothing" that the pages speak of, two updates long, with the pictures it has seen."""
    lines = ["path,label,split"]
    (place / "photos/train").mkdir(parents=True)
    for number, (label, color) in enumerate([("hat", "red"), ("shoes", "blue")] * 2, start=16):
        Image.new("RGB", (40, 30), color).save(place / f"photos/train/{number}.jpg")
        lines.append(f"train/{number}.jpg,{label},train")
    (place / "photos/labels.csv").write_text("\n".join(lines) + "\n")
    words = ["--pictures", str(place / "photos"), "--labels", str(place / "photos/labels.csv")]
    run_command(["shards", *words, "--output", str(place / "shards")])
    options = {
        "--name": "clothing",
        "--output_dir": str(place / "runs"),
        "--ds_config": str(REPOSITORY / "ds_configs/zero0.json"),
        "--model.name": str(place / "base"),
        "--data.train": str(place / "shards"),
        "--data.val": str(place / "shards"),
        "--max_steps": "2",
        "--per_device_train_batch_size": "2",
        "--adapt.policy.embedding_size": "8",
    }
    Trainer(build(load_run_config([word for pair in options.items() for word in pair]), ranks)).fit()


@pytest.mark.launch
def test_every_python_block_runs(tmp_path: Path, environment: dict[str, str], ranks: Ranks) -> None:
    """In a process and a folder of its own, as a reader would type it."""
    programs = {page.stem: blocks_of(page) for page in PAGES}
    programs = {name: program for name, program in programs.items() if program}
    assert {"README", "api"} <= programs.keys()
    for name, program in programs.items():
        (tmp_path / f"{name}.py").write_text(program)
    sizes = {"hidden_size": 24, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 24}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(tmp_path / "base")
    train_on_photos(tmp_path, ranks)
    with local_hub() as hub:
        hub.take(BASE, tmp_path / "base")
        own = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }
        foreign = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
        kept = {name: value for name, value in environment.items() if name not in foreign}
        done = subprocess.run(
            [sys.executable, "-c", RUN, *(f"{name}.py" for name in programs)],
            cwd=tmp_path,
            env={**kept, **own, "PYTHONPATH": f"{REPOSITORY}:{environment.get('PYTHONPATH', '')}"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"base_model: {BASE}\n" in hub.repositories["someone/adapted"]["README.md"].decode()
    merged = ViTForImageClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.num_labels == 10


@pytest.mark.parametrize("options", [AdaptiveConfig, PolicyConfig])
def test_the_tables_of_the_api_have_every_option_with_its_default(options: type) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(.*?)` \|", (REPOSITORY / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    made = options()
    for field in dataclasses.fields(options):
        value = getattr(made, field.name)
        shown = f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value).replace("'", '"')
        assert (field.name, shown) in rows


def test_the_id_of_a_picture_on_the_page_is_the_one_its_file_gets() -> None:
    page = (REPOSITORY / "docs/pictures.md").read_text(encoding="utf-8")
    assert f'"image_id": "{LabelledFile("train/17.jpg", "hat", 2, "").image_id}", "question_id": 2' in page


def test_the_counts_on_the_page_are_those_at_base_size(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device("meta"):
        vit = ViTForImageClassification(ViTConfig(num_labels=10))
    get_adaptive_model(vit, AdaptiveConfig("spottune")).print_trainable_parameters()
    assert capsys.readouterr().out in (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")


COMMIT = re.compile(r"\b(?:(?=[0-9]*[a-f])(?=[a-f]*[0-9])|(?<=commit ))[0-9a-f]{7}\b")


def test_every_commit_that_the_pages_name_is_in_the_history() -> None:
    """Numbers of a commit that nobody else has could not be made again."""

    def git(*words: str) -> list[str]:
        told = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=False)
        return told.stdout.split()

    here = (REPOSITORY / ".git").exists() and shutil.which("git") is not None
    if not here or git("rev-parse", "--is-shallow-repository") != ["false"]:
        pytest.skip("the history is not here")
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    named = {commit for page in pages for commit in COMMIT.findall(page.read_text(encoding="utf-8"))}
    known = {commit[:7] for commit in git("rev-list", "HEAD")}
    assert len(named & known) > 10
    assert not named - known


LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
LINKED_PAGES = [
    REPOSITORY / "README.md",
    *(p for room in ("docs", "recipes", "slurm") for p in (REPOSITORY / room).rglob("*.md")),
]


@pytest.mark.parametrize("page", LINKED_PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """As they stand in the clone; addresses elsewhere are not asked."""
    for place, heading in LINK.findall(prose_of(page)):
        if "://" in place:
            continue
        target = page.parent / place if place else page
        assert target.exists(), place
        if heading:
            headings = re.findall(r"^#+ (.+)$", prose_of(target), re.MULTILINE)
            assert heading in {anchor(line) for line in headings}, f"{place}#{heading}"


def prose_of(page: Path) -> str:
    """The page without its blocks of code, whose comments look like headings."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
