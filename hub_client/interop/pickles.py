"""Read a pickle as data: what it would call is written down, and never called.

A pickle is a program for a stack machine. It can name any function of any module and call it, which is why unpickling a
stranger's file runs a stranger's code. Here the program runs on a machine that has no functions: it builds lists,
dictionaries and numbers, and where it names something it leaves a :class:`Named`, where it calls something a
:class:`Call`. :mod:`hub_client.interop.pickled_values` rebuilds the values of the few calls that it knows.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hub_client import errors

MAX_BYTES = 1 << 29
MAX_OPCODES = 50_000_000
"""Numbers in a row count as one. A mask of 2,000 programs over 20,000 genes is well below both limits."""

BITS, BITS_OF_A_KEY = 128, 64
"""Of the longest numbers: the magic number of PyTorch's old files has 77."""

COMPUTED = "a computed name"
EXTENSION = "the extension registry"
PERSISTENT = "a persistent id"
"""What a pickle can ask for other than by ``module:name``."""


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names, as ``module:name``. It is not looked up."""

    name: str


@dataclass(eq=False)
class Call:
    """An object that a pickle would make by a call, with the state it would set and the items it would put in."""

    callee: Any
    arguments: Any
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Pickled:
    """The content of a pickle, as data."""

    value: Any
    """Its object: builtin types, :class:`Named` and :class:`Call`."""
    names: tuple[str, ...]
    """All that it names, as ``module:name``, in the order of appearance."""
    persistent: tuple[Any, ...]
    """The ids of what it keeps outside of itself, such as the storages of PyTorch's files."""
    end: int
    """Where it ends in the bytes."""


def read(content: bytes, *, file: str, start: int = 0) -> Pickled:
    """Return the pickle at ``start`` of ``content`` as data, without executing it.

    Parameters
    ----------
    content
        The bytes of a file.
    file
        Its name, for messages.
    start
        Where the pickle begins.

    Raises
    ------
    IntegrityError
        If it is no pickle, is cut off, or is larger than any that scArches saved.
    """
    if len(content) > MAX_BYTES:
        raise _broken(file, f"has {len(content):,} bytes, more than the {MAX_BYTES:,} that are read")
    machine = _Machine()
    stream = io.BytesIO(content)
    stream.seek(start)
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python's decoder, about escapes in damaged texts
            _run(machine, stream, content)
        return Pickled(machine.pop(), tuple(machine.names), tuple(machine.persistent), stream.tell())
    except UNREADABLE as error:
        raise _broken(file, f"is no pickle that can be read ({error})") from None


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal; one that would is quoted."""
    return text if text.isprintable() else ascii(text)


def refused(strangers: Iterable[str], *, file: str, allowed: Iterable[str]) -> errors.IntegrityError:
    """Return the error that lists every name a file may not ask for."""
    names = list(strangers)
    return errors.IntegrityError(
        f"{file} asks for {errors.names(names, shown=SHOWN)}: no saved model needs that, and it could run any code. "
        "Nothing was loaded. If you trust who saved the folder, load it with what saved it, replace what is not "
        "numbers, text, arrays or frames, and save it again.",
        file=file,
        expected=sorted(allowed),
        actual=names,
    )


SHOWN = 40
"""Names listed in a message: all of them, unless somebody means to flood the screen."""
UNREADABLE = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError)
"""What decoding or running a damaged pickle raises."""


def _run(machine: _Machine, stream: io.BytesIO, content: bytes) -> None:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > MAX_OPCODES:
            raise ValueError(f"it has more than {MAX_OPCODES:,} instructions")
        if opcode.name in CONSTANTS:
            machine.push(argument)
        else:
            HANDLERS[opcode.name](machine, argument)
        if opcode.name in NUMBERS:
            stream.seek(_numbers_in_a_row(machine, content, stream.tell(), opcode.name))


def _numbers_in_a_row(machine: _Machine, content: bytes, start: int, name: str) -> int:
    """Push the numbers that follow in the same encoding, and return where they end: masks have millions of them."""
    pattern, layout = NUMBERS[name]
    found = pattern.match(content, start)
    if found is None:
        return start
    numbers = np.frombuffer(content, layout, (found.end() - start) // layout.itemsize, start)["number"]
    machine.stack.extend(numbers.tolist())
    return found.end()


def _numbers(code: str, number: str) -> tuple[re.Pattern[bytes], np.dtype[Any]]:
    layout = np.dtype([("code", "S1"), ("number", number)])
    return re.compile(rb"(?:%b.{%d})+" % (code.encode(), layout.itemsize - 1), re.DOTALL), layout


NUMBERS = {
    "BINFLOAT": _numbers("G", ">f8"),
    "BININT": _numbers("J", "<i4"),
    "BININT1": _numbers("K", "u1"),
    "BININT2": _numbers("M", "<u2"),
}


class _Machine:
    """The stack, the memo, and the names and persistent ids that were met."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[str, None] = {}
        self.persistent: list[Any] = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def name(self, name: str) -> Named:
        shown = printable(name)
        self.names.setdefault(shown)
        return Named(shown)


# --- what each instruction does --------------------------------------------------------------------------------------


def _whole(machine: _Machine, number: int) -> None:
    """Push a whole number that can be printed."""
    if number.bit_length() > BITS:
        raise ValueError(f"it has a number of {number.bit_length():,} bits")
    machine.push(number)


