"""What was downloaded, and what hubs stated."""
