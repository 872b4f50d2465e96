"""Small models of every family that transformers has, by the spec that has to be equal to them."""

from typing import Any

import torch

COMMON = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WIDTHS = {"vocab_size": 61, "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 256}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {"intermediate_size": 80, "moe_intermediate_size": 24, "n_routed_experts": 6, "n_shared_experts": 2,
          "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 20, "qk_nope_head_dim": 12,
          "qk_rope_head_dim": 8, "v_head_dim": 16, "rms_norm_eps": 1e-6}  # fmt: skip

GROUPED = {"num_key_value_heads": 2, "intermediate_size": 80}
GPT = {"vocab_size": 61, "n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 64}
GEMMA = GROUPED | {"head_dim": 20, "query_pre_attn_scalar": 7, "sliding_window": 5}
GRANITE = {"embedding_multiplier": 12.0, "attention_multiplier": 1 / 64, "residual_multiplier": 0.22,
           "logits_scaling": 8.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}  # fmt: skip
SIXTH = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}

SEQ2SEQ = {"num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "d_kv": 20, "d_ff": 80,
           "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20}  # fmt: skip
IMAGES = {"image_size": 20, "patch_size": 4, "num_labels": 61, "intermediate_size": 100}

# The name of a case, its spec, its class in transformers, what its config says besides the sizes above.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama3": ("llama3", "Llama", GROUPED | {"rms_norm_eps": 1e-5}),
    "llama3.1": ("llama3", "Llama", GROUPED | {"rms_norm_eps": 1e-5, "rope_parameters": LLAMA3}),
    "qwen3": ("qwen3", "Qwen3", GROUPED | {"head_dim": 20}),
    "qwen3_tied": ("qwen3_tied", "Qwen3", GROUPED | {"head_dim": 20, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", "GPT2", GPT),
    "post_ln": ("post_ln", "OpenAIGPT", GPT),
    "gpt_neox": ("gpt_neox", "GPTNeoX", {"intermediate_size": 100, "num_attention_heads": 3, "rotary_pct": 0.25}),
    "gptj": ("gptj", "GPTJ", GPT | {"rotary_dim": 8}),
    "cohere": ("cohere", "Cohere", GROUPED),
    "olmo2": ("olmo2", "Olmo2", GROUPED | {"rms_norm_eps": 1e-6}),
    "gemma2": ("gemma2", "Gemma2", GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "gemma3": (
        "gemma3", "Gemma3Text",
        GEMMA | {"num_hidden_layers": 7, "rope_parameters": SIXTH | {"full_attention": {"rope_theta": 1000.0}}},
    ),
    "gemma3, slowed": (
        "gemma3", "Gemma3Text",
        GEMMA | {
            "num_hidden_layers": 6,
            "rope_parameters": SIXTH
            | {"full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0}},
        },
    ),
    "granite": ("granite", "Granite", GROUPED | GRANITE),
    "nemotron": ("nemotron", "Nemotron", GROUPED | {"head_dim": 16}),
    "mixtral": ("mixtral", "Mixtral", GROUPED | {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "qwen3_moe", "Qwen3Moe", GROUPED | EXPERTS | {"head_dim": 20, "norm_topk_prob": True},
    ),
    "olmoe": ("olmoe", "Olmoe", GROUPED | EXPERTS),
    "gpt_oss": (
        "gpt_oss", "GptOss",
        GROUPED | {"head_dim": 20, "sliding_window": 5, "num_local_experts": 5, "num_experts_per_tok": 2,
                   "swiglu_limit": 1.0, "rope_parameters": YARN | {"truncate": False}},
    ),
    "deepseek_v2_lite": ("deepseek_v2_lite", "DeepseekV2", LATENT | {"q_lora_rank": None}),
    "deepseek_v2_lite, slowed": (
        "deepseek_v2_lite", "DeepseekV2",
        LATENT | {"q_lora_rank": None, "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "deepseek_v2": (
        "deepseek_v2", "DeepseekV2",
        LATENT | {"q_lora_rank": 32, "topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2,
                  "routed_scaling_factor": 3.0},
    ),
    "deepseek_v3": (
        "deepseek_v3", "DeepseekV3",
        LATENT | {"num_hidden_layers": 4, "q_lora_rank": 32, "first_k_dense_replace": 3, "n_group": 3, "topk_group": 2,
                  "n_shared_experts": 1, "num_key_value_heads": 4},
    ),
    "t5": ("t5", "T5", SEQ2SEQ),
    "t5_gated": ("t5_gated", "T5", SEQ2SEQ | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "vit": ("vit", "ViT", IMAGES),
    "stablelm": ("stablelm", "StableLm", GROUPED | {"hidden_size": 64}),
}  # fmt: skip

TASKS = {"T5": "Seq2SeqLM", "ViT": "ImageClassification"}  # of all others: CausalLM


def read_by(case: str) -> dict[str, torch.Tensor]:
    """What a model of the case is given, by the names of transformers, in the order of the spec's inputs."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(61, (2, 40), generator=draw)
    match TASKS.get(FAMILIES[case][1]):
        case "Seq2SeqLM":
            return {"input_ids": torch.randint(61, (2, 27), generator=draw), "decoder_input_ids": tokens}
        case "ImageClassification":
            return {"pixel_values": torch.randn(2, 3, IMAGES["image_size"], IMAGES["image_size"], generator=draw)}
    return {"input_ids": tokens}


def made(case: str) -> Any:
    """The model of a case, in fp32, with weights that are large enough for norms and caps to be felt."""
    import transformers

    _, name, own = FAMILIES[case]
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **WIDTHS, **own})
    config._attn_implementation = "eager"
    auto = getattr(transformers, f"AutoModelFor{TASKS.get(name, 'CausalLM')}")
    model = auto._model_mapping[type(config)](config).float().eval()
    if own.get("tie_word_embeddings") is False:  # transformers 5.23 ties those of T5 whatever the config says
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=draw)
            value.copy_(value + 0.3 * noise if value.dim() == 1 else 2.0 * noise / value.shape[-1] ** 0.5)
        for name, value in model.named_buffers():
            if name.endswith("correction_bias"):  # of experts, which actions change and gradients do not
                value.copy_(0.1 * torch.randn(value.shape, generator=draw))
        for key, value in model.named_parameters():
            if name == "T5" and key.endswith(".q.weight"):
                value.div_(SEQ2SEQ["d_kv"] ** 0.5)  # T5 has no other factor on its scores
    return model
