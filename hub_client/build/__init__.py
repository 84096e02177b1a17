"""A recipe and its data to a release."""

from hub_client.build.build import build, choose_programs, prepare

__all__ = ["build", "choose_programs", "prepare"]
