"""What is kept: vectors, their checks, the store. No torch here."""
