"""Chat templates of well-known families, and what each writes around a prompt."""

from __future__ import annotations

LOOP = "{% for message in messages %}"
ASK = "{% endfor %}{% if add_generation_prompt %}"
END = "{% endif %}"
BODY = "message['content']"
USER = "{% if message['role'] == 'user' %}"

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    + END
    + LOOP
    + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    + ASK
    + "{{ '<|im_start|>assistant\n' }}"
    + END
)
QWEN3 = (
    LOOP
    + USER
    + "{{ '<|im_start|>user\n' + message['content'] + '<|im_end|>\n' }}{% else %}"
    + "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message['content'].lstrip('\n') }}"
    + "{{ '<|im_end|>\n' }}"
    + END
    + ASK
    + "{{ '<|im_start|>assistant\n' }}"
    + "{% if enable_thinking is defined and enable_thinking is false %}"
    + "{{ '<think>\n\n</think>\n\n' }}"
    + END
    + END
)
DEEPSEEK = (
    "{{ bos_token }}"
    + LOOP
    + USER
    + "{{ '<|User|>' + message['content'] }}{% else %}"
    + "{{ '<|Assistant|>' + message['content'].split('</think>')[-1] + eos_token }}"
    + END
    + ASK
    + "{{ '<|Assistant|><think>\n' }}"
    + END
)
LLAMA2 = (
    LOOP
    + "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    + "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}"
    + END
    + USER
    + "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    + "{% else %}{{ ' '  + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    + "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}{{ bos_token }}"
    + "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '<|eot_id|>' }}"
    + LOOP
    + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    + "{{ message['content'] | trim + '<|eot_id|>' }}"
    + ASK
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    + END
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    + "{{ raise_exception('System role not supported') }}"
    + END
    + LOOP
    + "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    + "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    + ASK
    + "{{ '<start_of_turn>model\n' }}"
    + END
)
MISTRAL = (
    "{{ bos_token }}"
    + LOOP
    + USER
    + "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
    + "{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    LOOP
    + "\n{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n"
    + "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    + "{% endfor %}"
)
VICUNA = (
    LOOP
    + USER
    + "{{ 'USER: ' + message['content'] + ' ' }}{% else %}"
    + "{{ 'ASSISTANT: ' + message['content'] + eos_token }}"
    + END
    + ASK
    + "{{ 'ASSISTANT: ' }}"
    + END
)
HARMONY = (
    LOOP
    + USER
    + "{{ '<|start|>user<|message|>' + message['content'] + '<|end|>' }}{% else %}"
    + "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|end|>' }}"
    + END
    + ASK
    + "{{ '<|start|>assistant' }}"
    + END
)

ASSISTANT = "<|im_start|>assistant\n"
FAMILIES = {
    "chatml": (
        CHATML,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n" + ASSISTANT,
        "",
    ),
    "qwen3": (
        QWEN3,
        "<|im_start|>user\n",
        "<|im_end|>\n" + ASSISTANT + "<think>\n\n</think>\n\n",
        "",
    ),
    "deepseek": (DEEPSEEK, "<s><|User|>", "<|Assistant|><think>\n\n</think>\n\n", ""),
    "llama2": (LLAMA2, "<s>[INST] ", " [/INST]", " "),
    "llama3": (
        LLAMA3,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "",
    ),
    "gemma": (
        GEMMA,
        "<s><start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "",
    ),
    "mistral": (MISTRAL, "<s>[INST] ", " [/INST]", ""),
    "zephyr": (ZEPHYR, "<|user|>\n", "</s>\n<|assistant|>\n", ""),
    "vicuna": (VICUNA, "USER: ", " ASSISTANT:", " "),
    "harmony": (
        HARMONY,
        "<|start|>user<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "",
    ),
}
