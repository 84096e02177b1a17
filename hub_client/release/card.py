"""The card: a release on one page that a biologist reads, generated from its manifest and nothing else.

The layout is ``cards/_template.md``; a section whose content is empty is left out. The card cannot name the release's
digest, because the manifest that has this digest names the card's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from string import Template

from hub_client import _resources
from hub_client.files import markdown as md
from hub_client.manifest.calibration import Calibration, Metric
from hub_client.manifest.provenance import DatasetRecord, OntologyTerm
from hub_client.manifest.reading import read_manifest
from hub_client.manifest.v1 import Condition, Embedding, LabelLevel, Manifest, Term
from hub_client.release import card_criticism as criticism
from hub_client.release.card_labels import audited, origins
from hub_client.release.names import semver

HUB_LICENSES = frozenset(
    {"agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0"}
    | {"cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0"}
    | {"cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odbl", "pddl", "unlicense"}
)
"""The licence ids that the public hub knows, in its spelling; others are ``other`` with a name."""
MOST_ROWS = 60
"""Labels, programs or categories beyond so many are counted, not listed."""


def render(manifest: Manifest) -> str:
    """Return the card of a release: YAML front matter for the public hub, then Markdown.

    The same manifest gives the same card.
    """
    template = (_resources.cards() / "_template.md").read_text(encoding="utf-8")
    values = {name: section(manifest) for name, section in _SECTIONS.items()}
    parts = re.split(r"(?m)^(?=## )", template)  # before each heading of the second level
    full = [part for part in parts if any(values[name] for name in re.findall(r"\$(\w+)", part))]
    body = re.sub(r"\n{3,}", "\n\n", Template("".join(full)).substitute(values))
    return f"---\n{md.yaml(front_matter(manifest))}---\n\n{body.strip()}\n"


def front_matter(manifest: Manifest) -> dict[str, object]:
    """Return what the public hub reads about a model: library, licence, tags and metrics."""
    found: dict[str, object] = {"library_name": "archzoo"} | hub_license(manifest.license)
    found["tags"] = _tags(manifest)
    if measured := criticism.others(manifest):
        found["model-index"] = [{"name": manifest.name, "results": _results(measured)}]
    return found


def hub_license(license: str | None) -> dict[str, object]:
    """Return an SPDX id as the public hub reads it; nothing for None."""
    if not license:
        return {}
    known = license.lower()
    return (
        {"license": known} if known in HUB_LICENSES else {"license": "other", "license_name": known.replace(" ", "-")}
    )


def _tags(manifest: Manifest) -> list[str]:
    organism = [manifest.organism] if manifest.organism else []
    terms = [*organism, *manifest.tissue, *manifest.assay, *manifest.disease]
    tags = ["single-cell", "reference-mapping", manifest.architecture.kind, *(term.label for term in terms)]
    return list(dict.fromkeys(tags))


def _results(metrics: Iterable[Metric]) -> list[dict[str, object]]:
    """Return metrics grouped by data set and split, in order of first appearance."""
    groups: dict[tuple[str, str], list[Metric]] = {}
    for metric in metrics:
        groups.setdefault((metric.dataset, metric.split), []).append(metric)
    return [
        {
            "task": {"type": "tabular-classification", "name": "Label transfer"},
            "dataset": {"type": _slug(dataset), "name": dataset, "split": split},
            "metrics": [{"type": m.name.rpartition(".")[2], "name": m.name, "value": m.value} for m in group],
        }
        for (dataset, split), group in groups.items()
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def _quickstart(manifest: Manifest) -> str:
    columns = ", ".join(f'{md.scalar(condition.key)}: "your_column"' for condition in manifest.conditions)
    given = f", conditions={{{columns}}}" if columns else ""
    lines = [
        "import hub_client",
        "",
        f'reference = hub_client.pull("{manifest.name}@{manifest.version}")',
        f'mapping = hub_client.map_query("query.h5ad", reference{given})',
        *_read_out(manifest),
    ]
    return "\n".join(lines)


def _read_out(manifest: Manifest) -> list[str]:
    found = ["mapping.scores  # of gene programs, by cell and program"] if manifest.terms else []
    found += ["mapping.proteins  # what is expected of each, measured or not"] if manifest.proteins else []
    if not manifest.labels:
        return found or ['mapping.adata.obsm["X_latent"]']
    key = manifest.own_levels[-1].key
    return [f"mapping.adata.obs[[{md.scalar(f'{key}_pred')}, {md.scalar(f'{key}_uncertainty')}]]", *found]


def _latent_note(manifest: Manifest) -> str:
    what = "log-normalised values" if manifest.input.kind == "log1p" else "raw counts"
    where = "`.X`, `.raw` or a layer"
    note = f"The query holds {what} in {where}; its genes may be in any order."
    if manifest.conditions:
        note += " `your_column` is the column of its `obs` that plays the condition's part."
    return note


def _facts(manifest: Manifest) -> str:
    return md.table(["", ""], [(f"**{name}**", value) for name, fact in _FACTS.items() if (value := fact(manifest))])


def _architecture(manifest: Manifest) -> str:
    config = manifest.architecture
    return f"{config.title} ([paper]({_doi(config.doi)})), {manifest.axes()['latent']} latent dimensions"


def _doi(doi: str) -> str:
    return "https://doi.org/" + re.sub(r"[()<>\s\\|]", lambda found: f"%{ord(found[0]):02X}", doi)


def _terms_of(*terms: OntologyTerm | None) -> str:
    return ", ".join(f"{md.text(term.label)} ({term.id})" for term in terms if term)


def _genes(manifest: Manifest) -> str:
    kind = {"ensembl": "Ensembl ids", "symbol": "symbols"}[manifest.genes.id_type]
    source = manifest.gene_annotation
    where = f" of {md.text(source.source)} {md.text(source.release)} ({md.text(source.assembly)})" if source else ""
    means = "; those it lacks are read at the reference's mean" if manifest.genes.missing == "mean" else ""
    return (
        f"{len(manifest.genes.panel):,}, matched by {kind}{where}; "
        f"a query should measure {manifest.genes.coverage_warn:.0%} of them and must measure "
        f"{manifest.genes.coverage_refuse:.0%}{means}"
    )


def _input(manifest: Manifest) -> str:
    if manifest.input.kind == "counts":
        return "raw counts"
    total = manifest.input.target_sum
    return f"log1p values, each cell scaled to {total:,.0f} before" if total else "log1p values"


def _names(values: Iterable[object]) -> str:
    """Return all names as code spans, or the first of very many."""
    spans = [md.code(value) for value in values]
    more = f" and {len(spans) - MOST_ROWS:,} more" if len(spans) > MOST_ROWS else ""
    return ", ".join(spans[:MOST_ROWS]) + more


def _licences(manifest: Manifest) -> str:
    parts = {"weights": manifest.license, "training data": manifest.data_license}
    return ", ".join(f"{md.text(value)} ({what})" for what, value in parts.items() if value)


def _authors(manifest: Manifest) -> str:
    return ", ".join(
        f"[{md.text(author.name)}](https://orcid.org/{author.orcid})" if author.orcid else md.text(author.name)
        for author in manifest.authors
    )


def _level(level: LabelLevel) -> str:
    shown = level.categories[:MOST_ROWS]
    rows = [(md.text(name), level.ontology[name] or "", md.text(level.parents.get(name, ""))) for name in shown]
    more = len(level.categories) - len(shown)
    rest = f"\n\nand {more:,} more, named in `manifest.json`." if more else ""
    release = f", ids of Cell Ontology release {md.text(level.ontology_release)}" if level.ontology_release else ""
    count = len(level.categories)
    head = f"{md.code(level.key)}: {count:,} {'label' if count == 1 else 'labels'}{release}."
    table = f"{head}\n\n{md.table(['Label', 'Cell Ontology', 'Part of'], rows)}{rest}"
    return "\n\n".join([table, *origins(level)])


def _conditions(manifest: Manifest) -> str:
    rows = [
        (md.code(c.key), c.role, _encoding(c), _names(c.categories), _UNKNOWN[c.unknown]) for c in manifest.conditions
    ]
    return md.table(["Condition", "Role", "Encoded as", "Known", "A new one"], rows)


def _encoding(condition: Condition) -> str:
    encoding = condition.encoding
    return f"{encoding.dim} learned numbers" if isinstance(encoding, Embedding) else "one column each"


def _terms(manifest: Manifest) -> str:
    active = [term for term in manifest.terms if term.active]
    shown = active[:MOST_ROWS]
    rows = [(md.text(t.name), md.text(t.id if t.id != t.name else ""), str(len(t.genes) or "")) for t in shown]
    more = len(active) - len(shown)
    rest = f"\n\nand {more:,} more, named in `manifest.json`." if more else ""
    sources = "".join(f"{line}\n" for line in _term_sources(manifest.terms))
    return f"{sources}\n{md.table(['Program', 'Id', 'Genes'], rows)}{rest}" if manifest.terms else ""


def _term_sources(terms: Iterable[Term]) -> list[str]:
    """Return one line for each source of programs: how many there are, how many are active, and their licence."""
    groups: dict[tuple[str | None, str | None, str | None], list[bool]] = {}
    for term in terms:
        groups.setdefault((term.source, term.release, term.license), []).append(term.active)
    return [
        f"- {md.text(source or 'no source named')}{f' (release: {md.text(release)})' if release else ''}: "
        f"{len(active):,} {'program' if len(active) == 1 else 'programs'}, {sum(active):,} active"
        f"{f'; licence {md.text(license)}' if license else ''}"
        for (source, release, license), active in groups.items()
    ]


def _datasets(manifest: Manifest) -> str:
    return md.table(
        ["Data set", "Cells", "Licence", "Source", "Fingerprint of its content"],
        [
            (md.text(d.name), f"{d.cells:,}", md.text(d.license or ""), _source(d), md.code(f"sha256:{d.fingerprint}"))
            for d in manifest.training.datasets
        ],
    )


def _source(dataset: DatasetRecord) -> str:
    link = f"[doi:{md.text(dataset.doi)}]({_doi(dataset.doi)})" if dataset.doi else ""
    return ", ".join(part for part in (md.text(dataset.source or ""), link) if part)


def _training(manifest: Manifest) -> str:
    training = manifest.training
    if manifest.as_started and training.datasets:
        return "Nothing was trained on these data: they were mapped, their conditions placed among the known ones."
    if not training.epochs:
        return ""
    text = f"Trained for {training.epochs:,} epochs"
    text += f" on {md.text(training.device)}" if training.device else ""
    text += f" in {training.seconds / 60:,.0f} min" if training.seconds and training.seconds >= 90 else ""
    text += f", seed {training.seed}" if training.seed is not None else ""
    text += f", with {', '.join(f'{md.text(k)} {md.text(v)}' for k, v in sorted(training.versions.items()))}"
    return "\n\n".join([text.removesuffix(", with ") + ".", *audited(training)])


def _metrics(manifest: Manifest) -> str:
    rows = [
        (md.code(m.name), md.text(m.definition), md.text(m.dataset), md.text(m.split), f"{m.n:,}", f"**{m.value:.3g}**")
        for m in criticism.others(manifest)
    ]
    notes = {_REDEFINED[m.definition] for m in manifest.metrics if m.definition in _REDEFINED}
    weak = [_weak_latent(manifest, level.key) for level in manifest.labels]
    table = md.table(["Metric", "What it says", "Data set", "Split", "Cells", "Value"], rows)
    return "\n\n".join(filter(None, [table, *sorted(notes), *weak]))


def _weak_latent(manifest: Manifest, level: str) -> str:
    """Return what there is to know of a latent that labels clearly worse than the model's own rule; "" of another."""
    values = {metric.name: metric.value for metric in manifest.metrics}
    pairs = {shown: (values.get(f"{level}.{name}"), values.get(f"{level}.latent_{name}")) for name, shown in _JUDGED}
    known = {shown: (own, latent) for shown, (own, latent) in pairs.items() if own is not None and latent is not None}
    if not any(own - latent > CLEARLY_WORSE for own, latent in known.values()):
        return ""
    transfer = next((c.transfer for c in manifest.trust.calibrations if c.level == level), None)
    figures = " and ".join(f"{shown} of {latent:.3g} instead of {own:.3g}" for shown, (own, latent) in known.items())
    return (
        f"The {md.code(level)} labels {_LEANS.get(transfer, _BETTER)}: the latent alone gives them with an {figures}. "
        "What is read off the latent itself, such as clusters, deserves less trust than these labels."
    )


