"""What every script here starts with: a client of the gateway, whose URL is the first argument."""

import sys

import openai

MODEL = "sample"
ALIAS = "gpt-sample"
WITHOUT_WORKERS = "absent"


def client() -> openai.OpenAI:
    # A retry by the client would hide what the gateway answered first.
    return openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0, timeout=30)


def user(text: str) -> list:
    return [{"role": "user", "content": text}]
