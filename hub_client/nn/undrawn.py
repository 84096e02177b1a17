"""Modules whose random start nobody will see: their weights are loaded next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def undrawn() -> AbstractContextManager[object]:
    """Return a context in which modules start at zero where they would draw, and no random number is used up."""
    return _Undrawn()  # type: ignore[no-untyped-call]


def _fill(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor.zero_()


def _make(size: list[int], **options: Any) -> Tensor:
    known = {name: options[name] for name in ("dtype", "device") if options.get(name) is not None}
    return torch.zeros(size, **known)


UNDRAWN: Mapping[Any, Callable[..., Tensor]] = {
    torch.ops.aten.uniform_.default: _fill,
    torch.ops.aten.normal_.default: _fill,
    torch.ops.aten.rand.default: _make,
    torch.ops.aten.randn.default: _make,
}
"""What stands for each draw: zeros, so that what is not loaded after all is the same every time."""


class _Undrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return UNDRAWN.get(func, func)(*args, **(kwargs or {}))
