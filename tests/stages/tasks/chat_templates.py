"""Chat templates of well-known families, and what each writes around a prompt."""

from __future__ import annotations

LOOP = "{% for message in messages %}"
END = "{% endif %}"


def write_template(user: str, answer: str, asking: str = "", before: str = "") -> str:
    """A template of what it writes for a user, for an answer, for no answer yet, and first."""
    turn = "{% if message['role'] == 'user' %}" + user + "{% else %}" + answer + END
    ask = "{% if add_generation_prompt %}" + asking + END
    return before + LOOP + turn + "{% endfor %}" + ask


IM_TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
CHATML = write_template(
    IM_TURN,
    IM_TURN,
    "{{ '<|im_start|>assistant\n' }}",
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    + END,
)
QWEN3 = write_template(
    IM_TURN,
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message['content'].lstrip('\n') }}"
    "{{ '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false"
    " %}{{ '<think>\n\n</think>\n\n' }}" + END,
)
DEEPSEEK = write_template(
    "{{ '<|User|>' + message['content'] }}",
    "{{ '<|Assistant|>' + message['content'].split('</think>')[-1] + eos_token }}",
    "{{ '<|Assistant|><think>\n' }}",
    "{{ bos_token }}",
)
LLAMA2 = write_template(
    "{% if loop.index0 % 2 %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}",
    "{{ ' '  + message['content'].strip() + ' ' + eos_token }}",
)
LLAMA3_TURN = (
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
)
LLAMA3 = write_template(
    LLAMA3_TURN,
    LLAMA3_TURN,
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}{{ bos_token }}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '<|eot_id|>' }}",
)
GEMMA = write_template(
    "{{ '<start_of_turn>user\n' + message['content'] | trim + '<end_of_turn>\n' }}",
    "{{ '<start_of_turn>model\n' + message['content'] | trim + '<end_of_turn>\n' }}",
    "{{ '<start_of_turn>model\n' }}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}" + END,
)
MISTRAL = write_template(
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}",
    "{{ message['content'] + eos_token }}",
    before="{{ bos_token }}",
)
VICUNA = write_template(
    "{{ 'USER: ' + message['content'] + ' ' }}",
    "{{ 'ASSISTANT: ' + message['content'] + eos_token }}",
    "{{ 'ASSISTANT: ' }}",
)
HARMONY = write_template(
    "{{ '<|start|>user<|message|>' + message['content'] + '<|end|>' }}",
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|end|>' }}",
    "{{ '<|start|>assistant' }}",
)
PLAIN = (
    "{% for m in messages %}{{ '#' + m.role + '\n' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '#assistant\n' }}{% endif %}"
)

ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
FAMILIES = {
    "chatml": (
        CHATML,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n",
        ASSISTANT,
        "",
    ),
    "qwen3": (QWEN3, "<|im_start|>user\n", ASSISTANT + "<think>\n\n</think>\n\n", ""),
    "deepseek": (DEEPSEEK, "<s><|User|>", "<|Assistant|><think>\n\n</think>\n\n", ""),
    "llama2": (LLAMA2, "<s>[INST] ", " [/INST]", " "),
    "llama3": (
        LLAMA3,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "",
    ),
    "gemma": (GEMMA, "<s><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", ""),
    "mistral": (MISTRAL, "<s>[INST] ", " [/INST]", ""),
    "vicuna": (VICUNA, "USER: ", " ASSISTANT:", " "),
    "harmony": (
        HARMONY,
        "<|start|>user<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "",
    ),
}
