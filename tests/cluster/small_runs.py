"""A tiny adapted LXMERT under every DeepSpeed config, for tests that look at what its ranks hold and say.

Its hidden layers have the same number of samples on every rank; every parameter but the policy's gets a gradient.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptive_ft import AdaptiveConfig, AdaptiveModel, PolicyConfig, get_adaptive_model
from adaptive_ft.engine.deepspeed_engine import Engine
from adaptive_ft.engine.ds_config import EngineNumbers, fill_ds_config, read_ds_config
from adaptive_ft.engine.optimizer import OptimConfig
from adaptive_ft.engine.ranks import Ranks
from tests.models.tiny_families import LXMERT

SAMPLES = 2
OPTIM = OptimConfig(learning_rate=1e-2, warmup_ratio=0.0)
# Small enough for a tiny model: parameters of more than 30 elements are gathered, the bucket holds all gradients.
ZERO = {"reduce_bucket_size": 20_000, "stage3_param_persistence_threshold": 30}


def make_model() -> AdaptiveModel:
    """With all gate gradients: the samples of a share are other ones on other numbers of ranks."""
    torch.manual_seed(0)
    policy = PolicyConfig(embedding_size=4, hidden_size=8)
    return get_adaptive_model(LXMERT.build(), AdaptiveConfig("spottune", policy=policy, gate_grad_fraction=1))


def ds_config_of(name: str, precision: str, world_size: int, accumulation: int = 1, **zero: Any) -> dict[str, Any]:
    source = Path(f"ds_configs/{name}.json")
    content = read_ds_config(source)
    content["zero_optimization"].update({**ZERO, **zero})
    return fill_ds_config(content, EngineNumbers(SAMPLES, accumulation, world_size, 1.0, precision), source)


def make_engine(model: AdaptiveModel, ds_config: dict[str, Any], ranks: Ranks) -> Engine:
    return Engine(model, model.parameter_groups(), OPTIM, ds_config, ranks, total_updates=100)


def inputs_of(engine: Engine) -> dict[str, Tensor]:
    """Samples of this rank's own."""
    torch.manual_seed(1 + engine.ranks.rank)
    given = LXMERT.inputs(SAMPLES)
    return {name: value.to(engine.dtype) if name.startswith("visual") else value for name, value in given.items()}


def loss_of(engine: Engine) -> Tensor:
    output = engine(**inputs_of(engine))
    parts = (output[name] for name in ("pooled_output", "language_output", "vision_output"))
    total: Tensor = torch.stack([part.float().square().mean() for part in parts]).sum()
    return total
