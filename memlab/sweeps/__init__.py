"""Many runs: a plan, what is missing of it, and who trains it."""
