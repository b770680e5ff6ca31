"""The list of models, and one of them."""

from scene import ALIAS, MODEL, WITHOUT_WORKERS, client
import openai as sdk

openai = client()

models = list(openai.models.list())
names = [model.id for model in models]
assert names == sorted(set(names)), names
assert {MODEL, ALIAS, WITHOUT_WORKERS} <= set(names), names
assert all(model.object == "model" for model in models), models

assert openai.models.retrieve(MODEL).id == MODEL
try:
    openai.models.retrieve("nobody-serves-this")
    raise SystemExit("a model that nobody serves was found")
except sdk.NotFoundError as error:
    assert error.code == "model_not_found", error
