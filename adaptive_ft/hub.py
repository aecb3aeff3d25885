"""The way of an adapted model to the Hugging Face Hub and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

# From there, because the client's HTTP library is httpx in version 1 and httpx2 in version 2.
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
)

from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.reading import may_be_hub_id

# What the client raises; LocalEntryNotFoundError, for a hub that cannot be reached, is an OSError.
FAILURES = (HfHubHTTPError, HFValidationError, HTTPError, OSError)
CARD = "README.md"
SHOWN_DECISIONS = 5


def local_folder(
    source: str | Path, files: Sequence[str], *, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder `source`, or where a folder has no such name, the cached `files` of the hub's repository `source`.

    Raises UserError when there is neither.
    """
    if Path(source).is_dir() or not may_be_hub_id(str(source)):
        return Path(source)
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(files), revision=revision, token=token))
    except FAILURES as error:
        raise UserError(
            f"'{source}' is no folder (seen from '{Path.cwd()}'), and the hub does not give it: {_flat(error)}"
        ) from error


def push(
    folder: Path, repo_id: str, *, private: bool | None, token: str | None, revision: str | None, message: str
) -> str:
    """Upload all of `folder` to the model repository `repo_id`, made where there is none; the commit's address.

    Raises UserError when the hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
    except FAILURES as error:
        raise UserError(f"the hub does not take '{repo_id}': {_flat(error)}") from error
    return str(commit.commit_url)


def model_card(description: Mapping[str, Any], repo_id: str) -> str:
    """The README of a repository: what the model is, its base, strategy and decisions, and how to load it.

    description: the content of adaptive_config.json.
    """
    base, decisions = description["base_model"], description["decisions"]
    name = base["name"]
    is_public = bool(name) and may_be_hub_id(name) and not Path(name).is_dir()
    shown = ", ".join(f"`{decision}`" for decision in decisions[:SHOWN_DECISIONS])
    more = f", ... ({len(decisions)} in all)" if len(decisions) > SHOWN_DECISIONS else ""
    head = ["---", "library_name: adaptive_ft", "tags: [adaptive-fine-tuning]"]
    head += [f"base_model: {name}"] if is_public else []
    given = "None" if is_public else "base"
    return "\n".join(
        [
            *head,
            "---",
            f"# {repo_id}",
            "",
            f"A `{base['class']}` adapted with adaptive_ft: a policy network"
            " chooses, per input and component, between pretrained and tuned weights. These files hold what was"
            " learned; the pretrained weights are the base model's, proved by a hash.",
            "",
            f"* Base model: {f'`{name}`' if name else 'without a public name; it is needed to load this one'}",
            f"* Strategy: `{description['adaptive']['strategy']}`",
            f"* Decisions: {shown + more if decisions else 'none, every component is constant'}",
            "",
            "```python",
            "from adaptive_ft import AdaptiveModel",
            "",
            f'model = AdaptiveModel.from_pretrained({given}, "{repo_id}")',
            "output = model(**inputs)  # output.gates [B, decisions]",
            "```",
            "",
        ]
    )


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())
