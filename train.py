"""Fine-tune a model adaptively: parse, build, fit.

deepspeed train.py --ds_config ds_configs/zero2.json            one rank per GPU, or one on a CPU
deepspeed --num_gpus 2 train.py --ds_config ds_configs/zero2.json
torchrun --nproc-per-node 2 train.py --config recipes/lxmert_vqa.yaml
accelerate launch train.py --strategy SpotTune_Block
python train.py --help
"""

import sys

from adaptive_ft.build import build
from adaptive_ft.checks import check_options
from adaptive_ft.config import RunConfig, load_run_config
from adaptive_ft.embedded import prepare_embedded, with_embedded_recipe
from adaptive_ft.engine.ranks import Ranks, run_ranks
from adaptive_ft.engine.watchdog import Watchdog
from adaptive_ft.recorder import show_outcome
from adaptive_ft.tracking import quiet_libraries
from adaptive_ft.trainer import Trainer


def main(ranks: Ranks) -> None:
    """One run from the command line."""
    quiet_libraries()
    config = ranks.together(lambda: read_options(loud=ranks.is_main))
    with Watchdog(ranks, config.rank_timeout) as watch:
        prepare_embedded(config, ranks, watch)
        run = build(config, ranks, watch)
        Trainer(run).fit()
        # All ranks wait for rank 0, which may still tell a tracker: srun ends a job a minute after its first rank.
        ranks.on_main(lambda: show_outcome(run.folder.path))


def read_options(*, loud: bool) -> RunConfig:
    """What the command line asks for."""
    config = load_run_config(with_embedded_recipe(sys.argv[1:]), loud=loud)
    check_options(config)
    return config


if __name__ == "__main__":
    run_ranks(main)
