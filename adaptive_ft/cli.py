"""`adaptive-ft COMMAND ...`: everything around a training run; one command a module in `commands`."""

import importlib
import os
import sys

import tyro

from adaptive_ft.errors import UserError, nearest

COMMANDS = {
    "world": "generate the embedded image-text world",
    "pictures": "generate labelled pictures to classify",
    "tokenizer": "train a tokenizer on the questions of a split",
    "shards": "convert question files and region features, or labelled pictures, to shards",
    "resplit": "divide real questions so that answer priors differ between training and validation, as in VQA-CP",
    "merge": "make one shard set of several of one kind",
    "reshard": "cut the samples of a shard set into other shards",
    "verify": "read every byte of a shard set and compare it with its manifest",
    "eval": "answer the questions of any shard set with a trained run",
    "export": "write a trained run as a plain Hugging Face model, or as an adaptive one",
    "table": "print the strategy table of finished runs",
    "prepare": "make the generated data and the base that runs need, before several start at once",
    "compare": "run several strategies and seeds, and write the table of them",
    "cost": "measure what a training step costs for each row of a comparison",
    "report": "write one HTML page about runs: scores, curves, usage, examples",
    "invariance": "measure which invariances of a pretrained model a fine-tuned one has kept",
    "flips": "measure how well the gate gradient foretells what flipping a decision does to the loss",
    "inspect": "print the components of a model, a strategy's decisions, and the parameters",
}
HELP_WORDS = ("-h", "--help")


def main() -> None:
    """Entry point of the console script: exit code 0, or 2 with one sentence for a mistake of the user."""
    # The tokenizers library warns, once per process, when a thread pool it used is forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        run_command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells tell it


def run_command(arguments: list[str]) -> None:
    """Run the command named by the first word with the options in the others.

    Raises:
        UserError: an unknown command, or what the command itself raises.
    """
    if not arguments or arguments[0] in HELP_WORDS:
        print(overview())
        return
    name, *options = arguments
    if name not in COMMANDS:
        raise UserError(f"There is no command '{name}'.{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}.")
    # Only the module asked for is imported: DeepSpeed alone, which eval needs, takes two seconds.
    command = importlib.import_module(f"adaptive_ft.commands.{name}").Command
    tyro.cli(command, prog=f"adaptive-ft {name}", args=options).run()


def overview() -> str:
    """One line per command."""
    lines = [f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        ["usage: adaptive-ft COMMAND [options]    (adaptive-ft COMMAND --help for its options)", "", *lines]
    )


if __name__ == "__main__":
    main()
