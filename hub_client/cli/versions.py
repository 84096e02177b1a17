"""``archzoo diff``, ``log`` and ``yank``: what a version stands for, and where it comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.checks.diff import Diff, Drift, Moved
    from hub_client.hub.lineage import Step
    from hub_client.release.changes import Change, Names

SHOWN = 8
Other = Annotated[str, typer.Argument(help="What to compare it with.", show_default=False)]
Reason = Annotated[
    str, typer.Option("--reason", "-r", metavar="TEXT", help="What is wrong, and what to use.", show_default=False)
]
STEPS = (
    Column("name", text=lambda step: step.name),
    Column("version", text=lambda step: step.version or ""),
    Column("how", text=lambda step: _how(step)),
    Column("data", rank=2, text=lambda step: _data(step)),
    Column("created", rank=2, text=lambda step: (step.created or "")[:10]),
    Column("digest", text=lambda step: f"sha256:{step.digest[:12]}"),
    Column("hub", rank=3, text=lambda step: step.hub or "in no hub at hand"),
    Column("message", rank=1, text=lambda step: step.message),
)


def yank(
    model: Annotated[str, typer.Argument(help="OWNER/NAME@VERSION.", show_default=False)],
    reason: Reason,
    hub: options.HubFolder = None,
    as_json: options.Json = False,
) -> None:
    """Withdraw a version.

    Its name without a version then means the newest of the others. Nothing is deleted: by version, commit or digest it
    is still pulled, with a warning that gives the reason, so that papers which cite it stay reproducible.

    For example:

    ```
    archzoo yank my-lab/kidney@1.1.0 --reason "two libraries were swapped; use 1.1.1"
    ```
    """
    ref = options.hub_at(hub).yank(model, reason=reason)
    if as_json:
        screen.say_json({**options.record(ref), "yanked": reason})
    else:
        screen.say(f"{ref} is yanked: {reason}")


def diff(model: options.ModelName, other: Other, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Compare two releases.

    Reports which genes, conditions, labels, data sets, settings, weights, reference cells and metrics differ, how far
    the results of the same test cells lie apart, and which part of the version such a change has to raise. The data of
    a grown model are also those of the releases it was grown from.

    For example:

    ```
    archzoo diff my-lab/kidney@1.0.0 my-lab/kidney@1.1.0
    archzoo diff pbmc-scpoli ./mapped-model
    ```
    """
    place = options.hub_at(hub)
    before, after = place.pull(model), place.pull(other)

    from hub_client.checks.diff import diff as compare  # after the names were found: this loads torch

    comparison = compare(before, after, ancestors=[*place.ancestors(model), *place.ancestors(other)])
    if as_json:
        screen.say_json(asdict(comparison))
        return
    screen.say(f"{before.ref or model}\n{after.ref or other}\n")
    screen.say_facts(_lines(comparison))


def _lines(comparison: Diff) -> dict[str, str]:
    lines = {names.field: _names(names) for names in comparison.names}
    lines |= {value.field: _value(value) for value in comparison.values}
    lines |= {_metric(metric.field, comparison): _value(metric) for metric in comparison.metrics}
    lines |= {change.field: _value(change) for change in (*comparison.tensors[:SHOWN], *comparison.atlas)}
    lines |= _more(comparison) | {moved.field: _result(moved, comparison.drift) for moved in comparison.moved}
    return lines | {"latent": _drift(comparison.drift), "version needed": f"{comparison.needed}: {comparison.reason}"}


def _more(comparison: Diff) -> dict[str, str]:
    more = len(comparison.tensors) - SHOWN
    return {"tensors": f"and {more:,} more; --json lists all"} if more > 0 else {}


def _result(moved: Moved, drift: Drift) -> str:
    largest = "" if moved.largest is None else f", by at most {moved.largest:.3g}"
    return f"differs in {moved.cells} of the {drift.cells or 'compared'} test cells{largest}"


def _metric(metric: str, comparison: Diff) -> str:
    """Return a metric's name without data set and split, where no other has the same."""
    name = metric.partition(" on ")[0]
    return name if [other.field.partition(" on ")[0] for other in comparison.metrics].count(name) == 1 else metric


def _names(names: Names) -> str:
    counted = {"added": names.added, "removed": names.removed}
    parts = [f"{len(each)} {what}: {errors.names(each, shown=SHOWN)}" for what, each in counted.items() if each]
    return "; ".join([*parts, *(["in another order"] if names.reordered else [])])


def _value(value: Change) -> str:
    return f"{_short(value.before)} → {_short(value.after)}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _drift(drift: Drift) -> str:
    if not drift.cells:
        return f"not compared: {drift.reason}"
    if not drift.largest:
        return f"the {drift.cells} test cells did not move"
    return (
        f"the {drift.cells} test cells moved by {drift.mean:.3g} on average and at most {drift.largest:.3g}; they are "
        f"{drift.spread:.3g} from their centre"
    )


def log(model: options.ModelName, hub: options.HubFolder = None, as_json: options.Json = False) -> None:
    """Show what a release was made from.

    Walks from parent to parent, by digest, through your hub and the models that come with archzoo, up to the first one,
    and shows what each was trained on.

    For example:

    ```
    archzoo log my-lab/pbmc-scpoli-68k
    ```
    """
    steps = options.hub_at(hub).lineage(model)
    if as_json:
        screen.say_json([asdict(step) for step in steps])
    else:
        screen.say_table(STEPS, steps)


def _data(step: Step) -> str:
    return errors.names((f"{one.name} ({one.cells:,} cells)" for one in step.data), shown=2) if step.data else ""


def _how(step: Step) -> str:
    how = step.relation or ("the first" if step.hub else "")
    return f"{how}, yanked: {step.yanked}" if step.yanked else how
