"""Parts of the command line: the parser, the errors, and the files of a run."""
