"""What is asked of a release: does it still give what it gave, is it fit for others, what changed since another."""
