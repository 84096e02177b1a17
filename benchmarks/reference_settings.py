"""Change one setting of a recommended reference at a time, and see what its latent is then worth on left-out batches.

    python benchmarks/reference_settings.py ../shared/data [--kinds scpoli] [--variants '*'] [--sets '*'] [--seeds 0 1]
        [--again] [--render]

Only left-out batches are looked at, and Kang's stimulated cells on its controls: what settings are chosen by. Cells are
labelled without training on them, by the latent alone (benchmarks/latents.py); once more with seven in ten of their
genes lost. Figures are kept a line each in ``--results``, what is there is not computed again, and the tables of
docs/building-references.md are written from them.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import hub_client
from benchmarks.latents_methods import Clock, manifest, one_thread
from benchmarks.latents_rows import Row, key, matches, read_rows, write_rows
from benchmarks.latents_scores import label_scores
from benchmarks.latents_sets import LABEL, MappingSet, read_sets
from hub_client.models.model import Model

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "reference_settings.jsonl"
PAGE = HERE.parent / "docs" / "building-references.md"
BEFORE, AFTER = "<!-- settings: written by benchmarks/reference_settings.py -->", "<!-- end of settings -->"
ALSO = ("kang",)
"""Sets that are no left-out batches and looked at all the same: no query of the queries' pages."""
FAMILIES = {
    "pancreas: Baron's donors": "pancreas",
    "pancreas: CIDER's donors": "pancreas, all genes",
    "blood: batches": "blood",
    "Kang": "interferon",
}
RULES = ("neighbours", "prototypes")
GENES = ("", "lacking_")
"""With all genes, and without those that are lost."""
LOST = 0.7
"""The share of genes that a query lacks, drawn at random."""


@dataclass(frozen=True)
class Variant:
    """What differs from the recommended settings."""

    title: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)


ANY = {
    "recommended": Variant("as recommended"),
    "log1p": Variant("the encoder reads log1p of raw counts", {"encoder_input": "log1p"}),
    "centred": Variant("the encoder reads centred counts", {"encoder_input": "centred"}),
    "nothing-hidden": Variant("no genes are hidden", plan={"gene_dropout": 0.0}),
    "hidden-30": Variant("30 % of the genes are hidden", plan={"gene_dropout": 0.3}),
    "hidden-50": Variant("50 % of the genes are hidden", plan={"gene_dropout": 0.5}),
    "hidden-70": Variant("70 % of the genes are hidden", plan={"gene_dropout": 0.7}),
    "steps-400": Variant("400 steps at most", plan={"steps": 400}),
    "steps-1000": Variant("1,000 steps at most", plan={"steps": 1000}),
    "steps-5000": Variant("5,000 steps at most", plan={"steps": 5000}),
    "to-the-end": Variant("training does not stop early", plan={"early_stopping": None}),
    "regularised": Variant("Adam's epsilon .01, weight decay .01", plan={"adam_epsilon": 0.01, "weight_decay": 0.01}),
    "latent-16": Variant("16 dimensions", {"latent": 16}),
    "latent-32": Variant("32 dimensions", {"latent": 32}),
    "shuffled": Variant("cells are shuffled, not stratified", plan={"sampling": "shuffle"}),
}
VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    "scpoli": ANY
    | {
        "no-contrast": Variant("no contrast between prototypes", plan={"contrast_weight": 0.0}),
        "contrast-30": Variant("contrast of weight 30", plan={"contrast_weight": 30.0}),
        "contrast-300": Variant("contrast of weight 300", plan={"contrast_weight": 300.0}),
        "prototypes-1": Variant("prototypes of weight 1", plan={"prototype_weight": 1.0}),
        "prototypes-20": Variant("prototypes of weight 20", plan={"prototype_weight": 20.0}),
        "no-smoothing": Variant("no label smoothing", plan={"label_smoothing": 0.0}),
        "late-prototypes": Variant("prototypes join after 70 %", plan={"pretraining_epochs": 70}),
        "width-256": Variant("hidden layer of 256", {"hidden": (256,)}),
        "decoder-only": Variant("the encoder reads no conditions", {"inject": ("decoder",)}),
    },
    "trvae": ANY | {"no-mmd": Variant("no discrepancy between conditions", {"mmd": False})},
    "scvi": ANY | {"encoded": Variant("the encoder reads conditions", {"encode_covariates": True})},
    "scanvi": ANY | {"encoded": Variant("the encoder reads conditions", {"encode_covariates": True})},
}
"""Kind to the variants that are tried."""


def main() -> None:
    options = _options()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if not options.render:
        measure(options)
    write(options.page, read_rows(options.results))


