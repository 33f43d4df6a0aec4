"""Text as it comes, token by token."""

import codecs

from jaxrl_llm.data.tokenizers import Tokenizer


class Detokenizer:
    """Turns ids into text one at a time: what it gives, put together, is `tokenizer.decode` of all the ids.

    It never gives half a character: a token that ends within one gives the text before it, and the rest comes with
    the token that completes it.  A token costs the same wherever it stands.

    >>> text = Detokenizer(tokenizer)
    >>> for id in ids:
    ...     print(text.push(id), end="", flush=True)
    >>> print(text.flush())
    """

    def __init__(self, tokenizer: Tokenizer, continued: bool = False) -> None:
        self._tokenizer = tokenizer
        self._drops_space = tokenizer.starts_with_space and not continued
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The characters that this id completes, perhaps none."""
        return self._begin(self._characters.decode(self._tokenizer.piece(id)))

    def flush(self) -> str:
        """What is left when no more ids come: U+FFFD for a character that was never completed, or nothing."""
        return self._begin(self._characters.decode(b"", final=True))

    def _begin(self, text: str) -> str:
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text
