"""Chat messages to the text that a model was tuned on, by the jinja2 template that it ships.

Templates come from strangers, so they run in jinja2's sandbox. They see what transformers shows them:
the messages, tools, special tokens, `raise_exception`, `strftime_now`, `tojson`, and the tag
`{% generation %}`. A rendered text holds its special tokens itself: encode it with
`Tokenizer.encode`, which adds none.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.sandbox

from gpg_jax.data.tokenizers import Tokenizer, read_special_tokens

Message = Mapping[str, Any]
"""`{"role": "user", "content": "…"}`, and whatever else the template reads."""


class ChatTemplate(NamedTuple):
    """A template and the special tokens that it may name.

    Attributes:
      source: jinja2.
      special_tokens: role -> text: "bos_token", "eos_token", ….
    """

    source: str
    special_tokens: Mapping[str, str]


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what the assistant wrote; its content is kept."""

    tags = {"generation"}  # noqa: RUF012, jinja2's way

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # jinja2's own filter escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def load_chat_template(folder: str | Path, name: str = "default") -> ChatTemplate:
    """Reads the chat template of a Hugging Face folder.

    Args:
      folder: with `chat_template.jinja`, or a `tokenizer_config.json` that holds the template.
      name: which one, where `tokenizer_config.json` holds several.

    Returns:
      A `ChatTemplate`.

    Raises:
      ValueError: the model has no chat template, or none of that name.
    """
    folder = Path(folder)
    special_tokens = read_special_tokens(folder)
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file() and name == "default":
        return ChatTemplate(file.read_text(encoding="utf-8"), special_tokens)
    found = (
        json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    )
    named = (
        {"default": found}
        if isinstance(found, str)
        else {one["name"]: one["template"] for one in found or []}
    )
    if name not in named:
        have = (
            f"only {', '.join(named)}"
            if named
            else "none: it is a base model; write its prompts as plain text"
        )
        raise ValueError(f"{folder} has no chat template {name!r}; it has {have}")
    return ChatTemplate(named[name], special_tokens)


def render_chat(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    now: datetime.datetime | None = None,
    **variables: Any,
) -> str:
    """The text of a conversation, equal to transformers' `apply_chat_template(…, tokenize=False)`.

    Args:
      template: from `load_chat_template`.
      messages: the conversation.
      add_generation_prompt: whether to open the assistant's turn.
      tools: JSON schemas of functions that the model may call.
      now: the date that a template may write into the prompt; the present if None. Give one where a
        run must be repeatable.
      **variables: whatever else the template reads, such as `enable_thinking`.

    Returns:
      The text, special tokens included.

    Raises:
      ValueError: a template that is broken or refuses these messages.
    """

    def strftime_now(form: str) -> str:
        return (now or datetime.datetime.now()).strftime(form)

    context = {"documents": None, **template.special_tokens, **variables}
    context |= {"messages": list(messages), "tools": tools, "strftime_now": strftime_now}
    try:
        return _compile(template.source).render(context, add_generation_prompt=add_generation_prompt)
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error


def chat_tokens(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], **options: Any
) -> list[int]:
    """The token ids of a conversation that the assistant is to continue, no token added or doubled.

    Args:
      tokenizer: the model's.
      template: the model's.
      messages: the conversation.
      **options: of `render_chat`.

    Returns:
      Token ids.
    """
    return tokenizer.encode(render_chat(template, messages, **options))
