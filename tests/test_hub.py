"""To the hub and back, through the real client and a real HTTP server on this machine; nothing local is published.

The client reads the hub's address once, so whoever pushes or fetches is a process of its own.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTForImageClassification

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.hub import local_folder, model_card, without_local_names
from tests.local_hub import TOKEN, Hub, local_hub
from tests.models.tiny_families import TINY

# Whatever a process does, it speaks to this machine alone.
ALONE = """
import json
import os
import sys

def only_this_machine(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        assert arguments[1][0] == "127.0.0.1", arguments

sys.addaudithook(only_this_machine)

import torch
from transformers import ViTForImageClassification
from adaptive_ft import AdaptiveConfig, AdaptiveModel
from adaptive_ft.errors import UserError
from tests.local_hub import TOKEN
from tests.test_hub import adapted, answers

def refused(work):
    try:
        work()
    except UserError as error:
        return str(error)
    return "done"
"""
PUSH = f"""{ALONE}
place = os.getcwd()
bases = {{"of_hub": "someone/base", "of_relative": "models/base", "of_absolute": f"{{place}}/models/base"}}
models = {{name: adapted(ViTForImageClassification.from_pretrained(base)) for name, base in bases.items()}}
models["of_nothing"] = adapted(ViTForImageClassification(models["of_hub"].base.config.__class__(**SIZES)))
models["of_hub"].global_decisions = torch.arange(15) % 2
addresses = {{}}
for folder in (place, "/"):  # the second time the relative name is no folder of ours any more
    os.chdir(folder)
    for name, model in models.items():
        addresses[name] = model.push_to_hub(f"someone/{{name}}", token=TOKEN, private=name == "of_hub")
os.chdir(place)
torch.save({{name: answers(model) for name, model in models.items()}}, "expected.pt")
refusals = {{
    "wrong token": refused(lambda: models["of_hub"].push_to_hub("someone/new", token="hf_wrong")),
    "wrong name": refused(lambda: models["of_hub"].push_to_hub("some/one/new", token=TOKEN)),
}}
print(json.dumps({{"addresses": addresses, "refusals": refusals}}))
""".replace("SIZES", repr({**TINY["vit"].config().to_diff_dict()}))
FETCH = f"""{ALONE}
def fetch(name, base=None, **options):
    return lambda: AdaptiveModel.from_pretrained(base, name, **options)

refusals = {{
    "wrong token": refused(fetch("someone/of_hub", token="hf_wrong")),
    "private": refused(fetch("someone/of_hub")),
    "missing": refused(fetch("someone/nowhere")),
    "not adaptive": refused(fetch("someone/base")),
    "no such revision": refused(fetch("someone/of_relative", revision="v7")),
    "local base": refused(fetch("someone/of_relative")),
}}
model = fetch("someone/of_hub", token=TOKEN)()
decided = model.global_decisions.int().tolist()
found = {{"of_hub": answers(model)}}
for name in ("of_relative", "of_absolute"):
    found[name] = answers(fetch(f"someone/{{name}}", ViTForImageClassification.from_pretrained("models/base"))())
torch.save(found, "found.pt")
config = AdaptiveConfig.from_pretrained("someone/of_hub", token=TOKEN)
print(json.dumps({{"refusals": refusals, "global": decided, "strategy": config.strategy}}))
"""
# Port 9 discards; nobody listens there.
UNREACHABLE = f"""
import os
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
{ALONE}
model = adapted(ViTForImageClassification.from_pretrained("models/base"))
refusals = {{
    "fetch": refused(lambda: AdaptiveConfig.from_pretrained("someone/of_hub")),
    "push": refused(lambda: model.push_to_hub("someone/new", token=TOKEN)),
}}
print(json.dumps(refusals))
"""


def adapted(base: nn.Module) -> AdaptiveModel:
    """An adapted model that has learned something, the same whenever it is made from the same base."""
    torch.manual_seed(3)
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    model = get_adaptive_model(base, AdaptiveConfig("spottune", policy=policy)).eval()
    with torch.no_grad():
        for members in model.parameter_groups().values():
            for _, parameter in members:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def answers(model: nn.Module) -> Tensor:
    """What a model says to three pictures that are always the same."""
    torch.manual_seed(4)
    with torch.no_grad():
        logits: Tensor = model(**TINY["vit"].inputs(3)).logits
    return logits


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with local_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Path:
    """A folder where a person works, with a base in `models/base`, which the hub has as `someone/base`."""
    place = tmp_path_factory.mktemp("someones_secret_project")
    torch.manual_seed(1)
    ViTForImageClassification(TINY["vit"].config()).save_pretrained(place / "models/base")
    hub.take("someone/base", place / "models/base")
    return place


@pytest.fixture(scope="module")
def run(hub: Hub, place: Path, repository: Path, environment: dict[str, str]) -> Callable[[str, str], Any]:
    """Run a program in `place` with a client's folder of its own; the last line it prints, as JSON."""

    def run(program: str, home: str) -> Any:
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(place / home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        path = f"{repository}:{environment.get('PYTHONPATH', '')}"
        foreign = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
        kept = {name: value for name, value in environment.items() if name not in foreign}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=place,
            env={**kept, **own, "PYTHONPATH": path, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def pushed(run: Callable[[str, str], Any], hub: Hub) -> Any:
    """What the pushing process tells."""
    return run(PUSH, "pusher")


@pytest.fixture(scope="module")
def fetched(run: Callable[[str, str], Any], pushed: Any) -> Any:
    """What the fetching process tells."""
    return run(FETCH, "fetcher")


@pytest.mark.launch
def test_a_pushed_model_comes_back(pushed: Any, fetched: Any, hub: Hub, place: Path) -> None:
    """From the hub's base without naming it, from a local one by giving it: the same answers to the bit."""
    expected, found = torch.load(place / "expected.pt"), torch.load(place / "found.pt")
    assert found.keys() == {"of_hub", "of_relative", "of_absolute"}
    for name, logits in found.items():
        assert torch.equal(logits, expected[name]), name
    assert fetched["global"] == [number % 2 for number in range(15)]
    assert fetched["strategy"] == "spottune"
    assert pushed["addresses"]["of_hub"] == f"{hub.address}/someone/of_hub/commit/{hub.sha('someone/of_hub')}"
    assert {"README.md", "adaptive_config.json", "adaptive_model.safetensors"} <= hub.repositories[
        "someone/of_hub"
    ].keys()
    assert [hub.private[f"someone/{name}"] for name in ("of_hub", "of_relative")] == [True, False]
    assert ("someone/of_hub", "Upload adaptive model") in hub.commits


@pytest.mark.launch
def test_nothing_local_and_no_token_is_published(pushed: Any, fetched: Any, hub: Hub, place: Path) -> None:
    """No folder's name in any file of the hub; the token in no file at all, of the hub or of this machine."""
    names = [f"someone/{name}" for name in ("of_hub", "of_relative", "of_absolute", "of_nothing")]
    for name in names:
        for path, data in hub.repositories[name].items():
            for secret in (b"secret_project", b"models/base", str(place).encode(), TOKEN.encode()):
                assert secret not in data, (name, path)
    assert not [file for file in place.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


@pytest.mark.launch
def test_the_card_says_what_is_needed(pushed: Any, hub: Hub) -> None:
    cards = {name: hub.repositories[f"someone/{name}"]["README.md"].decode() for name in pushed["addresses"]}
    assert cards["of_hub"].startswith(
        "---\nlibrary_name: adaptive_ft\ntags: [adaptive-fine-tuning]\nbase_model: someone/"
    )
    assert "* Base model: `someone/base`\n" in cards["of_hub"]
    assert 'AdaptiveModel.from_pretrained(None, "someone/of_hub")' in cards["of_hub"]
    assert "`layer.0.attention.head.0`, `layer.0.attention.head.1`" in cards["of_hub"]
    for name in ("of_relative", "of_absolute", "of_nothing"):
        assert "base_model:" not in cards[name]
        told = "a local model, `ViTForImageClassification` with 3 layers of width 8; load it as `base`, in float32"
        assert f"* Base model: {told}\n" in cards[name]
        assert f'AdaptiveModel.from_pretrained(base, "someone/{name}")' in cards[name]


FETCHING = r"'someone/{}' is no folder \(seen from '.*'\), and the hub does not give it: "
REFUSALS = {
    "wrong token": FETCHING.format("of_hub") + r"the token is wrong or may not do this \(401\): log in .*token=\.\.\.",
    "private": FETCHING.format("of_hub") + "there is no such repository, or it is private and no token .* was given.",
    "missing": FETCHING.format("nowhere") + "there is no such repository, or it is private and no token .* was given.",
    "not adaptive": r"the hub's repository 'someone/base' is not a saved adaptive model: adaptive_config.json is .*",
    "no such revision": FETCHING.format("of_relative") + "the repository has no such revision.",
    "local base": "the base model is a ViTForImageClassification of which no folder and no hub id is known. Load .*",
}


@pytest.mark.launch
@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_fetched_is_one_sentence(case: str, fetched: Any) -> None:
    assert re.fullmatch(REFUSALS[case], fetched["refusals"][case])


@pytest.mark.launch
def test_what_cannot_be_pushed_is_one_sentence(pushed: Any, hub: Hub) -> None:
    told = r"the hub does not take 'someone/new': the token is wrong or may not do this \(401\): log in .*token=\.\.\."
    assert re.fullmatch(told, pushed["refusals"]["wrong token"])
    assert "someone/new" not in hub.repositories
    told = r"the hub does not take 'some/one/new': Repo id must be in the form .*"
    assert re.fullmatch(told, pushed["refusals"]["wrong name"])


@pytest.mark.launch
def test_a_hub_that_is_not_there_is_told_as_such(run: Callable[[str, str], Any]) -> None:
    refusals = run(UNREACHABLE, "stranded")
    told = "the hub cannot be reached and no copy is kept here: .*Connection refused"
    assert re.fullmatch(FETCHING.format("of_hub") + told, refusals["fetch"])
    assert re.fullmatch("the hub does not take 'someone/new': the hub cannot be reached: .*refused", refusals["push"])


def test_a_folder_and_what_can_only_be_one_never_ask_the_hub(tmp_path: Path) -> None:
    assert local_folder(tmp_path, ["adaptive_config.json"]) == tmp_path
    assert local_folder("./not/there", ["adaptive_config.json"]) == Path("not/there")


def test_names_of_folders_are_taken_out_at_any_depth() -> None:
    """A configuration inside another has its own note of where it was read."""
    vision = {"_name_or_path": "/home/someone/vision", "layers": 2}
    base = {"class": "Some", "name": "/home/someone/base", "config": {"_name_or_path": "x", "vision_config": vision}}
    found = without_local_names({"base_model": base, "decisions": []})
    assert found == {
        "base_model": {"class": "Some", "name": "", "config": {"vision_config": {"layers": 2}}},
        "decisions": [],
    }


def test_a_card_without_decisions_says_so() -> None:
    description = {
        "base_model": {"class": "Some", "name": "owner/name"},
        "adaptive": {"strategy": "last_2"},
        "frozen_sha256": "f00d",
        "decisions": [],
    }
    card = model_card(description, "owner/adapted", "2 layers of width 4")
    assert "* Strategy: `last_2`\n* Decisions: none, every component is constant\n" in card


def test_a_card_of_a_model_without_a_frozen_half_speaks_of_blocks_used() -> None:
    description = {
        "base_model": {"class": "Some", "name": "owner/name"},
        "adaptive": {"strategy": "blockdrop"},
        "frozen_sha256": None,
        "decisions": ["layer.0"],
    }
    card = model_card(description, "owner/adapted", "2 layers of width 4")
    assert "chooses, per input, which blocks are used and which are skipped" in card
    assert "tuned weights" not in card
    assert "hash" not in card
