"""What one release is: its files, its card, its name and version, who signed it."""
