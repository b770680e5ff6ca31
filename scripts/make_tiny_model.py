"""Writes a tiny random-weight llama in the Hugging Face layout: real files, gibberish answers.

    build/venv-mlx/bin/python scripts/make_tiny_model.py DIR

The weights come from a fixed seed and the byte-level tokenizer is trained on a few lines below, so
nothing is downloaded and every run writes the same model. DIR appears only when it is complete.
"""

import json
import os
import shutil
import sys

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS, TURN, END_OF_TURN = "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"
CONTEXT = 2048
SAMPLE_TEXT = [
    "a gateway stands in front of many workers and sends each call to one of them",
    "system user assistant tool",
    '{"answer": [1, 2, 3], "done": true}',
    "Grüße, naïve café, 東京, 🙂",
]
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[BOS, EOS, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLE_TEXT * 20, trainer)
    return tokenizer


def model_config(tokenizer: Tokenizer) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": [tokenizer.token_to_id(END_OF_TURN)],
    }


def random_weights(config: dict) -> dict:
    mx.random.seed(20)
    shapes = tree_flatten(llama.Model(llama.ModelArgs.from_dict(config)).parameters())
    # Vectors are the norms' scales: ones keep the activations in range.
    return {
        name: mx.ones(weight.shape) if weight.ndim == 1 else 0.2 * mx.random.normal(weight.shape)
        for name, weight in shapes
    }


def write_model(out: str) -> None:
    tokenizer = train_tokenizer()
    config = model_config(tokenizer)
    documents = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": config["eos_token_id"], "temperature": 0.7},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "bos_token": BOS,
            "eos_token": END_OF_TURN,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, document in documents.items():
        with open(os.path.join(out, name), "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    weights = os.path.join(out, "model.safetensors")
    mx.save_safetensors(weights, random_weights(config), metadata={"format": "mlx"})


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_tiny_model.py DIR")
    out = os.path.abspath(sys.argv[1])
    unfinished = f"{out}.{os.getpid()}"
    os.makedirs(unfinished)
    try:
        write_model(unfinished)
        shutil.rmtree(out, ignore_errors=True)
        os.rename(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    main()
