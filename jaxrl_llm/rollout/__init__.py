"""The policy writes: sampling from logits, and the jitted sampler."""
