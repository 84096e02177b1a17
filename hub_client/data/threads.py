"""The number of threads that PyTorch computes with, kept from libraries that change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def same_threads() -> Iterator[None]:
    """Leave PyTorch as many threads afterwards as it had before.

    numba, which scanpy, umap and pynndescent compute with, sets OpenMP's number of threads for the whole process.
    PyTorch would follow: its sums then end in other digits, and where other programs want the cores it waits for them.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
