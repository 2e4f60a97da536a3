"""Free-running decoding, the checks that it gives, and export of vectors to other programs."""
