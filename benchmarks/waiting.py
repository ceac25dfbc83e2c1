"""A step of training, alone and beside a process that keeps a core busy, by how threads wait.

OpenMP's threads spin before they sleep; with OMP_WAIT_POLICY=PASSIVE, which `pipeline` sets, they
sleep at once.  Fresh processes in turns, as the policy is read once.
"""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.common import Spread, describe_machine, format_head, format_row

ROUNDS = 3
TAKE_STEPS = """
import time, torch, transformers
sizes = dict(hidden_size=128, num_hidden_layers=2, intermediate_size=512, num_attention_heads=4)
model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
optimizer = torch.optim.AdamW(model.parameters())
rows, labels = torch.randn(16, 64, 128), torch.zeros(16, dtype=torch.long)
for _ in range(15):
    began = time.perf_counter()
    for _ in range(4):
        model(inputs_embeds=rows, labels=labels).loss.backward()
    optimizer.step()
    print(1e3 * (time.perf_counter() - began))
"""

if __name__ == "__main__":
    print(describe_machine(), format_head(["beside", "threads wait", "ms a step"]), sep="\n\n")
    plain = {name: text for name, text in os.environ.items() if not name.startswith("OMP_")}
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(4 * ROUNDS):
        passive, busy = turn % 2, turn // 2 % 2
        own = {"OMP_WAIT_POLICY": "PASSIVE"} if passive else {}
        other = subprocess.Popen([sys.executable, "-c", "while True: pass" if busy else ""])
        out = subprocess.check_output([sys.executable, "-c", TAKE_STEPS], env=plain | own)
        other.kill()
        key = ("nothing", "a busy core")[busy], ("as they come", "passively")[passive]
        found.setdefault(key, []).extend(map(float, out.split()[2:]))
    for key, times in found.items():
        print(format_row([*key, Spread.of(times)]))