def _trust(manifest: Manifest) -> str:
    if not manifest.labels:
        return ""
    first = "Each predicted label comes with an uncertainty: 0 is sure, 1 is unsure."
    levels = [
        f"A cell whose {md.code(c.level)} uncertainty exceeds {c.unknown_above:g} is called `unknown`; "
        f"`unknown_above=None` names every cell.{_sets(c)}"
        for c in manifest.trust.calibrations
    ]
    levels = levels or ["It is not calibrated in this release: use it to rank cells, not as a probability."]
    checked = (
        [f"Checked on {md.prose(manifest.trust.validated_on).rstrip('.')}."] if manifest.trust.validated_on else []
    )
    return " ".join([first, *levels, *checked])


def _sets(calibration: Calibration) -> str:
    """Return what a level's label sets promise, and on what cells that was checked; "" for a level without."""
    if calibration.set_above is None:
        return ""
    fitted = calibration.fitted_on or "held-out cells of the data sets that were trained on"
    return (
        " Each cell also has the set of labels that it may have, which holds the true one for "
        f"{calibration.set_coverage:.0%} of cells like those that it was fitted on: {md.prose(fitted).rstrip('.')}."
    )


def _parent(manifest: Manifest) -> str:
    if not manifest.lineage or not manifest.lineage.parent:
        return ""
    parent = manifest.lineage.parent
    version = f"@{parent.version}" if parent.version else ""
    how = _AS_STARTED if manifest.as_started else _RELATION[manifest.lineage.relation]
    named = f"{how} {md.code(parent.name + version)}, release digest {md.code(f'sha256:{parent.digest}')}."
    if manifest.lineage.relation == "import":
        return named
    added = manifest.training.datasets and not manifest.as_started
    own = "The data above are what was added to" if added else "It was trained on"
    return f"{named} {own} the data of that release, whose card lists them, with how good it was."


