"""Bytes that are not trusted, and files that appear whole or not at all."""
