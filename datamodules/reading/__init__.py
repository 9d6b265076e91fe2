"""Files and formats: what lies on disk, read with errors that name the file."""
