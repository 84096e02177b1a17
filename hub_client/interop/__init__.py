"""Folders that scArches and scvi-tools saved, in and out; read as data and never executed."""
