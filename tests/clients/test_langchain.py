"""LangChain's standard tests over its OpenAI client, both unchanged: `make clients`."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="make clients")
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestStandard(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _gateway(self, base_url: str) -> None:
        type(self).url = base_url

    url = ""

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": self.url, "api_key": "none", "model": "auto", "stream_usage": True, "max_retries": 0}

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "capable"

    @pytest.fixture
    def model(self, _gateway: None, request: Any) -> ChatOpenAI:
        more = getattr(request, "param", None) or {}
        return self.chat_model_class(**{**self.chat_model_params, **more})
