"""Every picture, one function each."""

from hub_client.plot.gene_programs import bayes_factors, term_genes, term_scores
from hub_client.plot.label_audit import label_audit

__all__ = ["bayes_factors", "label_audit", "term_genes", "term_scores"]
