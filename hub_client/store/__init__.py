"""Places that releases are in: folders, hubs on the network, the cache."""
