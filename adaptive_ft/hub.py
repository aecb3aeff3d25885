"""The way of an adapted model to the Hugging Face Hub and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

# From there, because the client's HTTP library is httpx in version 1 and httpx2 in version 2.
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from adaptive_ft.adaptive_files import read_description, write_description
from adaptive_ft.errors import UserError
from adaptive_ft.models.bases.reading import may_be_hub_id

# What the client raises; LocalEntryNotFoundError, for a hub that cannot be reached, is an OSError.
FAILURES = (HfHubHTTPError, HFValidationError, HTTPError, OSError)
CARD = "README.md"
SHOWN_DECISIONS = 5
# What an adapted model is: with a frozen half beside the tuned one, and where the one copy of each block trains.
HALVES = (
    "a policy network chooses, per input and component, between pretrained and tuned weights. These files hold what was"
    " learned; the pretrained weights are the base model's, proved by a hash."
)
WHOLE = (
    "a policy network chooses, per input, which blocks are used and which are skipped. All blocks have been trained;"
    " these files hold their weights, the base model's class and configuration take them up."
)


def local_folder(
    source: str | Path, files: Sequence[str], *, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder `source`, or where a folder has no such name, the cached `files` of the hub's repository `source`.

    Raises UserError when there is neither, and when the repository does not have all of them.
    """
    if Path(source).is_dir() or not may_be_hub_id(str(source)):
        return Path(source)
    try:
        folder = Path(snapshot_download(str(source), allow_patterns=list(files), revision=revision, token=token))
    except FAILURES as error:
        raise UserError(
            f"'{source}' is no folder (seen from '{Path.cwd()}'), and the hub does not give it: {_reason(error)}"
        ) from error
    for name in files:
        if not (folder / name).is_file():
            raise UserError(f"the hub's repository '{source}' is not a saved adaptive model: {name} is missing.")
    return folder


def push(
    folder: Path,
    repo_id: str,
    size: str,
    *,
    private: bool | None,
    token: str | None,
    revision: str | None,
    message: str,
) -> str:
    """Upload the adapted model saved in `folder`, with a card, to the model repository `repo_id`, made where there is
    none; the commit's address.

    The base model's name goes with it where the hub knows it; the name of a local folder is taken out, also of the
    folder's `adaptive_config.json`. size: of the base model, in words.

    Raises UserError when the hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        description = read_description(folder)
        if not _is_on_hub(description["base_model"]["name"], api):
            description = without_local_names(description)
            write_description(folder, description)
        (folder / CARD).write_text(model_card(description, name, size), encoding="utf-8")
        commit = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
    except FAILURES as error:
        raise UserError(f"the hub does not take '{repo_id}': {_reason(error)}") from error
    return str(commit.commit_url)


def _is_on_hub(name: str, api: HfApi) -> bool:
    """Whether a base model's name is a repository of the hub, and not a folder here."""
    return bool(name) and may_be_hub_id(name) and not Path(name).exists() and api.repo_exists(name)


def without_local_names(description: Mapping[str, Any]) -> dict[str, Any]:
    """The content of adaptive_config.json without the folders that its base model was loaded from."""
    base = description["base_model"]
    return {**description, "base_model": {**_nameless(base), "name": ""}}


def _nameless(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` without transformers' notes, at any depth, of where a configuration was read."""
    kept = {name: value for name, value in options.items() if name != "_name_or_path"}
    return {name: _nameless(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def model_card(description: Mapping[str, Any], repo_id: str, size: str) -> str:
    """The README of a repository: what the model is, its base, strategy and decisions, and how to load it.

    description: the content of adaptive_config.json; a base without a name is a local one of that `size`.
    """
    base, decisions = description["base_model"], description["decisions"]
    name = base["name"]
    shown = ", ".join(f"`{decision}`" for decision in decisions[:SHOWN_DECISIONS])
    more = f", ... ({len(decisions)} in all)" if len(decisions) > SHOWN_DECISIONS else ""
    head = ["---", "library_name: adaptive_ft", "tags: [adaptive-fine-tuning]"]
    head += [f"base_model: {name}"] if name else []
    given = "None" if name else "base"
    local = f"a local model, `{base['class']}` with {size}; load it as `base`, in {base.get('dtype', 'its own dtype')}"
    return "\n".join(
        [
            *head,
            "---",
            f"# {repo_id}",
            "",
            f"A `{base['class']}` adapted with adaptive_ft: {HALVES if description['frozen_sha256'] else WHOLE}",
            "",
            f"* Base model: {f'`{name}`' if name else local}",
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


def _reason(error: Exception) -> str:
    """What the hub's client met, in one sentence that says what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return "its owner grants access: ask for it on the repository's page, and give the token of that account."
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private and no token that may read it was given."
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision."
    if status in (401, 403):
        return f"the token is wrong or may not do this ({status}): log in (hf auth login), or give token=..."
    if isinstance(error, LocalEntryNotFoundError):
        return f"the hub cannot be reached and no copy is kept here: {_flat(error.__cause__ or error)}"
    if isinstance(error, HTTPError) and status is None:
        return f"the hub cannot be reached: {_flat(error)}"
    return _flat(error)


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())
