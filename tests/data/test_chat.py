"""Chat templates: what models ship, rendered here and by transformers."""

import datetime
import json

import pytest

from gpg_jax.data.chat import ChatTemplate, chat_tokens, load_chat_template, render_chat
from gpg_jax.data.tokenizers import character_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 7 * 8? <b>&</b>"},
    {"role": "assistant", "content": " 56 "},
    {"role": "user", "content": "Sure?"},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "a & b < c", "parameters": {"é": [1, None]}},
    }
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
# In the manner of ChatML, Llama 3, Mistral and the trainable templates; each uses other helpers.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}\n"
    ),
    "dated": (
        "{{- bos_token }}\n{%- if not date_string is defined %}\n"
        "    {%- set date_string = strftime_now('%d %b %Y') %}\n"
        "{%- endif %}\nToday: {{ date_string }}\n{% for m in messages %}\n"
        "    [{{ m.role }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}\n"
    ),
    "tools": (
        "{%- set ns = namespace(first=true) %}{%- if tools is not none %}{%- for tool in tools %}"
        "{{- tool | tojson }}{{- '\n' + (tool | tojson(indent=2)) }}{%- endfor %}{%- endif %}"
        "{%- for m in messages %}{%- if ns.first %}{{- bos_token }}{%- set ns.first = false %}{%- endif %}"
        "{%- if m['role'] == 'system' %}{%- continue %}{%- endif %}{{- loop.index0 ~ m['content'] }}"
        "{%- if loop.last %}{%- break %}{%- endif %}{%- endfor %}{{- thinking | default('no') }}"
    ),
    "trainable": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\n    {{ m.content }}"
        "{{ eos_token }}{% endgeneration %}\n{% else %}{{ m.content }}\n{% endif %}\n{% endfor %}"
    ),
}
# Written out by hand from the rules of jinja2: a newline after a block tag goes, and so do blanks
# before one on its line.
EXPECTED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 7 * 8? <b>&</b><|im_end|>\n"
        "<|im_start|>assistant\n 56 <|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "dated": (
        "<s>Today: 03 Feb 2024\n    [system] Be brief.</s>\n    [user] What is 7 * 8? <b>&</b></s>\n"
        "    [assistant] 56</s>\n    [user] Sure?</s>\n"
    ),
    "tools": "<s>1What is 7 * 8? <b>&</b>2 56 3Sure?no",
    "trainable": "Be brief.\nWhat is 7 * 8? <b>&</b>\n     56 </s>Sure?\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering(name):
    text = render_chat(ChatTemplate(TEMPLATES[name], SPECIAL), MESSAGES, now=datetime.datetime(2024, 2, 3))
    assert text == EXPECTED[name]


def test_what_the_caller_says_reaches_the_template():
    assert "assistant\n56" not in render_chat(ChatTemplate(TEMPLATES["chatml"], SPECIAL), MESSAGES[:1])
    closed = render_chat(
        ChatTemplate(TEMPLATES["chatml"], SPECIAL), MESSAGES[:1], add_generation_prompt=False
    )
    assert closed == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert render_chat(ChatTemplate(TEMPLATES["tools"], SPECIAL), MESSAGES, thinking="yes").endswith("yes")
    text = render_chat(ChatTemplate(TEMPLATES["tools"], SPECIAL), [], tools=TOOLS)
    assert text.startswith(json.dumps(TOOLS[0], ensure_ascii=False))
    assert "a & b < c" in text


def test_templates_that_refuse():
    refuses = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        render_chat(refuses, MESSAGES)
    with pytest.raises(ValueError, match="refuses these messages"):
        render_chat(ChatTemplate("{{ 'a' + messages[0].content }}", {}), [{"role": "user", "content": None}])
    with pytest.raises(ValueError, match="refuses these messages"):
        render_chat(ChatTemplate("{% for %}", {}), MESSAGES)


@pytest.mark.parametrize(
    "attack",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ raise_exception.__globals__['os'] }}"],
)
def test_templates_run_in_a_sandbox(attack):
    with pytest.raises(ValueError, match="unsafe"):
        render_chat(ChatTemplate(attack, {}), MESSAGES)


def test_loading(tmp_path):
    with pytest.raises(ValueError, match="no chat template 'default'; it has none: it is a base model"):
        load_chat_template(tmp_path)
    settings = {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "chat_template": "A{{ bos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_chat_template(tmp_path) == ChatTemplate(
        "A{{ bos_token }}", {"eos_token": "</s>", "bos_token": "<s>"}
    )
    several = [{"name": "default", "template": "B"}, {"name": "tool_use", "template": "C"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert load_chat_template(tmp_path).source == "B"
    assert load_chat_template(tmp_path, "tool_use").source == "C"
    with pytest.raises(ValueError, match="no chat template 'rag'; it has only default, tool_use"):
        load_chat_template(tmp_path, "rag")
    (tmp_path / "chat_template.jinja").write_text("D")
    assert load_chat_template(tmp_path).source == "D"


def test_tokens_are_those_of_the_text_and_no_more():
    tokenizer = character_tokenizer("<s>Q:7*8\n")
    template = ChatTemplate("{{ bos_token }}Q:{{ messages[0].content }}\n", {"bos_token": "<s>"})
    assert tokenizer.decode(chat_tokens(tokenizer, template, [{"content": "7*8"}])) == "<s>Q:7*8"


@pytest.mark.parity
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [True, False])
def test_text_equals_that_of_transformers(name, tools, prompt, tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="parity with transformers needs the extra `parity`"
    )
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    theirs.chat_template = TEMPLATES[name]
    theirs.save_pretrained(tmp_path)
    template = load_chat_template(tmp_path)
    expected = theirs.apply_chat_template(
        MESSAGES, tools=tools, tokenize=False, add_generation_prompt=prompt, date_string="today"
    )
    assert (
        render_chat(template, MESSAGES, tools=tools, add_generation_prompt=prompt, date_string="today")
        == expected
    )
