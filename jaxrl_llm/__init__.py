"""jaxrl_llm: train a Llama-style language model through its whole life, in JAX."""

__version__ = "0.1.0"
