"""`adaptive-ft world | tokenizer | shards | verify | eval | table`: everything around a training run."""

import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from adaptive_ft.commands.evaluate import Evaluate
from adaptive_ft.commands.shards import Shards
from adaptive_ft.commands.table import Table
from adaptive_ft.commands.tokenizer import Tokenizer
from adaptive_ft.commands.verify import Verify
from adaptive_ft.commands.world import World
from adaptive_ft.errors import UserError

COMMANDS: dict[str, Callable[..., Any]] = {
    "world": World,
    "tokenizer": Tokenizer,
    "shards": Shards,
    "verify": Verify,
    "eval": Evaluate,
    "table": Table,
}


def main() -> None:
    """Entry point of the console script: exit code 0, or 2 with one sentence for a mistake of the user."""
    # The tokenizers library warns, once per process, when a thread pool it used is forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="adaptive-ft", description=__doc__)
        command.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
