"""A real engine behind the gateway. Its text is gibberish; its counts and endings are not."""

from scene import client, user

openai = client()
MODEL = "tiny"  # an alias: the engine itself knows only `default_model`

answer = openai.chat.completions.create(
    model=MODEL, messages=user("Hello there"), max_tokens=12, temperature=0
)
assert answer.object == "chat.completion", answer
assert answer.choices[0].message.role == "assistant", answer
assert answer.choices[0].finish_reason in ("stop", "length"), answer
assert answer.usage.prompt_tokens > 0, answer.usage
assert 0 < answer.usage.completion_tokens <= 12, answer.usage
total = answer.usage.prompt_tokens + answer.usage.completion_tokens
assert answer.usage.total_tokens == total, answer.usage


def streamed(prompt: str) -> list:
    return list(
        openai.chat.completions.create(
            model=MODEL,
            messages=user(prompt),
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )


chunks = streamed("Count to ten")
assert len({chunk.id for chunk in chunks}) == 1, chunks
choices = [choice for chunk in chunks for choice in chunk.choices]
reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
assert len(reasons) == 1 and reasons[0] in ("stop", "length"), reasons
usage = chunks[-1].usage
assert 0 < usage.completion_tokens <= 24, usage
if reasons[0] == "length":
    assert usage.completion_tokens == 24, usage

# The engine kept the prompt: asked again, it says how much of it was found in its cache.
again = streamed("Count to ten")[-1].usage
assert again.prompt_tokens == usage.prompt_tokens, (usage, again)
assert again.prompt_tokens_details.cached_tokens > 0, again

text = openai.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5)
assert 0 < text.usage.completion_tokens <= 5, text
