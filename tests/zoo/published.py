"""Totals of parameters as they are published, each with its source, and the sizes for which none was found."""

HUB = "safetensors.total of the Hugging Face hub"
COPIED = f"{HUB}, as public files repeat it"
KERAS = "`params` of KerasHub's presets"
CARD = "its model card"
GGUF = "general.parameter_count of its GGUF files"
CORE = "total of OLMo-core's configuration of it"
VISION = "`num_params` of torchvision's weights"

# By spec and size: the total as it is published, and where.
PUBLISHED = {
    ("llama3", "8b"): (8_030_261_248, KERAS),
    ("llama3", "3.1_8b"): (8_030_261_248, HUB),
    ("llama3", "3.1_70b"): (70_553_706_496, HUB),
    ("llama3", "3.1_405b"): (405_853_388_800, HUB),
    ("qwen3", "8b"): (8_190_735_360, KERAS),
    ("qwen3", "14b"): (14_768_307_200, KERAS),
    ("qwen3", "32b"): (32_762_123_264, KERAS),
    ("qwen3_tied", "0.6b"): (596_049_920, KERAS),  # the hub's files hold the head once more: 751,632,384
    ("qwen3_tied", "1.7b"): (1_720_574_976, KERAS),
    ("qwen3_tied", "4b"): (4_022_468_096, KERAS),
    ("qwen3_moe", "30b_a3b"): (30_532_122_624, KERAS),
    ("qwen3_moe", "235b_a22b"): (235_093_634_560, KERAS),  # and the hub, as public files repeat it
    ("mixtral", "8x7b"): (46_702_792_704, KERAS),
    ("mixtral", "8x22b"): (140_620_634_112, COPIED),
    ("olmoe", "7b_a1b"): (6_919_161_856, COPIED),
    ("gpt_oss", "20b"): (20_914_757_184, KERAS),
    ("gpt_oss", "120b"): (116_829_156_672, KERAS),
    ("deepseek_v2_lite", "16b"): (15_706_484_224, COPIED),
    ("deepseek_v2", "236b"): (235_741_434_880, COPIED),
    ("gpt2", "small"): (124_439_808, KERAS),
    ("gpt2", "medium"): (354_823_168, KERAS),
    ("gpt2", "large"): (774_030_080, KERAS),
    ("gpt2", "xl"): (1_557_611_200, KERAS),
    ("gpt_neox", "20b"): (20_554_567_680, CARD),
    ("gpt_neox", "pythia_160m"): (162_322_944, CARD),
    ("gpt_neox", "pythia_410m"): (405_334_016, CARD),
    ("gpt_neox", "pythia_1b"): (1_011_781_632, CARD),
    ("gpt_neox", "pythia_6.9b"): (6_857_302_016, CARD),
    ("gpt_neox", "pythia_12b"): (11_846_072_320, CARD),
    ("olmo2", "1b"): (1_484_916_736, CORE),
    ("olmo2", "7b"): (7_298_617_344, HUB),
    ("olmo2", "13b"): (13_716_198_400, HUB),
    ("gemma2", "2b"): (2_614_341_888, HUB),
    ("gemma2", "9b"): (9_241_705_984, KERAS),
    ("gemma2", "27b"): (27_227_128_320, KERAS),
    ("gemma3", "270m"): (268_098_176, KERAS),
    ("gemma3", "1b"): (999_885_952, KERAS),
    ("gemma3", "4b"): (3_880_263_168, GGUF),
    ("gemma3", "12b"): (11_766_034_176, GGUF),
    ("granite", "3.1_2b"): (2_533_525_504, COPIED),  # of the base model; the instructed one has three more rows
    ("t5", "small"): (60_506_624, KERAS),
    ("t5", "base"): (222_903_552, KERAS),
    ("t5", "large"): (737_668_096, KERAS),
    ("t5", "3b"): (2_851_598_336, KERAS),  # in its releases of 2022
    ("t5_gated", "small"): (76_961_152, KERAS),  # as `flan_small_multi`; its `t5_1.1_small` has another total
    ("t5_gated", "base"): (247_577_856, KERAS),
    ("t5_gated", "large"): (783_150_080, KERAS),  # as `flan_large_multi`; its `t5_1.1_large` has the head tied
    ("t5_gated", "xl"): (2_849_757_184, KERAS),
    ("t5_gated", "xxl"): (11_135_332_352, KERAS),
    ("vit", "b16"): (86_567_656, VISION),
    ("vit", "b32"): (88_224_232, VISION),
    ("vit", "l16"): (304_326_632, VISION),
    ("vit", "l32"): (306_535_400, VISION),
    ("vit", "h14"): (632_045_800, VISION),
    ("hyper_connections", "1b"): (1_177_158_464, "arXiv 2409.19606, table of parameters, in billions to eight places"),
    ("stablelm", "3b"): (2_795_443_200, CARD),
}
# Where only a rounded figure is published: billions, how far the exact count may lie from it, and where.
ROUNDED = {
    ("cohere", "35b"): (35.0, 0.5, CARD),
    ("olmo2", "32b"): (32.0, 0.5, "allenai.org/blog/olmo2-32B"),
    ("ngpt", "0.5b"): (0.4684, 0.0001, "arXiv 2410.01131, whose figures are cut off, not rounded"),
    ("ngpt", "1b"): (1.0261, 0.0001, "arXiv 2410.01131"),
    ("value_residual", "468m"): (0.468, 0.0005, "arXiv 2410.17897"),
    ("gptj", "6b"): (6.05, 0.005, "README of mesh-transformer-jax"),  # 6,053,381,344, see below
    ("deepseek_v3", "671b"): (671.0, 0.5, "README of DeepSeek-V3, without the second head"),
    ("gpt", "paper"): (0.83, 0.005, "arXiv 2410.16682, section 2"),
    ("hybrid_norm", "1.2b"): (1.2, 0.05, "README of HybridNorm, whose configuration has these sizes"),
    ("nemotron", "15b"): (15.6, 0.1, "arXiv 2402.16819, section 2"),  # 3.1 and 12.5, each to one place
    ("nemotron", "340b"): (341.0, 0.1, "arXiv 2406.11704, Table 1"),  # 9.4 and 331.6
}
# No published total was found for these, so nothing is said of their counts but that transformers, where it has the
# architecture, counts as many.
UNSOURCED = {
    ("llama3", "70b"): "as many as `3.1_70b`, whose rotation alone differs",
    ("granite", "2b"): "no total of 3.0 was found; its GGUF files have these sizes",
    ("t5", "11b"): "no total of the first hand was found",
    ("post_ln", "gpt"): "the paper gives none",
    ("deep_norm", "100_layers"): "the paper's models of this depth translate, with an encoder besides",
    ("deep_norm", "1000_layers"): "the paper's models of this depth translate, with an encoder besides",
    ("dyt", "7b"): "the paper says 7B; as Llama 2's 6,738,415,616 with an alpha for each norm and one scale",
    ("gated_attention", "1.7b"): "the paper's 1.7B groups queries, which the spec does not",
    ("ln_scaling", "1b"): "the paper says 1B; the sizes are those of `llama_1b.json` of its code",
    ("mix_ln", "1b"): "the paper says 1B; the sizes are those of `llama_1b.json` of its code",
    ("peri_ln", "400m"): "the paper says 400M, and its tables were not found",
    ("sigmoid_attention", "1b"): "the paper says 1B, and its tables were not found",
    ("sub_ln", "350m"): "the paper's tables were not found",
    ("unet", "small"): "124M is said of the line of records, from before the head was untied",
}
