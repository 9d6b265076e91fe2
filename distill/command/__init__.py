"""What the command line is made of: parser, errors, and the files of a run."""
