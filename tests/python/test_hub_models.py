"""Models of the Hugging Face library as they are, small and with random weights: prepared, trained a step, converted, saved, loaded."""

import warnings

import pytest
import torch
import torchqat
from torchqat import QConfig

transformers = pytest.importorskip("transformers")

IDS = torch.arange(24).reshape(2, 12) * 7 % 256
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()
LANGUAGE = dict(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=256,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
ENCODER = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
# model type -> (settings, keywords of a call, head)
MODELS = {
    "llama": (LANGUAGE, {"input_ids": IDS, "labels": IDS}, "CausalLM"),
    "qwen2": ({**LANGUAGE, "tie_word_embeddings": True}, {"input_ids": IDS}, "CausalLM"),
    "gemma2": ({**LANGUAGE, "head_dim": 16}, {"input_ids": IDS}, "CausalLM"),
    "mixtral": ({**LANGUAGE, "num_local_experts": 4, "num_experts_per_tok": 2}, {"input_ids": IDS}, "CausalLM"),
    "gpt2": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2}, {"input_ids": IDS}, "CausalLM"),
    "mamba": ({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "state_size": 8}, {"input_ids": IDS}, "CausalLM"),
    "bert": ({**ENCODER, "vocab_size": 256}, {"input_ids": IDS, "attention_mask": IDS.gt(5).long()}, ""),
    "t5": (
        {"d_model": 64, "d_ff": 128, "num_layers": 2, "num_heads": 4, "d_kv": 16, "vocab_size": 256, "decoder_start_token_id": 0},
        {"input_ids": IDS, "decoder_input_ids": IDS},
        "",
    ),
    "vit": ({**ENCODER, "image_size": 32, "patch_size": 8}, {"pixel_values": IMAGE}, ""),
    "resnet": ({"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}, {"pixel_values": IMAGE}, ""),
    "wav2vec2": ({**ENCODER, "conv_dim": (32,) * 7, "mask_time_prob": 0.0}, {"input_values": IMAGE.reshape(2, -1)}, ""),
}  # fmt: skip


def made(kind):
    settings, inputs, head = MODELS[kind]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**settings)
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    return auto.from_config(config).float(), inputs


def result(model, inputs):
    output = model(**inputs)
    return output.logits if hasattr(output, "logits") else output[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", ["int8", "int4_int8"])
@pytest.mark.parametrize("kind", MODELS)
def test_what_trains_is_what_ships(kind, scheme, tmp_path):
    model, inputs = made(kind)
    prepared = torchqat.prepare_qat(model, getattr(QConfig, scheme)(), example_inputs=inputs)
    optimizer = torch.optim.SGD(prepared.parameters(), 1e-2)
    before = [p.clone() for p in prepared.parameters()]
    result(prepared.train(), inputs).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, prepared.parameters()))
    prepared.eval()
    converted = torchqat.convert(prepared)
    with torch.no_grad():
        expected = result(prepared, inputs)
        assert torch.equal(result(converted, inputs), expected)
        torchqat.save(converted, tmp_path / "model.safetensors")
        loaded = torchqat.load(tmp_path / "model.safetensors", made(kind)[0]).eval()
        assert torch.equal(result(loaded, inputs), expected)
    quantised = sum(m.weight.numel() for m in converted.modules() if isinstance(m, torchqat.nn.quantized._layer.QuantizedLayer))
    assert quantised > 0.75 * sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["vit", "t5", "bert"])
def test_a_converted_model_compiles_in_one_graph(kind):
    model, inputs = made(kind)
    converted = torchqat.convert(torchqat.prepare_qat(model, QConfig.int8_dynamic(), example_inputs=inputs).eval())
    expected = result(converted, inputs)
    assert torch.equal(result(torch.compile(converted, fullgraph=True, backend="aot_eager"), inputs), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generate_gives_the_same_tokens(dtype):
    model, inputs = made("llama")
    prepared = torchqat.prepare_qat(model.to(dtype), QConfig.int4_int8()).eval()
    converted = torchqat.convert(prepared)
    assert converted.dtype == dtype and converted.lm_head.weight.dtype == dtype
    tokens = [m.generate(IDS[:, :5], max_new_tokens=6, do_sample=False) for m in (prepared, converted)]
    assert torch.equal(*tokens) and tokens[0].shape == (2, 11)


def test_casts_by_the_weights_dtype_are_silent():
    model, inputs = made("vit")
    converted = torchqat.convert(torchqat.prepare_qat(model, QConfig.int8_dynamic()).eval())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result(converted, inputs)
