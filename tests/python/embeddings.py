"""Embeddings through the gateway: one text, several, and the encoding the SDK asks for by itself."""

from scene import MODEL, client

openai = client()

# Without an encoding format the SDK asks for base64 and decodes it; "float" comes as it is.
plain = openai.embeddings.create(model=MODEL, input="one text", encoding_format="float")
packed = openai.embeddings.create(model=MODEL, input="one text")
assert plain.object == "list" and len(plain.data) == 1, plain
assert len(plain.data[0].embedding) > 1, plain
assert len(packed.data[0].embedding) == len(plain.data[0].embedding), packed
pairs = zip(plain.data[0].embedding, packed.data[0].embedding)
assert all(abs(a - b) < 1e-5 for a, b in pairs), "one text, two embeddings"
assert plain.usage.prompt_tokens > 0, plain.usage

several = openai.embeddings.create(model=MODEL, input=["a", "b", "c"], encoding_format="float")
assert [item.index for item in several.data] == [0, 1, 2], several
assert several.data[0].embedding != several.data[1].embedding