def _imported(manifest: Manifest) -> str:
    if not manifest.imported_from:
        return ""
    source = manifest.imported_from
    lost = f" Not kept: {', '.join(md.text(what) for what in source.lost)}." if source.lost else ""
    return f"Imported from {md.text(source.format)} ({_names(file.path for file in source.files)}).{lost}"


def _citation(manifest: Manifest) -> str:
    config, own = manifest.architecture, manifest.citation
    parts = [f"This model: <{_doi(own.doi)}>"] if own and own.doi else []
    parts += [md.fence(own.bibtex, language="bibtex")] if own and own.bibtex else []
    return "\n\n".join([*parts, f"Its architecture, {config.title}: <{_doi(config.doi)}>"])


_REDEFINED = {
    "mean over labels of F1, so that rare labels count as much as common ones": (
        "The macro-F1 above is the mean over the labels that cells truly have. Releases that are built now also count "
        "labels that cells were given and none truly has, each as 0, as scikit-learn does: compare the two with care."
    )
}
"""Definitions of metrics in earlier releases that mean something else than what is measured now, and in what."""
CLEARLY_WORSE = 0.02
"""How much lower than a metric of the model's own labels that of the latent alone is where a card points it out."""
_JUDGED = (("accuracy", "accuracy"), ("macro_f1", "macro-F1"))
"""Metrics that labels from the latent alone have too, and what a card calls them."""
_LEANS: Mapping[str | None, str] = {
    "consensus": "lean on expression, not on the latent",
    "expression": "come from expression, not from the latent",
}
"""What of the labels is not from the latent, by the rule of transfer."""
_BETTER = "are better than their nearest neighbours in the latent"
_UNKNOWN = {"extend": "is learned by surgery", "error": "is refused"}
_AS_STARTED = "Surgery (new conditions placed among the known ones, nothing trained, the reference untouched) on"
_RELATION = {
    "surgery": "Surgery (new conditions learned, the reference untouched) on",
    "retrain": "Trained anew after",
    "import": "Imported from",
}
_FACTS: dict[str, Callable[[Manifest], str]] = {
    "Architecture": _architecture,
    "Organism": lambda manifest: _terms_of(manifest.organism),
    "Tissue": lambda manifest: _terms_of(*manifest.tissue),
    "Assay": lambda manifest: _terms_of(*manifest.assay),
    "Disease": lambda manifest: _terms_of(*manifest.disease),
    "Made of": lambda manifest: {"cell": "cells", "nucleus": "nuclei", None: ""}[manifest.suspension_type],
    "Genes": _genes,
    "Proteins": lambda manifest: f"{len(manifest.proteins.panel):,}" if manifest.proteins else "",
    "Reads": _input,
    "Conditions": lambda manifest: ", ".join(md.code(c.key) for c in manifest.conditions),
    "Labels": lambda manifest: ", ".join(f"{md.code(lv.key)} ({len(lv.categories):,})" for lv in manifest.labels),
    "Licence": _licences,
    "Version": lambda manifest: manifest.version + (f", {manifest.created:%Y-%m-%d}" if manifest.created else ""),
    "Authors": _authors,
}
_SECTIONS: dict[str, Callable[[Manifest], str]] = {
    "title": lambda manifest: md.text(manifest.title or manifest.name),
    "summary": lambda manifest: md.prose(manifest.summary),
    "quickstart": _quickstart,
    "latent_note": _latent_note,
    "facts": _facts,
    "intended_use": lambda manifest: md.prose(manifest.intended_use),
    "limitations": lambda manifest: md.prose(manifest.limitations),
    "labels": lambda manifest: "\n\n".join(map(_level, manifest.labels)),
    "conditions": _conditions,
    "terms": _terms,
    "datasets": _datasets,
    "training": _training,
    "metrics": _metrics,
    "criticism": criticism.section,
    "trust": _trust,
    "lineage": lambda manifest: "\n\n".join(filter(None, (_parent(manifest), _imported(manifest)))),
    "citation": _citation,
}


def render_zoo(released: Path | None = None, cards: Path | None = None) -> list[Path]:
    """Write ``<cards>/<name>.md`` from the newest version of each released model, and return what was written.

    Parameters
    ----------
    released
        Release folders as ``<name>/<version>``; None is the bundled zoo.
    cards
        Where the cards go; None is the bundled zoo's.
    """
    released, cards = released or _resources.released(), cards or _resources.cards()
    written = []
    for name in sorted({path.parts[-3] for path in released.glob("*/*/manifest.json")}):
        newest = max((released / name).glob("*/manifest.json"), key=lambda path: semver(path.parent.name))
        written.append(cards / f"{name}.md")
        written[-1].write_text(render(read_manifest(newest.read_bytes(), source=str(newest))), encoding="utf-8")
    return written


if __name__ == "__main__":
    render_zoo(*map(Path, sys.argv[1:]))
