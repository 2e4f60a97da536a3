"""Loss and gradient of many passages in one pass, and its cost: memory and time."""
