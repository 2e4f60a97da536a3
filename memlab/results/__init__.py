"""Results: vectors, their checks, the store, and the checkpoints of unfinished trainings. No torch here."""
