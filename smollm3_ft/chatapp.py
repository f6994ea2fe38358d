"""A chat with one model: answers as they are written, a system prompt, and the model's thinking apart from its answer.

This one file is the whole app. On a machine `smollm3-ft chat` uses it; on a Space it is `app.py`, where the variables
MODEL_REPO and MODEL_COMMIT name the model, which is fetched with the Space's own HF_TOKEN; its own code, if it has any,
is run where MODEL_CODE is 1.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read with torch: or what waits takes a core from what works

import torch
import transformers

NEW_TOKENS = 1024
Message = dict[str, str]  # {"role", "content"}


class Chat(NamedTuple):
    """A model that is ready to be asked, and what it is called."""

    model: Any
    tokenizer: Any
    name: str


class Said(NamedTuple):
    """What has come of an answer so far: the thought before it, empty where there is none, and the answer itself."""

    thought: str
    answer: str


class TooLong(Exception):
    """The conversation fills all that the model can read."""


def load(model: str, revision: str | None = None, name: str | None = None, code: bool = False) -> Chat:
    """A model from a folder or from the Hub, on the GPU where there is one. With `code` its own is run."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=code)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        model, revision=revision, dtype="auto", trust_remote_code=code
    )
    return Chat(loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer, name or model)


def said(chat: Chat, messages: Sequence[Message], thinking: bool) -> Iterator[Said]:
    """The answer to a conversation, again and again while it grows. Who stops listening ends it.

    Raises TooLong where no room is left for an answer.
    """
    inputs = chat.tokenizer.apply_chat_template(
        list(messages), enable_thinking=thinking, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    room = chat.model.config.max_position_embeddings - inputs["input_ids"].shape[1]
    if room < 1:
        raise TooLong("the conversation is longer than the model can read: begin a new one")
    streamer = transformers.TextIteratorStreamer(chat.tokenizer, skip_prompt=True, skip_special_tokens=True)
    left = threading.Event()
    with ThreadPoolExecutor(1) as worker:
        writing = worker.submit(
            chat.model.generate,
            **inputs.to(chat.model.device),
            max_new_tokens=min(room, NEW_TOKENS),
            eos_token_id=_end_tokens(chat),
            pad_token_id=chat.tokenizer.pad_token_id,
            streamer=streamer,
            stopping_criteria=[lambda ids, _: torch.full((len(ids),), left.is_set(), device=ids.device)],
        )
        writing.add_done_callback(lambda _: streamer.end())  # also where it failed
        text = ""
        try:
            for piece in streamer:
                text += piece
                yield parts(text)
        finally:
            left.set()
        writing.result()


def _end_tokens(chat: Chat) -> list[int]:
    configured = chat.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*several, chat.tokenizer.eos_token_id) if token is not None})


def parts(text: str) -> Said:
    """What a model wrote, as thought and answer."""
    before, opened, rest = text.partition("<think>")
    if not opened or before.strip():
        return Said("", text.strip())
    thought, _, answer = rest.partition("</think>")
    return Said(thought.strip(), answer.strip())


def page(chat: Chat) -> Any:
    """The chat as a Gradio page. Nothing of it is told to anybody: no telemetry, no history, no share link."""
    import gradio

    def answer(message: str, history: list[Any], system: str, thinking: bool) -> Iterator[list[Any]]:
        told = [{"role": "system", "content": system}] if system.strip() else []
        told += [{"role": turn["role"], "content": _text(turn["content"])} for turn in history if not _is_thought(turn)]
        try:
            for one in said(chat, [*told, {"role": "user", "content": message}], thinking):
                yield _bubbles(one)
        except TooLong as error:
            raise gradio.Error(str(error)) from None

    return gradio.ChatInterface(
        answer,
        title=chat.name,
        chatbot=gradio.Chatbot(show_label=False, buttons=["copy"]),  # the button "share" would post it
        additional_inputs=[
            gradio.Textbox("", label="System prompt", lines=2),
            gradio.Checkbox(False, label="Thinking: reason first, then answer"),
        ],
        additional_inputs_accordion=gradio.Accordion("Settings", open=True),
        api_name="chat",
        analytics_enabled=False,
        flagging_mode="never",
    )


def _bubbles(one: Said) -> list[Any]:
    import gradio

    answer = [gradio.ChatMessage(content=one.answer)] if one.answer or not one.thought else []
    if not one.thought:
        return answer
    status = "done" if one.answer else "pending"
    return [gradio.ChatMessage(content=one.thought, metadata={"title": "Thinking", "status": status}), *answer]


def _is_thought(turn: dict[str, Any]) -> bool:
    return bool((turn.get("metadata") or {}).get("title"))


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content if "text" in part)


def launch(chat: Chat, **place: Any) -> Any:
    """Serve the page at `place`, by Gradio's names for it; fonts and all else come from this server. Returns it."""
    import gradio

    served = page(chat)
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    served.launch(theme=theme, share=False, quiet=True, footer_links=[], run_history=False, ssr_mode=False, **place)
    return served


if __name__ == "__main__":
    launch(load(os.environ["MODEL_REPO"], os.environ["MODEL_COMMIT"], code=os.environ.get("MODEL_CODE") == "1"))
