"""Text completions through the gateway, whole and streamed."""

from scene import MODEL, client

openai = client()

answer = openai.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8)
assert answer.object == "text_completion", answer
assert answer.choices[0].text, answer
assert answer.choices[0].finish_reason in ("stop", "length"), answer
assert 0 < answer.usage.completion_tokens <= 8, answer.usage

chunks = list(openai.completions.create(model=MODEL, prompt="And then", max_tokens=8, stream=True))
choices = [choice for chunk in chunks for choice in chunk.choices]
assert "".join(choice.text for choice in choices), chunks
reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
assert len(reasons) == 1, chunks
