"""The fence: what is used of other libraries beyond their public names, one module a library."""
