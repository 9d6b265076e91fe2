"""What lets a stopped fit go on as if it had never stopped."""
