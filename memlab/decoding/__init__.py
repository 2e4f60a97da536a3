"""Free-running decoding, the checks it gives, and vectors for other programs."""
