"""A query in a model's genes."""
