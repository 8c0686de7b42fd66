"""A bulk run: which clips share a batch, reading ahead, scoring on a mesh, saving, and what every host does of it."""
