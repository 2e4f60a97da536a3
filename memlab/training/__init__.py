"""Training of mem vectors: the scheduler, one job a passage, optimizers, the preconditioner."""
