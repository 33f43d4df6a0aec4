"""`python -m jaxrl_llm` is `jaxrl-llm`."""

from jaxrl_llm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
