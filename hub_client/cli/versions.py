"""``archzoo diff``, ``log`` and ``yank``: what a version stands for, and where it comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub_client import errors
from hub_client.cli import options, screen
from hub_client.cli.screen import Column

if TYPE_CHECKING:
    from hub_client.checks.diff import Diff, Drift
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

    Reports which genes, conditions, labels, settings and metrics differ, how far the same test cells lie apart in the
    two latents, and which part of the version such a change has to raise.

    For example:

    ```
    archzoo diff my-lab/kidney@1.0.0 my-lab/kidney@1.1.0
    archzoo diff pbmc-scpoli ./mapped-model
    ```
    """
    place = options.hub_at(hub)
    before, after = place.pull(model), place.pull(other)

    from hub_client.checks.diff import diff as compare  # after the names were found: this loads torch

    comparison = compare(before, after)
    if as_json:
        screen.say_json(asdict(comparison))
        return
    screen.say(f"{before.ref or model}\n{after.ref or other}\n")
    screen.say_facts(_lines(comparison))


def _lines(comparison: Diff) -> dict[str, str]:
    lines = {names.field: _names(names) for names in comparison.names}
    lines |= {value.field: _value(value) for value in comparison.values}
    lines |= {_metric(metric.field, comparison): _value(metric) for metric in comparison.metrics}
    return lines | {"latent": _drift(comparison.drift), "version needed": f"{comparison.needed}: {comparison.reason}"}


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

    Walks from parent to parent, by digest, through your hub and the models that come with archzoo, up to the first one.

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


def _how(step: Step) -> str:
    how = step.relation or ("the first" if step.hub else "")
    return f"{how}, yanked: {step.yanked}" if step.yanked else how
