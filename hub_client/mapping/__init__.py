"""map_query, its receipt, and a mapping made again from one."""
