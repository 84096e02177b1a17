"""validate(): is a release fit to be given to others? What push asks, too."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import ndiff
from pathlib import Path
from string import Template
from typing import Literal

from hub_client import errors
from hub_client.checks.verify import verify
from hub_client.manifest.publishing import publishing_problems
from hub_client.manifest.reading import read_header
from hub_client.manifest.v1 import FileSpec
from hub_client.models.model import Model
from hub_client.release import folder as release_folder
from hub_client.release import privacy, signing
from hub_client.release.store import Store

Severity = Literal["error", "warning", "info"]
_SHOWN = 60
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that was found: the check that found it, how bad it is, and a sentence.

    ``error``: the release is not what it states, or gives away what it must not; push refuses it. ``warning``: it could
    not be published as it is. ``info``: good to know.
    """

    check: str
    severity: Severity
    message: str


@dataclass(frozen=True)
class Validation:
    """What all checks found."""

    passed: tuple[str, ...]
    """What each check that found nothing made sure of."""
    findings: tuple[Finding, ...]
    """The worst first."""

    @property
    def publishable(self) -> bool:
        """Whether the release could be published as it is."""
        return all(finding.severity == "info" for finding in self.findings)

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings that are as bad as this."""
        return [finding for finding in self.findings if finding.severity == severity]


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    release: release_folder.Release
    """The release, its files checked."""
    stores: Sequence[Store] = ()
    """Where other releases with the same weights are looked for."""
    trust: Path | None = None
    """The file of trusted publishers; None asks nobody's signature."""
    name: str = ""
    """What the release is called in its repository; weights of that name are not pointed out."""


def validate(
    folder: Path, *, stores: Sequence[Store] = (), trust: Path | None = None, name: str = "", load: bool = True
) -> Validation:
    """Return what is wrong with the release in a folder.

    Parameters
    ----------
    folder
        A whole release.
    stores
        Hubs in which other names for the same weights are looked for.
    trust
        A file of publishers whose signatures are accepted; a release that none of them signed is warned of then.
    name
        The release's name there.
    load
        Whether the network is built also of a release without test vectors; a push always does.

    Raises
    ------
    NotFound, ManifestError
        If there is no manifest in the folder, or it cannot be read.
    """
    try:
        release = release_folder.read(folder)
    except errors.IntegrityError as error:
        return Validation((), (Finding("files", "error", str(error)),))
    return check(release, stores=stores, trust=trust, name=name, load=load)


def check(
    release: release_folder.Release,
    *,
    stores: Sequence[Store] = (),
    trust: Path | None = None,
    name: str = "",
    load: bool = True,
) -> Validation:
    """Return what is wrong with a release that was read; parameters as :func:`validate`."""
    subject = Subject(release, stores, trust, name)
    built = load or release.manifest.test_vectors is not None
    checks = {name: row for name, row in _CHECKS.items() if built or name != "network"}
    found = {name: list(run(subject)) for name, (run, _) in checks.items()}
    passed = ["files and manifest agree", *(checks[name][1] for name, findings in found.items() if not findings)]
    findings = [finding for findings in found.values() for finding in findings]
    return Validation(tuple(passed), tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity))))


def refuse(found: Validation, *, what: str) -> None:
    """Raise an error that states why a release is not fit for others, if anything that was found is one.

    Raises
    ------
    InvalidInput
        If it gives away what it must not.
    IntegrityError
        If it is not what it states.
    """
    bad = found.of("error")
    if not bad:
        return
    message = "\n  ".join([f"{what} is not released:", *(f"{finding.check}: {finding.message}" for finding in bad)])
    if all(finding.check == "privacy" for finding in bad):
        raise errors.InvalidInput(message, facts={"problems": [finding.message for finding in bad]})
    raise errors.IntegrityError(message, file=release_folder.MANIFEST)


def as_html(title: str, found: Validation) -> str:
    """Return a validation as a page that needs nothing else."""
    rows = [(str(one.severity), one.check, one.message) for one in found.findings]
    rows += [("passed", "", passed) for passed in found.passed]
    cells = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows)
    body = "\n".join(f'<tr class="{row[0]}">{line}</tr>' for row, line in zip(rows, cells, strict=True))
    verdict = "could be published as it is" if found.publishable else "could not be published as it is"
    return _PAGE.substitute(title=html.escape(title), verdict=verdict, rows=body)


