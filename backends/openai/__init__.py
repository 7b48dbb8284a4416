"""Servers that speak OpenAI's Chat Completions, as backends: hosted APIs, vLLM, llama.cpp, Ollama and others."""
