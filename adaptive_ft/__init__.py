"""Adaptive fine-tuning: per input and component, a transformer uses pretrained or tuned weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_ft.adapt import AdaptiveModel, get_adaptive_model
    from adaptive_ft.adaptive_config import AdaptiveConfig
    from adaptive_ft.policy import PolicyConfig

__all__ = ["AdaptiveConfig", "AdaptiveModel", "PolicyConfig", "get_adaptive_model"]

_HOMES = {
    "AdaptiveConfig": "adaptive_config",
    "AdaptiveModel": "adapt",
    "PolicyConfig": "policy",
    "get_adaptive_model": "adapt",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is asked for: processes that handle data alone start without transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
