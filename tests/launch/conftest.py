"""The fixture of stand-ins for this folder."""

from tests.launch.stand_ins import desk

__all__ = ["desk"]
