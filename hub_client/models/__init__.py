"""A manifest and its network, and the verbs that change or read one."""
