"""The version of archzoo: here alone, so that no module has to import the package's face to know it."""

__version__ = "0.1.0"
