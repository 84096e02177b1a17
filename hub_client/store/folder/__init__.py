"""Hubs and releases in folders."""
