"""scVI, scANVI and totalVI, through scvi-tools."""
