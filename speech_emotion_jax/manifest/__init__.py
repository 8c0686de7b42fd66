"""The clips of a corpus: the table that lists them, the files that hold it, and whether all of them can be used."""
