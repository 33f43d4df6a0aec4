"""Templates in the manner of known models, conversations, small tokenizers: what tests and golden file share."""

import json
from typing import Any

from jaxrl_llm.data.tokenizers.json_format import BYTE_LETTERS

# In the manner of Qwen 2.5: a default system message, and branches for tools that are not taken.
QWEN25 = r"""{%- set given = messages[0].role == 'system' %}
{{- '<|im_start|>system\n' }}
{{- messages[0].content if given else 'You are a model of our own.' }}
{%- if tools %}
    {{- '\n\nTools:' }}
    {%- for tool in tools %}
        {{- '\n' + tool | tojson }}
    {%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in (messages[1:] if given else messages) %}
    {{- '<|im_start|>' + message.role }}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>\n' + call | tojson + '\n</tool_call>' }}
        {%- endfor %}
    {%- else %}
        {{- '\n' + message.content }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# In the manner of Qwen 3: the thoughts of earlier turns are left out, the last turn always has a place for them.
QWEN3 = r"""{%- set state = namespace(asked=0) %}
{%- for message in messages if message.role == 'user' %}
    {%- set state.asked = state.asked + 1 %}
{%- endfor %}
{%- set questions = namespace(seen=0) %}
{%- for message in messages %}
    {%- set words = message.content %}
    {%- set thoughts = '' %}
    {%- if message.role == 'user' %}
        {%- set questions.seen = questions.seen + 1 %}
    {%- elif message.role == 'assistant' and '</think>' in words %}
        {%- set thoughts = words.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set words = words.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' }}
    {%- if message.role == 'assistant' and questions.seen == state.asked %}
        {{- '<think>\n' ~ thoughts ~ '\n</think>\n\n' }}
    {%- endif %}
    {{- words ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# In the manner of Llama 3.1: a system header in any case, with a date; all contents are trimmed.
LLAMA31 = r"""{%- macro turn(role, content) %}
    {{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' ~ content | trim ~ '<|eot_id|>' }}
{%- endmacro %}
{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- if date_string is not defined %}
    {%- set date_string = '1 Apr 2025' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {{- raise_exception('no tools here') }}
    {%- endif %}
    {{- turn(message['role'], message['content']) }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# In the manner of Mistral v3: the system message goes into the last question, wherever that is.
MISTRAL3 = r"""{{- bos_token }}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list | length %}
{%- set seen = namespace(questions=0, system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set seen.system = message.content + '\n\n' %}
    {%- elif message.role == 'user' %}
        {%- set seen.questions = seen.questions + 1 %}
        {{- '[INST] ' + (seen.system if seen.questions == asked else '') + message.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# In the manner of Gemma: the assistant is called model, there is no system, and line breaks stand in the strings.
GEMMA = r"""{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{
raise_exception('there is no system here') }}{% endif %}{{ '<start_of_turn>'
+ ('model' if message['role'] == 'assistant' else message['role']) + '
' }}{{ message['content'] | trim }}{{ '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model
' }}{% endif %}"""

# In the manner of Phi 3: special tokens that are built from the role, one of which takes in the line break after it.
PHI3 = r"""{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}{{ message['content'] + '<|end|>\n'
}}{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"""

# For training: the author says what the assistant writes.
BLOCKS = r"""{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

TEMPLATES = {
    "qwen25": QWEN25,
    "qwen3": QWEN3,
    "llama31": LLAMA31,
    "mistral3": MISTRAL3,
    "gemma": GEMMA,
    "phi3": PHI3,
    "blocks": BLOCKS,
}


def _talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    start = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant") * len(contents)
    return start + [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


CONVERSATIONS = {
    "one": _talk("Hello", "Hi there"),
    "system": _talk("the cat", "and\nthe hat  ", "then?", "größe 你好 🎉", system="Be the cat."),
    "asked": _talk("a b", "c", "d"),
    "thoughts": _talk("1 + 1", "<think>\nthat is two\n</think>\n\n2"),
    "thoughts before": _talk("1 + 1", "<think>\nthat is two\n</think>\n\n2", "and 3?", "5"),
}

SPECIAL = (
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
)
ORDINARY = ("<think>", "</think>")  # added to the vocabulary, but not special
# How Llama 3 cuts a text before it looks for tokens.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
WORDS = ("the", "and", "that", "there", "cat", "hat", "assistant", "user", "system", "ing", "in", "Hi", "is", "to")


def tokenizer_files(kind: str, **config: Any) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json of a small BPE: byte-level as Llama 3, or with U+2581 as Llama 2."""
    letters = list(BYTE_LETTERS) if kind == "bytes" else [f"<0x{byte:02X}>" for byte in range(256)]
    space = "Ġ" if kind == "bytes" else "▁"
    newline = "Ċ" if kind == "bytes" else "\n"
    if kind != "bytes":
        letters = ["<unk>", "<s>", "</s>", *letters, *map(chr, range(33, 127)), "▁", "\n"]
    merges = [[newline, newline], [space, space]]
    for word in (form for plain in WORDS for form in (plain, space + plain)):
        for end in range(2, len(word) + 1):
            if [word[: end - 1], word[end - 1]] not in merges:
                merges.append([word[: end - 1], word[end - 1]])
    vocab = {token: id for id, token in enumerate(dict.fromkeys([*letters, *(a + b for a, b in merges)]))}
    model: dict[str, Any] = {"type": "BPE", "vocab": vocab, "merges": merges}
    flags = {"single_word": False, "lstrip": False, "normalized": False}
    added = []
    for text in (*SPECIAL, *ORDINARY):
        id = vocab.get(text, max((len(vocab) - 1, *(token["id"] for token in added))) + 1)
        added.append(
            {"id": id, "content": text, "rstrip": text == "<|assistant|>", "special": text in SPECIAL, **flags}
        )
    parts: dict[str, Any] = {"normalizer": None, "post_processor": None}
    if kind == "bytes":
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
        parts |= {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level}
    else:
        model |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
        scheme = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": kind, "split": False}
        steps = [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            *({"type": kind} for kind in ("ByteFallback", "Fuse")),
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]
        parts |= {"pre_tokenizer": scheme, "decoder": {"type": "Sequence", "decoders": steps}}
    whole = {"version": "1.0", "added_tokens": sorted(added, key=lambda token: token["id"]), **parts, "model": model}
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    return {
        "tokenizer.json": json.dumps(whole, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(said, ensure_ascii=False),
    }


KINDS = ("bytes", "first", "always")  # the last two: where a space is put, as the library calls it
TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "the cat and the hat",
    "größe 你好，世界 🎉👩‍👩‍👧 e\u0301 é",
    "a\n\nb\tc  d   e\r\n",
    "x",
    "",
    "1234 + 5678 = 6912; f(x) == y != z",
    "Ünïcödé — “quotes” … ½ ﬁ\u00a0\u3000x",
    "a\x00b",
    "русский текст, ελληνικά, עברית, العربية, हिन्दी, ไทย",
]
