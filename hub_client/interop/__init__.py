"""Import and export of folders that scArches and scvi-tools save; they are read as data and never executed."""
