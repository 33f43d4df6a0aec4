"""Evaluation of models: perplexity on held-out text."""
