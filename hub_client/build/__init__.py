"""Train, judge and write a release from a recipe and its data."""

from hub_client.build.build import build, choose_programs, prepare

__all__ = ["build", "choose_programs", "prepare"]
