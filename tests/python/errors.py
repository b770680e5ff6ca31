"""What the SDK makes of the gateway's refusals: the right class, status, code and a request id."""

import openai as sdk

from scene import MODEL, WITHOUT_WORKERS, client, user

openai = client()


def refused(kind: type, status: int, code: str, call) -> None:
    try:
        call()
    except kind as error:
        assert error.status_code == status, (error.status_code, error)
        assert error.code == code, (error.code, error)
        assert error.message and error.type, error
        assert error.response.headers["x-smg-error-code"] == code, error.response.headers
        assert error.request_id, "no x-request-id"
    else:
        raise SystemExit(f"no {kind.__name__} with {code}")


def chat(**ask):
    ask = {"model": MODEL, "messages": user("Hi"), **ask}
    return lambda: openai.chat.completions.create(**ask)


refused(sdk.NotFoundError, 404, "model_not_found", chat(model="nobody-serves-this"))
refused(
    sdk.NotFoundError, 404, "model_not_found", chat(model="nobody-serves-this", stream=True)
)
refused(
    sdk.NotFoundError,
    404,
    "model_not_found",
    lambda: openai.embeddings.create(model="nobody-serves-this", input="x"),
)
refused(sdk.BadRequestError, 400, "invalid_type", chat(model=17))
refused(sdk.BadRequestError, 400, "invalid_type", chat(stream="yes"))
refused(sdk.InternalServerError, 503, "no_available_workers", chat(model=WITHOUT_WORKERS))
refused(
    sdk.InternalServerError,
    503,
    "no_available_workers",
    chat(model=WITHOUT_WORKERS, stream=True),
)
refused(
    sdk.NotFoundError,
    404,
    "unknown_url",
    lambda: openai.post("/no/such/path", cast_to=object, body={}),
)
refused(
    sdk.APIStatusError,
    405,
    "method_not_allowed",
    lambda: openai.get("/chat/completions", cast_to=object),
)

# A refusal leaves the connection and the gateway as they were.
assert openai.chat.completions.create(model=MODEL, messages=user("Hi"), max_tokens=2).choices
