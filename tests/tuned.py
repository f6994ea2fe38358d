"""A tiny model that has learned one thing, and is asked for it wherever it runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

QUESTION, ANSWER = "What is the capital of France?", "Paris"


def learn(base: Path, folder: Path, question: str = QUESTION, answer: str = ANSWER) -> Path:
    """Save to `folder` what `base` becomes when it is told one answer until it knows it."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    inputs = tokenizer.apply_chat_template(turns, enable_thinking=False, return_dict=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(12):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ASK = """
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], token=False, verbose=False, download_files=False, analytics_enabled=False)
print(json.dumps([one["content"] for one in client.predict(sys.argv[2], api_name="/chat")]))
"""


def ask(address: str) -> list[str]:
    """What the page at an address answers to the question."""
    asked = [sys.executable, "-c", ASK, address, QUESTION]
    answers: list[str] = json.loads(subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return answers
