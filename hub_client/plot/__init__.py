"""Every picture, one function each."""

from hub_client.plot.gene_programs import bayes_factors, term_genes, term_scores

__all__ = ["bayes_factors", "term_genes", "term_scores"]
