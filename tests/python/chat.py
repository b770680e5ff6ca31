"""Chat through the gateway, whole and streamed."""

from scene import ALIAS, MODEL, client, user

openai = client()

# A whole answer.
answer = openai.chat.completions.create(model=MODEL, messages=user("Hello there"), max_tokens=8)
choice = answer.choices[0]
assert answer.object == "chat.completion", answer
assert answer.model == MODEL, answer
assert choice.message.role == "assistant" and choice.message.content, choice
assert choice.finish_reason in ("stop", "length"), choice
assert 0 < answer.usage.completion_tokens <= 8, answer.usage
assert answer.usage.prompt_tokens > 0, answer.usage
total = answer.usage.prompt_tokens + answer.usage.completion_tokens
assert answer.usage.total_tokens == total, answer.usage

# An alias reaches the same model.
assert openai.chat.completions.create(model=ALIAS, messages=user("Hello"), max_tokens=4).choices

# Text beyond ASCII, and a conversation of several turns.
turns = [{"role": "system", "content": "Be brief."}, *user("Grüße aus 東京 🙂 \\ \"quoted\"")]
assert openai.chat.completions.create(model=MODEL, messages=turns, max_tokens=4).choices

# A stream: the role first, then text, one finish reason, the usage last because it is asked for.
stream = openai.chat.completions.create(
    model=MODEL,
    messages=user("Tell me something"),
    max_tokens=16,
    stream=True,
    stream_options={"include_usage": True},
)
chunks = list(stream)
assert all(chunk.object == "chat.completion.chunk" for chunk in chunks), chunks
assert len({chunk.id for chunk in chunks}) == 1, chunks
choices = [choice for chunk in chunks for choice in chunk.choices]
assert choices[0].delta.role == "assistant", choices[0]
assert "".join(choice.delta.content or "" for choice in choices), choices
reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
assert len(reasons) == 1 and reasons[0] in ("stop", "length"), reasons
assert len(chunks) > 3, "everything came at once"
assert chunks[-1].choices == [] and 0 < chunks[-1].usage.completion_tokens <= 16, chunks[-1]

# The same prompt again is found in a worker's prefix cache, which its usage shows. Two workers take
# turns, so after three calls one of them has seen it twice.
prompt = user("a prompt long enough to fill blocks of the cache " * 20)
cached = [
    openai.chat.completions.create(model=MODEL, messages=prompt, max_tokens=2)
    .usage.prompt_tokens_details.cached_tokens
    for _ in range(3)
]
assert max(cached) > 0, cached

# A reader that leaves early is no harm to the next call.
with openai.chat.completions.create(
    model=MODEL, messages=user("Go on and on"), max_tokens=64, stream=True
) as stream:
    next(iter(stream))
assert openai.chat.completions.create(model=MODEL, messages=user("Hello"), max_tokens=4).choices

# The raw answer carries the request id that the client chose.
raw = openai.chat.completions.with_raw_response.create(
    model=MODEL, messages=user("Hi"), max_tokens=4, extra_headers={"x-request-id": "chosen-1"}
)
assert raw.headers["x-request-id"] == "chosen-1", raw.headers
