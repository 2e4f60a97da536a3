"""Training of mem vectors: the engine, the batch scheduler, one job per passage, optimizers, the preconditioner."""
