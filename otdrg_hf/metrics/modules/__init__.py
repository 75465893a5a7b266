"""The metrics as `evaluate` modules, one file each, that `evaluate.load` reads by path without a network."""
