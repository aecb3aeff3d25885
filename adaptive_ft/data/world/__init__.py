"""The embedded world: seeded pictures, regions, questions and annotators, made without a download."""

from adaptive_ft.data.world.config import WorldConfig
from adaptive_ft.data.world.generate import generate_world

__all__ = ["WorldConfig", "generate_world"]
