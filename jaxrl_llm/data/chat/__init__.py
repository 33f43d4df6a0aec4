"""Conversations as text and as tokens, by the template that the model was trained with.

>>> template = find_template(tokenizer)
>>> template.render([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
'<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'
>>> ids, trained = tokenize_chat(tokenizer, template, messages)
"""

from jaxrl_llm.data.chat.template import BUNDLED, Message, Template, find_template, with_bos
from jaxrl_llm.data.chat.tokens import (
    ChatTokens,
    chat_stop_ids,
    tokenize_asking,
    tokenize_chat,
    tokenize_prompt,
    tokenize_turns,
)

__all__ = [
    "BUNDLED",
    "ChatTokens",
    "Message",
    "Template",
    "chat_stop_ids",
    "find_template",
    "tokenize_asking",
    "tokenize_chat",
    "tokenize_prompt",
    "tokenize_turns",
    "with_bos",
]
