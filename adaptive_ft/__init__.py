"""Adaptive fine-tuning: per input and component, a transformer uses pretrained or tuned weights."""

from adaptive_ft.adapt import AdaptiveModel, get_adaptive_model
from adaptive_ft.adaptive_config import AdaptiveConfig

__all__ = ["AdaptiveConfig", "AdaptiveModel", "get_adaptive_model"]
