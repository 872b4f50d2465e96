"""Small models of every family that transformers has, by the spec that has to be equal to them."""

from typing import Any

import torch

COMMON = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WIDTHS = {"vocab_size": 61, "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip

# The name of a case, its spec, its class in transformers, what its config says besides the sizes above.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama3": ("llama3", "Llama", {"num_key_value_heads": 2, "intermediate_size": 80, "rms_norm_eps": 1e-5}),
    "llama3.1": (
        "llama3", "Llama",
        {"num_key_value_heads": 1, "intermediate_size": 80, "rms_norm_eps": 1e-5, "rope_parameters": LLAMA3},
    ),
}  # fmt: skip


def made(case: str) -> Any:
    """The model of a case, in fp32, with weights that are large enough for norms and caps to be felt."""
    import transformers

    _, name, own = FAMILIES[case]
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **WIDTHS, **own})
    config._attn_implementation = "eager"
    kind = getattr(transformers, f"{name}ForCausalLM", None) or getattr(transformers, f"{name}LMHeadModel")
    model = kind(config).float().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=draw)
            value.copy_(value + 0.3 * noise if value.dim() == 1 else 2.0 * noise / value.shape[-1] ** 0.5)
    return model
