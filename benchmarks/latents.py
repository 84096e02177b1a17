"""Measure what a mapped latent is worth by itself, for every model here and for what users would pick instead.

    python benchmarks/latents.py ../shared/data --scarches ENV/bin/python [--sets 'blood-*'] [--methods 'native-*']
        [--seeds 0 1 2] [--again] [--no-scib] [--render]

Each method maps each set's query onto its reference; labels come from the latent alone, and scib-metrics judges
reference and query together. Figures are kept a line each in ``--results``, and what is there is not computed again
without ``--again``; docs/latents.md is written from them after each run, or with ``--render`` alone. Needs
benchmarks/latents-requirements.txt, and for scArches 0.6.1 a Python of its own, which ``--scarches`` names, with
benchmarks/latents-scarches-requirements.txt.
"""

from __future__ import annotations

import argparse
import fnmatch
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from benchmarks import latents_page
from benchmarks.latents_methods import METHODS, SCARCHES, Mapped, Method, one_thread
from benchmarks.latents_rows import Row, key, matches, read_rows, write_rows
from benchmarks.latents_scores import agreement, label_scores, scib_scores
from benchmarks.latents_sets import MappingSet, read_sets

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latents.jsonl"
PAGE = HERE.parent / "docs" / "latents.md"


class Interruption:
    """Ctrl-C, noticed also where a trainer takes it for the end of training: such a model is not worth a row."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: object) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Stop if Ctrl-C was pressed since this was made."""
        if self.asked:
            raise KeyboardInterrupt


def main() -> None:
    options = _options()
    if not options.render:
        if options.data is None:
            sys.exit("name the folder with the data, as in: python benchmarks/latents.py ../shared/data")
        if options.scarches:
            os.environ[SCARCHES] = options.scarches
        logging.disable(logging.WARNING)  # what libraries tell of themselves hides the rows
        warnings.simplefilter("ignore")
        try:
            measure(options)
        except KeyboardInterrupt:
            _tell("stopped; what was measured is kept")
    latents_page.write(options.page, read_rows(options.results))


def measure(options: argparse.Namespace) -> None:
    """Run what is asked for and not there yet, and keep each row as it comes."""
    interruption = Interruption()
    sets = [one for one in read_sets(options.data).values() if matches(one.name, options.sets)]
    for seed, method in product(options.seeds, _methods(options.methods)):
        if seed == options.seeds[0] or method.seeded:
            for group in _sharing(sets):
                run(method, group, options, interruption, seed=seed if method.seeded else 0)


def _methods(patterns: list[str]) -> list[Method]:
    """Return the methods that are asked for, in the order of the patterns, and say which cannot run."""
    named = {one.name: one for pattern in patterns for one in METHODS.values() if fnmatch.fnmatch(one.name, pattern)}
    able = [one for one in named.values() if not one.name.startswith("scarches-") or SCARCHES in os.environ]
    for name in named.keys() - {one.name for one in able}:
        _tell(f"{name}: left out, as --scarches names no Python that has scArches")
    return able


def run(
    method: Method, group: list[MappingSet], options: argparse.Namespace, interruption: Interruption, *, seed: int
) -> None:
    """Train one reference, and map onto it the queries of which a row is missing."""
    kept = {} if options.again else read_rows(options.results)
    missing = [
        pair for pair in group if any(key(pair.name, method.name, mode, seed) not in kept for mode in method.modes)
    ]
    if not missing:
        return
    pairs = {pair.name: pair for pair in missing}
    queries = {name: pair.blind_query for name, pair in pairs.items()}
    one_thread()
    for mapped in method.run(missing[0].reference.copy(), queries, seed):
        interruption.check()
        row = _row(pairs[mapped.query], method, mapped, seed=seed, scib=not options.no_scib)
        rows = read_rows(options.results)
        write_rows(options.results, rows | {row.key: row})
        _tell(row.described())


def _row(pair: MappingSet, method: Method, mapped: Mapped, *, seed: int, scib: bool) -> Row:
    figures: dict[str, float] = {}
    if mapped.labels is not None:
        figures |= agreement(pair, mapped.labels[pair.scored], rule="labels")
    if mapped.reference is not None and mapped.latent is not None:
        figures |= label_scores(pair, mapped.reference, mapped.latent)
        if scib and pair.group == "queries":
            figures |= scib_scores(pair, mapped.reference, mapped.latent)
    return Row.of(pair, method=method.name, mode=mapped.mode, seed=seed, figures=figures, seconds=mapped.seconds)


def _sharing(sets: Iterable[MappingSet]) -> Iterator[list[MappingSet]]:
    """Yield the sets that have the same reference together: it is trained once for them."""
    groups: dict[str, list[MappingSet]] = {}
    for one in sets:
        groups.setdefault(one.trained_on, []).append(one)
    yield from groups.values()


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="the folder with the data files")
    parser.add_argument("--sets", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--methods", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scarches", metavar="PYTHON", help="a Python that has scArches 0.6.1")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--no-scib", action="store_true", help="leave scib-metrics out, which takes most of the time")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