def _fields(subject: Subject) -> Iterator[Finding]:
    for problem in publishing_problems(subject.release.manifest):
        yield Finding("fields", "info" if problem.startswith("created:") else "warning", problem)


def _card(subject: Subject) -> Iterator[Finding]:
    stated, rendered = (text.splitlines() for text in (subject.release.card, subject.release.rendered_card))
    if stated != rendered:
        lines = [line[2:] for line in ndiff(stated, rendered) if line.startswith("- ") and line[2:].strip()]
        first = f", as in {lines[0][:_SHOWN]!r}" if lines else ""
        fault = (
            f"differs from the card that this archzoo makes of the manifest{first}: it was edited, or made by another "
            "version. Saving the model again makes it anew."
        )
        yield Finding("card", "info", f"{release_folder.CARD} {fault}")


def _privacy(subject: Subject) -> Iterator[Finding]:
    yield from (Finding("privacy", leak.severity, str(leak)) for leak in privacy.leaks(subject.release))


def _network(subject: Subject) -> Iterator[Finding]:
    """Labels, vocabulary and tensors agree if the network that the manifest describes takes them."""
    try:
        model = Model.of(subject.release)
    except errors.HubClientError as error:  # whatever pull would raise
        yield Finding("network", "error", str(error))
        return
    if subject.release.manifest.test_vectors is None:
        yield Finding("test vectors", "warning", "it has no test vectors, so that nobody can check what it computes")
        return
    try:
        verify(model)
    except (errors.IntegrityError, errors.ManifestError) as error:
        yield Finding("test vectors", "error", str(error))


def _signature(subject: Subject) -> Iterator[Finding]:
    document = (subject.release.folder / release_folder.MANIFEST).read_bytes()
    asked: Severity = "info" if subject.trust is None else "warning"
    try:
        signature = signing.check(document, source=subject.release.manifest.name)
    except errors.IntegrityError as error:
        yield Finding("signature", "error", str(error))
        return
    if signature is None:
        yield Finding("signature", asked, "nobody signed it")
        return
    known = signing.trusted(subject.trust or signing.trust_file())
    if signature.key in known:
        yield Finding("signature", "info", f"signed by {known[signature.key]}, whom you trust")
        return
    by = f"signed by a key that calls itself {signature.publisher!r} (ed25519:{signature.key[:12]}…)"
    yield Finding("signature", asked, f"{by} and is not in your trust file")


def _identity(subject: Subject) -> Iterator[Finding]:
    """Point out the same weights under another name."""
    ours = _weights(subject.release.manifest.files)
    for store in subject.stores:
        for repo in store.repos():
            if repo.split("/")[-1] != subject.name.split("/")[-1] and (same := _same_weights(store, repo, ours)):
                yield Finding("identity", "info", f"these weights are released already, as {same}")


def _same_weights(store: Store, repo: str, weights: str) -> str | None:
    """Return the newest release of a repository that has these weights; None also where it cannot be read."""
    try:
        refs = store.releases(repo)
        for ref in reversed(refs):
            document = store.read(ref, release_folder.MANIFEST)
            if weights.encode() not in document:  # reading a manifest whole takes a hundred times as long
                continue
            if _weights(read_header(document, source=str(ref)).files) == weights:
                return str(ref)
    except (errors.IntegrityError, errors.ManifestError, errors.Restricted):
        return None
    return None


def _weights(files: Iterable[FileSpec]) -> str:
    return next(file.sha256 for file in files if file.path == release_folder.WEIGHTS)


_CHECKS: dict[str, tuple[Callable[[Subject], Iterator[Finding]], str]] = {
    "fields": (_fields, "every field that a published release needs is filled"),
    "card": (_card, "the card is in step with the manifest"),
    "privacy": (_privacy, "no barcodes, donors, persons, file paths or addresses found"),
    "network": (_network, "test vectors reproduced"),
    "signature": (_signature, "signed"),
    "identity": (_identity, "no other name for these weights in the hub"),
}
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid #ddd; padding: .4rem .6rem; vertical-align: top; white-space: pre-wrap }
.error td:first-child { color: #a40000; font-weight: bold }
.warning td:first-child { color: #8a5a00; font-weight: bold }
.passed td:first-child { color: #1a6b1a }
</style></head>
<body><h1>$title</h1><p>It $verdict.</p>
<table>
$rows
</table></body></html>
""")