def measure(options: argparse.Namespace) -> None:
    """Run what is asked for and not there yet, and keep each row as it comes."""
    one_thread()
    sets = [one for one in read_sets(options.data).values() if _looked_at(one) and matches(one.name, options.sets)]
    for seed, kind, pair in product(options.seeds, options.kinds, sets):
        for name, variant in VARIANTS[kind].items():
            method = f"{kind}/{name}"
            there = key(pair.name, method, "zero-shot", seed) in read_rows(options.results)
            if matches(name, options.variants) and (options.again or not there):
                row = run(pair, kind, variant, method=method, seed=seed)
                write_rows(options.results, read_rows(options.results) | {row.key: row})
                print(row.described(), flush=True)


def run(pair: MappingSet, kind: str, variant: Variant, *, method: str, seed: int) -> Row:
    """Train one reference and map its set's query onto it, without training."""
    best, clock = hub_client.recommended(kind, cells=pair.reference.n_obs), Clock()
    described = manifest(pair.reference, architecture=dict(best.architecture) | dict(variant.architecture))
    with clock.stage("reference"):
        model = Model.build(described, seed=seed)
        cells = hub_client.align(pair.reference, model, labels={LABEL: LABEL})
        hub_client.train(model, cells, plan=best.plan.changed(**variant.plan), seed=seed, progress=False)
    known = hub_client.embed(model, cells)
    figures = label_scores(pair, known, mapped(model, pair.blind_query, seed=seed))
    kept = np.random.default_rng(seed).permutation(pair.query.n_vars) >= LOST * pair.query.n_vars
    lacking = label_scores(pair, known, mapped(model, pair.blind_query[:, kept].copy(), seed=seed))
    figures |= {f"lacking_{name}": value for name, value in lacking.items()}
    return Row.of(pair, method=method, mode="zero-shot", seed=seed, figures=figures, seconds=clock.seconds)


def mapped(model: Model, query: anndata.AnnData, *, seed: int) -> NDArray[np.float32]:
    """Return the latent of a query that is mapped without training, however few of the genes it has."""
    grown = hub_client.surgery(model, hub_client.align(query, model, min_coverage=0), start="best", seed=seed)
    return hub_client.embed(grown, hub_client.align(query, grown, min_coverage=0))


def write(page: Path, rows: Mapping[Any, Row]) -> None:
    """Write the tables between their marks in the page."""
    text = page.read_text()
    before, rest = text.split(BEFORE)
    page.write_text(f"{before}{BEFORE}\n{tables(rows)}\n{AFTER}{rest.split(AFTER)[1]}")


def tables(rows: Mapping[Any, Row]) -> str:
    """Return a table for each kind: what a change does to accuracy, over the sets and seeds that ran both."""
    records = [
        {
            "kind": row.method.partition("/")[0],
            "variant": row.method.partition("/")[2],
            "family": row.family,
            "set": row.set,
            "seed": row.seed,
            "seconds": row.seconds["reference_cpu"],
            **{f"{genes}{rule}": row.figures[f"{genes}{rule}_accuracy"] for genes in GENES for rule in RULES},
        }
        for row in rows.values()
    ]
    table = pd.DataFrame(records)
    parts = [_table(kind, table[table.kind == kind]) for kind in VARIANTS if len(table) and (table.kind == kind).any()]
    return "\n\n".join(parts)


def _table(kind: str, table: pd.DataFrame) -> str:
    families = [family for family in FAMILIES if (table.family == family).any()]
    names = [FAMILIES[family] for family in families]
    columns = [*names, "all", f"all, {LOST:.0%} of genes lost", "CPU seconds"]
    lines = [f"### {kind}", "", f"| setting | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    base = table[table.variant == "recommended"].set_index(["set", "seed"])
    for name, variant in VARIANTS[kind].items():
        mine = table[table.variant == name].set_index(["set", "seed"])
        both = mine.index.intersection(base.index)
        if len(both):
            lines.append(f"| {variant.title} | {' | '.join(_cells(mine.loc[both], base.loc[both], name, families))} |")
    return "\n".join(lines)


def _cells(mine: pd.DataFrame, base: pd.DataFrame, name: str, families: list[str]) -> Iterator[str]:
    """Return accuracy by neighbours / prototypes of the base, or by how much a variant differs from it on its sets."""
    figures = [f"{genes}{rule}" for genes in GENES for rule in RULES]
    shown = mine[figures] if name == "recommended" else mine[figures] - base[figures]
    form = "{:.3f}" if name == "recommended" else "{:+.3f}"
    of_family = [shown[mine.family == family] for family in families]
    for part in of_family:
        yield " / ".join(form.format(part[rule].mean()) for rule in RULES) if len(part) else "–"
    present = [part.mean() for part in of_family if len(part)]  # every family counts alike, however many sets it has
    for genes in GENES:
        yield " / ".join(form.format(np.mean([mean[f"{genes}{rule}"] for mean in present])) for rule in RULES)
    yield f"{mine.seconds.mean():.0f}"


def _looked_at(pair: MappingSet) -> bool:
    return pair.group == "left-out batches" or pair.name in ALSO


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--kinds", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--variants", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--sets", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--render", action="store_true", help="only write the tables from the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
