"""The learner: optimizers, schedules, state, the one step, the one loop, checkpoints and what one sees of a run."""
