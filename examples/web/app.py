"""A FastAPI application: whole answers, streams, typed errors, and the APIs of OpenAI and Anthropic under a prefix.

Run it with `uvicorn examples.web.app:app`, then:

    curl -N localhost:8000/stream -H 'content-type: application/json' -d '{"prompt": "Count from 3 to 20."}'

Press Ctrl-C in the middle: the model stops within a fifth of a second. It needs fastapi and the extra `gateway`.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from pydantic import BaseModel

from hybrid_llm import HybridLLM
from hybrid_llm.gateway import gateway_app
from hybrid_llm.integrations.asgi import ERROR_HANDLERS, StreamingAnswer, client_lifespan, while_connected

SETTINGS = {"version": 1, "backends": {"edge": {"kind": "onnx", "model": "embedded"}}}

llm = HybridLLM.from_config(SETTINGS)
app = FastAPI(lifespan=client_lifespan(llm), exception_handlers=ERROR_HANDLERS)
app.mount("/llm", gateway_app(llm))  # base_url="http://localhost:8000/llm/v1"


class Question(BaseModel):
    """What is asked, and how private it is."""

    prompt: str
    privacy: list[str] = []
    max_tokens: int = 200


@app.post("/answer")
async def answer(question: Question, request: Request) -> dict[str, str]:
    """Answer as a whole; the model stops if the client leaves."""
    work = llm.agenerate(question.prompt, privacy=question.privacy, max_tokens=question.max_tokens)
    reply = await while_connected(request, work)
    return {"text": reply.text, "backend": reply.backend, "because": reply.decision.because}


@app.post("/stream")
async def stream(question: Question) -> StreamingAnswer:
    """Answer as server-sent events."""
    return StreamingAnswer(llm.astream(question.prompt, privacy=question.privacy, max_tokens=question.max_tokens))
