"""Loss and gradient of many passages in one pass, and what that takes: memory, time."""
