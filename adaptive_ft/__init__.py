"""Adaptive fine-tuning: per input and component, a transformer uses pretrained or tuned weights."""

from adaptive_ft.adapt import AdaptiveModel, get_adaptive_model
from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.policy import PolicyConfig

__all__ = ["AdaptiveConfig", "AdaptiveModel", "PolicyConfig", "get_adaptive_model"]
