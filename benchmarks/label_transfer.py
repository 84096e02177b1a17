"""Measure how well labels carry over to queries of other studies, and how honest their doubt is, beside other tools.

    python benchmarks/label_transfer.py ../shared/data [--sets 'blood-*'] [--methods lr 'archzoo-*'] [--seeds 0 1 2]
        [--architectures scpoli] [--version 1.0.0] [--audited RECIPE] [--scarches ENV/bin/python]
        [--popv ENV/bin/python] [--keep FOLDER] [--again] [--render]

Each method labels each set's query by its reference. The library's own models are the zoo's of ``--version`` for the
zoo's reference, and built here for others. ``--audited`` names the recipe whose corrections of labels the opponents of
that name are trained on, too. Figures are kept a line each in ``--results``, and what is there is not computed again
without ``--again``; docs/label-transfer.md is written from them after each run, or with ``--render`` alone. With
``--keep`` the labels and probabilities of each cell are kept, too, and scored anew instead of computed. scArches 0.6.1
and popV need a Python of their own, which the options name: benchmarks/latents-scarches-requirements.txt,
benchmarks/label-transfer-popv-requirements.txt.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks import label_transfer_page as page
from benchmarks.label_transfer_methods import METHODS, POPV, Labelled, Method, read_labelled, write_labelled
from benchmarks.label_transfer_ours import KINDS, PREFIX, able, methods
from benchmarks.label_transfer_recipes import audited
from benchmarks.label_transfer_rows import Key, Row, read_rows, write_rows
from benchmarks.label_transfer_scores import scores
from benchmarks.label_transfer_sets import TransferSet, part_name, read_sets, sharing
from benchmarks.latents_methods import SCARCHES
from benchmarks.latents_rows import matches

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "label_transfer.jsonl"
PAGE = HERE.parent / "docs" / "label-transfer.md"


def main() -> None:
    options = _options()
    if not options.render:
        if options.data is None:
            sys.exit("name the folder with the data, as in: python benchmarks/label_transfer.py ../shared/data")
        os.environ |= {name: value for name, value in ((SCARCHES, options.scarches), (POPV, options.popv)) if value}
        logging.disable(logging.WARNING)  # what libraries tell of themselves hides the rows
        warnings.simplefilter("ignore")
        try:
            measure(options)
        except KeyboardInterrupt:
            _tell("stopped; what was measured is kept")
    page.write(options.page, read_rows(options.results))


def measure(options: argparse.Namespace) -> None:
    """Run what is asked for and not there yet, and keep each row as it comes."""
    sets = [one for one in read_sets(options.data).values() if matches(one.name, options.sets)]
    corrected = list(audited(sets, options.audited, options.data)) if options.audited else []
    for seed, method in product(options.seeds, _asked(options)):
        if seed == options.seeds[0] or method.seeded:
            for group in sharing(corrected if method.audited else _possible(method, sets)):
                run(method, group, options, seed=seed if method.seeded else 0)


def _asked(options: argparse.Namespace) -> list[Method]:
    """Return the methods that are asked for, in the order of the page, and say which cannot run."""
    every = [*methods(options.architectures, version=options.version), *METHODS.values()]
    named = [one for one in every if matches(one.name, options.methods)]
    lacking = {one.name: f"--{_option(one)} is not given" for one in named if not _able(one, options)}
    for name, why in lacking.items():
        _tell(f"{name}: left out, as {why}")
    return [one for one in named if one.name not in lacking]


def _able(method: Method, options: argparse.Namespace) -> bool:
    return (method.needs is None or method.needs in os.environ) and (options.audited is not None or not method.audited)


def _option(method: Method) -> str:
    return "audited" if method.audited else {SCARCHES: "scarches", POPV: "popv"}[str(method.needs)]


def _possible(method: Method, sets: Sequence[TransferSet]) -> list[TransferSet]:
    own = method.name.startswith(PREFIX)
    return [one for one in sets if not own or able(method.name.removeprefix(PREFIX), one)]


def run(method: Method, group: Sequence[TransferSet], options: argparse.Namespace, *, seed: int) -> None:
    """Have a method label the queries of which a row is missing, all of which have the same reference."""
    version = options.version if method.name.startswith(PREFIX) else ""
    rows = {} if options.again else read_rows(options.results)
    missing = [one for one in group if (one.name, method.name, version, seed) not in rows]
    if missing:
        found = _labelled(method, missing, options.keep, version=version, seed=seed)
        for one in missing:
            _keep_row(one, method, found, options.results, version=version, seed=seed)


def _labelled(
    method: Method, sets: Sequence[TransferSet], keep: Path | None, *, version: str, seed: int
) -> dict[str, Labelled]:
    """Return what a method says of each part, as it was kept or as it says now."""
    names = [part_name(one, number) for one in sets for number in range(len(one.parts))]
    folder = None if keep is None else keep / "-".join(filter(None, (method.name, version))) / str(seed)
    if folder is not None and all((folder / f"{name}.npz").exists() for name in names):
        return {name: read_labelled(folder / f"{name}.npz") for name in names}
    found = {each.part: each for each in method.run(sets, seed)}
    for name, each in found.items():
        if folder is not None:
            write_labelled(folder / f"{name}.npz", each)
    return found


def _keep_row(
    one: TransferSet, method: Method, found: dict[str, Labelled], results: Path, *, version: str, seed: int
) -> None:
    parts = [found[part_name(one, number)] for number in range(len(one.parts))]
    described = {"method": method.name, "version": version, "seed": seed}
    row = Row.of(one, **described, figures=scores(one, parts), seconds=parts[-1].seconds)
    rows: dict[Key, Row] = read_rows(results)
    write_rows(results, rows | {row.key: row})
    _tell(row.described())


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="the folder with the data files")
    parser.add_argument("--sets", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--methods", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--architectures", nargs="+", choices=list(KINDS), default=["scpoli"])
    parser.add_argument("--version", default="1.0.0", help="of the zoo's models")
    parser.add_argument("--audited", type=Path, metavar="RECIPE", help="corrects labels of the zoo's reference")
    parser.add_argument("--scarches", metavar="PYTHON", help="a Python that has scArches 0.6.1")
    parser.add_argument("--popv", metavar="PYTHON", help="a Python that has popV 0.6.1")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep labels and probabilities of every cell here")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
