"""A gateway that asks for a key: the SDK's own is good, and another is refused as the SDK expects."""

import openai as sdk

from scene import ALIAS, MODEL, WITHOUT_WORKERS, client, user

openai = client()


def chat(client: sdk.OpenAI, model: str = MODEL, **ask):
    return client.chat.completions.create(
        model=model, messages=user("Hi"), max_tokens=2, **ask
    )


def refused(kind: type, status: int, code: str, call) -> None:
    try:
        call()
    except kind as error:
        assert (error.status_code, error.code) == (status, code), error
    else:
        raise SystemExit(f"no {kind.__name__} with {code}")


assert chat(openai).choices
assert chat(openai, ALIAS).choices
assert list(chat(openai, stream=True))
assert [model.id for model in openai.models.list()] == [ALIAS, MODEL]

wrong = openai.with_options(api_key="wrong")
refused(sdk.AuthenticationError, 401, "invalid_api_key", lambda: chat(wrong))
refused(sdk.AuthenticationError, 401, "invalid_api_key", lambda: chat(wrong, stream=True))
refused(
    sdk.PermissionDeniedError,
    403,
    "model_not_allowed",
    lambda: chat(openai, WITHOUT_WORKERS),
)

# The key of the gateway in a header of its own leaves the usual place to the worker's.
own = wrong.with_options(default_headers={"x-smg-api-key": "unused"})
assert chat(own).choices
