"""Files that run a stranger's code when they are unpickled: each, where it runs, leaves a marker file behind."""

from __future__ import annotations

import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import timeit
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

EXTENSION = 240
"""The code in Python's extension registry that stands for ``os.system`` in :func:`extension`."""


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self) -> None:
        """Pickle only calls what looks callable."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def dumped(value: Any, *, protocol: int = 4) -> bytes:
    """Return a pickle of attributes with a value among them."""
    return pickle.dumps({"conditions_": ["b0"], "use_bn_": value, "mask_": [[1.0]]}, protocol=protocol)


def shell(marker: Path) -> str:
    return f"touch {marker}"


def python(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def system(marker: Path) -> bytes:
    return dumped(Calls(os.system, shell(marker)))


def system_by_its_lines(marker: Path) -> bytes:
    return dumped(Calls(os.system, shell(marker)), protocol=0)


def nested_eval(marker: Path) -> bytes:
    return dumped([Calls(eval, Calls(str, python(marker)))])


def attribute_of_an_object(marker: Path) -> bytes:
    return dumped(Calls(Calls(getattr, Path(marker), "touch")))


def attribute_by_operator(marker: Path) -> bytes:
    return dumped(Calls(Calls(Calls(operator.attrgetter, "touch"), Path(marker))))


def method_by_operator(marker: Path) -> bytes:
    return dumped(Calls(Calls(operator.methodcaller, "touch"), Path(marker)))


def process_by_keywords(marker: Path) -> bytes:
    return dumped(Calls(functools.partial(subprocess.call, shell(marker), shell=True)))


def pickle_in_a_pickle(marker: Path) -> bytes:
    return dumped(Calls(pickle.loads, system(marker)))


def numpys_load(marker: Path) -> bytes:
    array = marker.with_name("objects.npy")
    np.save(array, np.array([Calls(os.system, shell(marker))], dtype=object), allow_pickle=True)
    return dumped(Calls(np.load, str(array), None, True))


def pandas_read_pickle(marker: Path) -> bytes:
    inner = marker.with_name("inner.pkl")
    inner.write_bytes(system(marker))
    return dumped(Calls(pd.read_pickle, str(inner)))


def in_the_cells_of_a_frame(marker: Path) -> bytes:
    return dumped(pd.DataFrame({"batch": ["b0", Calls(os.system, shell(marker))]}, index=["a", "b"]))


def in_the_index_of_a_frame(marker: Path) -> bytes:
    return dumped(pd.DataFrame({"batch": [1]}, index=pd.Index([Calls(os.system, shell(marker))], dtype=object)))


def in_an_array(marker: Path) -> bytes:
    return dumped(np.array([Calls(os.system, shell(marker))], dtype=object))


def in_a_tensors_storage(marker: Path) -> bytes:
    inner = io.BytesIO()
    torch.save(Calls(os.system, shell(marker)), inner)
    return dumped(Calls(torch.storage._load_from_bytes, inner.getvalue()))


def in_a_tensors_old_storage(marker: Path) -> bytes:
    inner = io.BytesIO()
    torch.save([Calls(os.system, shell(marker))], inner, _use_new_zipfile_serialization=False)
    return dumped(Calls(torch.storage._load_from_bytes, inner.getvalue()))


def in_a_tensors_hooks(marker: Path) -> bytes:
    tensor = torch.zeros(2)
    make, arguments = tensor.__reduce_ex__(4)
    hooks = OrderedDict(hook=Calls(os.system, shell(marker)))
    return dumped(Calls(make, *arguments[:-1], hooks))


def as_a_key(marker: Path) -> bytes:
    return dumped({Calls(os.system, shell(marker)): "b0"})


def as_a_state(marker: Path) -> bytes:
    """Pickle sets the state of a dictionary's subclass: that state is an object of its own."""
    values: OrderedDict[str, Any] = OrderedDict(a=1)
    values.hidden = Calls(os.system, shell(marker))  # type: ignore[attr-defined]
    return dumped(values)


def by_opening_a_file(marker: Path) -> bytes:
    return dumped(Calls(open, str(marker), "w"))


