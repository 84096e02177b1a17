"""Routes for clients, one file for each group."""
