"""What an expiMap's terms are after training: which are active, which way they point, and what each gene weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hub_client import errors
from hub_client.models.architectures import Array, Network
from hub_client.models.model import Model

Method = Literal["expression", "sum", "counts"]


class Directions(NamedTuple):
    """Which way terms point."""

    signs: NDArray[np.float32]
    """1 where a high score means high expression of the term's genes, -1 where it means low, 0 where neither, or where
    the term has no weights, ``(terms,)``."""
    confidence: NDArray[np.float32] | None = None
    """How far the share of positive weights is from a half, in [0, 1], ``(terms,)``; None but for ``counts``."""


def term_weights(model: Model) -> Array:
    """Return each gene's weight in each term, ``(genes, terms)``, in the manifest's order.

    Raises
    ------
    Unsupported
        If the model has no gene programs.
    """
    return model.network.term_weights()


def active_terms(model: Model) -> NDArray[np.bool_]:
    """Return which terms have a weight left, ``(terms,)``: the group lasso empties whole terms.

    The score of an empty term means nothing: the encoder's output for it is drawn to the prior.

    Raises
    ------
    Unsupported
        If the model has no gene programs.
    """
    active: NDArray[np.bool_] = np.abs(term_weights(model)).max(axis=0, initial=0) > 0
    return active


def term_directions(model: Model, *, method: Method = "expression") -> Directions:
    """Return which way each term points: scores times the signs are high where the term's genes are.

    Parameters
    ----------
    model
        An expiMap.
    method
        By whether the program's expected ``expression`` rises with the score, which is what the manifest records
        (:meth:`hub_client.models.architectures.expimap.ExpiMap.directions` has the formula); by the sign of the ``sum``
        of the weights; or by whether more of them are positive than negative (``counts``). The last two are scArches',
        and count all weights, with a soft mask also those of genes outside the program.

    Raises
    ------
    InvalidInput
        If there is no such method.
    Unsupported
        If the model has no gene programs.
    """
    if method not in METHODS:
        raise errors.InvalidInput(
            f"method is {method!r}; it is one of {errors.names(get_args(Method))}.", facts={"method": method}
        )
    return METHODS[method](model.network)


def _by_counts(network: Network) -> Directions:
    weights = network.term_weights()
    weighing, positive = np.count_nonzero(weights, axis=0), np.count_nonzero(weights > 0, axis=0)
    lead = np.where(weighing > 0, 2 * positive / np.maximum(weighing, 1) - 1, 0).astype(np.float32)
    return Directions(np.sign(lead), np.abs(lead))


METHODS: Mapping[str, Callable[[Network], Directions]] = {
    "expression": lambda network: Directions(network.directions().astype(np.float32)),
    "sum": lambda network: Directions(np.sign(network.term_weights().sum(axis=0, dtype=np.float64)).astype(np.float32)),
    "counts": _by_counts,
}


def term_genes(model: Model, term: str | int) -> pd.DataFrame:
    """Return the genes that weigh in a term, heaviest first, whichever their sign.

    Parameters
    ----------
    model
        An expiMap.
    term
        The term's id, name or position.

    Returns
    -------
    pandas.DataFrame
        ``genes``, ``weights``, and ``in_mask``: whether the gene is in the annotated program.

    Raises
    ------
    VocabularyError
        If the model has no such term.
    Unsupported
        If the model has no gene programs.
    """
    position = position_of(model, term)
    weights = term_weights(model)[:, position]
    order = np.argsort(-np.abs(weights), kind="stable")[: np.count_nonzero(weights)]
    genes, program = np.array(model.manifest.genes.names, dtype=object)[order], {*model.manifest.terms[position].genes}
    return pd.DataFrame(
        {"genes": genes, "weights": weights[order], "in_mask": [gene in program for gene in genes.tolist()]}
    )


def program_genes(model: Model) -> dict[str, list[str]]:
    """Return the genes of each program, in the panel's order, by the term's name; terms without one are left out.

    Raises
    ------
    Unsupported
        If the model has no gene programs.
    """
    term_weights(model)
    position = model.manifest.genes.positions()
    programs = [term for term in model.manifest.terms if term.kind != "unconstrained"]
    return {term.name: sorted(term.genes, key=position.__getitem__) for term in programs}


def position_of(model: Model, term: str | int) -> int:
    """Return a term's position by its id, name or position.

    Raises
    ------
    VocabularyError
        If the model has no such term.
    """
    terms = model.manifest.terms
    found = [position for position, known in enumerate(terms) if term in (position, known.id, known.name)]
    if not found:
        raise errors.VocabularyError(
            f"the model has no term {term!r}; it has {errors.names([known.name for known in terms])}.",
            field="terms",
            unknown=[str(term)],
            known=[known.name for known in terms],
        )
    return found[0]
