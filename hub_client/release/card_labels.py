"""What a card says of where labels come from: the rules that corrected them, levels that are sums, and the audit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hub_client.files import markdown as md
from hub_client.manifest.axes import LabelLevel
from hub_client.manifest.corrections import AppliedCorrection, Correction
from hub_client.manifest.label_audits import LabelAuditRecord
from hub_client.manifest.provenance import Training


def origins(level: LabelLevel) -> Iterator[str]:
    """Yield a paragraph on what a level is derived from, and one on how its labels were corrected."""
    if level.derived_from is not None:
        yield (
            f"These labels are those that {md.code(level.derived_from)}'s belong to: the probability of one is the sum "
            "over its parts, so that doubt between two parts of one label is no doubt about it."
        )
    if level.corrections:
        yield "Labels were corrected before training:\n\n" + "\n".join(
            f"- {_applied(one)}" for one in level.corrections
        )


def _applied(correction: AppliedCorrection) -> str:
    """Return a rule as a sentence: how many of which cells, by which genes, became what, and why."""
    rule = correction.rule
    given = _listed(rule.given, "and")
    where = f" of {_listed(rule.datasets, 'and')}" if rule.datasets else ""
    counted = f"{correction.cells:,} of {correction.among:,} {given} cells{where}"
    return f"{counted}{_genes(rule)} {_outcome(rule)}: {md.prose(rule.reason).rstrip('.')}."


def _genes(rule: Correction) -> str:
    present = f"counts of {_listed(rule.present, 'or')}" if rule.present else ""
    absent = f"{'none of' if present else 'no counts of'} {_listed(rule.absent, 'or')}" if rule.absent else ""
    both = " and ".join(filter(None, (present, absent)))
    return f" with {both}" if both else ""


def _outcome(rule: Correction) -> str:
    if rule.to is not None:
        return f"count as {md.text(rule.to)}"
    return "are left out" if rule.leave_out else "count as unlabelled"


def _listed(names: Iterable[str], word: str) -> str:
    *first, last = [md.code(name) for name in names]
    return f"{', '.join(first)} {word} {last}" if first else last


def audited(training: Training) -> Iterator[str]:
    """Yield a paragraph on each audit of labels before training."""
    yield from map(_audited, training.label_audits)


def _audited(record: LabelAuditRecord) -> str:
    text = (
        f"Before training, {record.suspected:,} of {record.cells:,} cells ({record.suspected / record.cells:.1%}) had "
        f"a {md.code(record.level)} label that classifiers which did not see them contradict (confident learning over "
        f"{record.folds} folds and {record.batches:,} {'batch' if record.batches == 1 else 'batches'})"
    )
    most = sorted(record.labels, key=lambda row: -row.suspected / row.cells)[:3]
    named = [f"{md.text(row.label)} {row.suspected / row.cells:.0%}" for row in most if row.suspected]
    return f"{text}; most of all {', '.join(named)}." if named else f"{text}."
