"""Hubs on the network, and how bytes travel."""
