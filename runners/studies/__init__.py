"""Studies: grids of runs, from a file to a directory of cells."""