def by_mapping_a_file(marker: Path) -> bytes:
    """A class of numpy's, whose arrays are harmless."""
    return dumped(Calls(np.memmap, str(marker), "uint8", "w+", 0, (1,)))


def by_saving_a_tensor(marker: Path) -> bytes:
    """A function of PyTorch's, whose tensors are harmless."""
    return dumped(Calls(torch.save, [1], str(marker)))


def by_timing(marker: Path) -> bytes:
    return dumped(Calls(timeit.timeit, python(marker), "pass", timeit.default_timer, 1))


# --- written by hand -------------------------------------------------------------------------------------------------


def names_from_the_memo(marker: Path) -> bytes:
    """Module and name are far from where they are used, swapped and copied on the way."""
    stored = text("system") + b"\x94" + b"0" + text("posix") + b"\x94" + b"0"
    return b"\x80\x04" + stored + b"h\x01" + b"h\x00" + b"2" + b"0" + b"\x93" + text(shell(marker)) + b"\x85R."


def names_among_constants(marker: Path) -> bytes:
    """The names are below a mark, and numbers stand between them and their use."""
    return (
        b"\x80\x04" + text("posix") + text("system") + b"(K\x01K\x02K\x031" + b"\x93" + text(shell(marker)) + b"\x85R."
    )


def state_of_a_partial(marker: Path) -> bytes:
    """A function that does nothing gets another one as its state, and is called."""
    made = b"cfunctools\npartial\n" + b"cbuiltins\nlen\n" + b"\x85\x81"
    state = b"(cposix\nsystem\n" + text(shell(marker)) + b"\x85}Nt"
    return b"\x80\x04" + made + state + b"b" + b")R."


def dotted_name(marker: Path) -> bytes:
    """A permitted module, and a name that leads out of it."""
    return b"\x80\x04" + text("torch") + text("os.system") + b"\x93" + text(shell(marker)) + b"\x85R."


def dotted_name_in_a_permitted_module(marker: Path) -> bytes:
    call = text("numpy._core.numeric") + text("builtins.eval") + b"\x93"
    return b"\x80\x04" + call + text(python(marker)) + b"\x85R."


def old_instance(marker: Path) -> bytes:
    return b"(S'" + shell(marker).encode() + b"'\nios\nsystem\n."


def old_object(marker: Path) -> bytes:
    return b"(cos\nsystem\n" + b"S'" + shell(marker).encode() + b"'\no."


def extension(marker: Path) -> bytes:
    return b"\x80\x04\x82" + bytes([EXTENSION]) + text(shell(marker)) + b"\x85R."


def after_the_end_of_a_number_row(marker: Path) -> bytes:
    """Numbers in a row are read at once; what follows them is not one of them."""
    return b"\x80\x04(" + b"K\x01" * 300 + b"0" + b"1" + b"cposix\nsystem\n" + text(shell(marker)) + b"\x85R."


PICKLES: dict[str, Callable[[Path], bytes]] = {
    made.__name__: made
    for made in (
        system,
        system_by_its_lines,
        nested_eval,
        attribute_of_an_object,
        attribute_by_operator,
        method_by_operator,
        process_by_keywords,
        pickle_in_a_pickle,
        numpys_load,
        pandas_read_pickle,
        in_the_cells_of_a_frame,
        in_the_index_of_a_frame,
        in_an_array,
        in_a_tensors_storage,
        in_a_tensors_old_storage,
        in_a_tensors_hooks,
        as_a_key,
        as_a_state,
        by_opening_a_file,
        by_mapping_a_file,
        by_saving_a_tensor,
        by_timing,
        state_of_a_partial,
        names_from_the_memo,
        names_among_constants,
        dotted_name,
        dotted_name_in_a_permitted_module,
        old_instance,
        old_object,
        extension,
        after_the_end_of_a_number_row,
    )
}


# --- files of tensors ------------------------------------------------------------------------------------------------


def saved(value: Any, *, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def tensors(marker: Path, *, zipped: bool) -> bytes:
    return saved({"theta": torch.zeros(2), "more": Calls(os.system, shell(marker))}, zipped=zipped)


def tensors_with_an_eval(marker: Path, *, zipped: bool) -> bytes:
    return saved(OrderedDict(theta=Calls(eval, python(marker))), zipped=zipped)
