"""What was downloaded, and what hubs said."""
