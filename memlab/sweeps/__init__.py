"""Many runs: a plan of them, which results are missing, and the workers that train them."""
