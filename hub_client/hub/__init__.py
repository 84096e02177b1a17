"""What a user does with hubs: pull, push, search, pin, trace where a release comes from."""
