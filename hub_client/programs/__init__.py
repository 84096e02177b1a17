"""Gene programs: read from files, matched to a model's genes, read out after training."""

from hub_client.programs.programs import Chosen, Program, as_terms, from_frame, genes_of, read_gmt, read_table

__all__ = ["Chosen", "Program", "as_terms", "from_frame", "genes_of", "read_gmt", "read_table"]