def _pop(machine: _Machine, _: Any) -> None:
    if machine.marks and len(machine.stack) == machine.marks[-1]:
        machine.marks.pop()
    else:
        machine.pop()


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _extend(machine: _Machine, values: list[Any]) -> None:
    target = machine.top()
    if not isinstance(target, list):
        raise ValueError(f"it appends to {_kind(target)}")
    target.extend(values)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _set_items(machine: _Machine, values: list[Any]) -> None:
    target, pairs = machine.top(), [(_hashable(key), value) for key, value in _pairs(values)]
    if isinstance(target, dict):
        target.update(pairs)
    elif isinstance(target, Call):
        target.items.extend(pairs)
    else:
        raise ValueError(f"it sets items of {_kind(target)}")


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(values[::2], values[1::2], strict=True)


def _add_items(machine: _Machine, _: Any) -> None:
    values, target = machine.since_mark(), machine.top()
    if not isinstance(target, set):
        raise ValueError(f"it adds to {_kind(target)}")
    target.update(map(_hashable, values))


def _hashable(value: Any) -> Any:
    """Return a key of a dictionary or set: hashing a tuple of tuples of tuples could exhaust the C stack.

    Nor can it be a number of more than 64 bits: many of these hash alike, and a dictionary of them takes hours.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(part, int) and part.bit_length() > BITS_OF_A_KEY for part in parts):
        raise ValueError("it has a long number for a key")
    if not all(isinstance(part, KEYS) for part in parts):
        raise ValueError(f"it has {_kind(value)} for a key")
    return value


KEYS = (str, bytes, int, float, type(None), Named, Call)


def _named(machine: _Machine, argument: str) -> Named:
    module, _, name = argument.partition(" ")
    return machine.name(f"{module}:{name}")


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    plain = isinstance(name, str) and isinstance(module, str)
    machine.push(machine.name(f"{module}:{name}" if plain else COMPUTED))


def _call(machine: _Machine, _: Any) -> None:
    arguments, callee = machine.pop(), machine.pop()
    machine.push(Call(callee, arguments))


def _call_with_keywords(machine: _Machine, _: Any) -> None:
    keywords, arguments, callee = machine.pop(), machine.pop(), machine.pop()
    machine.push(Call(callee, (arguments, keywords)))


def _object(machine: _Machine, _: Any) -> None:
    callee, *arguments = machine.since_mark()
    machine.push(Call(callee, tuple(arguments)))


def _build(machine: _Machine, _: Any) -> None:
    state, target = machine.pop(), machine.top()
    if not isinstance(target, Call) or target.state is not None:
        raise ValueError(f"it sets the state of {_kind(target)}")
    target.state = state


def _extension(machine: _Machine, code: int) -> None:
    machine.push(machine.name(f"{EXTENSION}:{code}"))


def _persistent(machine: _Machine, argument: Any) -> None:
    machine.persistent.append(argument)
    machine.push(Call(machine.name(PERSISTENT), (argument,)))


def _out_of_band(machine: _Machine, _: Any) -> None:
    raise ValueError("parts of it are in other files")


def _kind(value: Any) -> str:
    return f"an object of {type(value).__name__}"


def _collected(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make(machine.since_mark()))


def _of_last(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(reversed([machine.pop() for _ in range(count)])))


def _new(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


def _nothing(machine: _Machine, _: Any) -> None:
    """Neither the protocol's number nor the length of a frame is part of the object."""


_NUMBERS = (*NUMBERS, "FLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
CONSTANTS = frozenset(_NUMBERS + _TEXTS + _BYTES)
"""Instructions that push their argument."""
HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    "ADDITEMS": _add_items,
    "APPEND": lambda machine, _: _extend(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _extend(machine, machine.since_mark()),
    **dict.fromkeys(("BINGET", "GET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "BINPERSID": lambda machine, _: _persistent(machine, machine.pop()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT"), _put),
    "BUILD": _build,
    "DICT": _collected(lambda values: {_hashable(key): value for key, value in _pairs(values)}),
    "DUP": lambda machine, _: machine.push(machine.top()),
    **{f"EMPTY_{make.__name__.upper()}": _new(make) for make in (dict, list, set, tuple)},
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "FROZENSET": _collected(lambda values: frozenset(map(_hashable, values))),
    "GLOBAL": lambda machine, argument: machine.push(_named(machine, argument)),
    "INST": lambda machine, name: machine.push(Call(_named(machine, name), tuple(machine.since_mark()))),
    **dict.fromkeys(("INT", "LONG", "LONG1", "LONG4"), _whole),
    "LIST": _collected(list),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "MEMOIZE": _memoize,
    "NEWFALSE": _new(lambda: False),
    "NEWOBJ_EX": _call_with_keywords,
    "NEWTRUE": _new(lambda: True),
    "NONE": _new(lambda: None),
    "OBJ": _object,
    "PERSID": _persistent,
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.since_mark(),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _out_of_band),
    **dict.fromkeys(("NEWOBJ", "REDUCE"), _call),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: _set_items(machine, machine.since_mark()),
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("FRAME", "PROTO", "STOP"), _nothing),
    "TUPLE": _collected(tuple),
    **{f"TUPLE{count}": _of_last(count) for count in (1, 2, 3)},
}


def _broken(file: str, fault: str) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{file} {fault}. Copy the folder again from where it was saved.", file=file, actual=fault
    )
