use super::*;

/// 16 GB cards, as nvidia-smi tells their memory.
const CARD: u64 = 16_311;

fn server(model: &str) -> Vllm {
    Vllm {
        model: model.into(),
        ..Vllm::default()
    }
}

fn on(server: &Vllm, cards: &[u64]) -> Option<Estimate> {
    let cards: Vec<Option<u64>> = cards.iter().copied().map(Some).collect();
    estimate(server, &cards)
}

fn gib(bytes: f64) -> f64 {
    (bytes / GIB * 10.0).round() / 10.0
}

#[test]
fn every_line_of_the_table_is_read_and_adds_up_to_what_the_name_says() {
    let text = include_str!("models.txt");
    let names: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert!(names.len() >= 50, "{}", names.len());
    for name in names {
        let (found, _) = shape(name, None, None).unwrap_or_else(|| panic!("{name} is not read"));
        assert!(
            found.windowed < found.layers && found.heads > 0 && found.head > 0,
            "{name}"
        );
        // Qwen3-30B-A3B has 30 in all, Mixtral-8x7B less than 56, as experts share the rest.
        let said = name
            .split('-')
            .find_map(|word| word.strip_suffix(['B', 'b'])?.parse::<f64>().ok());
        let sum = (found.weights + found.others) / 1e9;
        if let Some(said) = said.filter(|_| !name.contains("8x")) {
            // Vendors round as they like: Qwen2.5-7B has 7.6, gemma-2-2b 2.6, gemma-3-12b 11.8 without its eyes.
            assert!((said * 0.9..said * 1.32).contains(&sum), "{name}: {sum}");
        }
    }
}

#[test]
fn a_name_says_which_model_and_how_it_is_quantized() {
    for (model, quantization, weights) in [
        ("Qwen/Qwen2.5-7B-Instruct", None, 14.2),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", None, 5.3),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", Some("awq_marlin"), 5.3),
        ("/models/Qwen2.5-7B-Instruct-GPTQ-Int8/", None, 8.1),
        ("Qwen/Qwen3-32B-AWQ", None, 18.3),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", None, 56.9),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", None, 29.0),
        ("RedHatAI/Qwen2.5-7B-Instruct-quantized.w4a16", None, 5.3),
        (
            "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic",
            Some("compressed-tensors"),
            8.5,
        ),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", Some("bitsandbytes"), 5.6),
        ("meta-llama/Llama-3.1-8B-Instruct", Some("fp8"), 8.5),
        ("openai/gpt-oss-20b", None, 12.8),
        ("google/gemma-3-27b-it", None, 50.3),
    ] {
        let (shape, bits) = shape(model, quantization, None).unwrap_or_else(|| panic!("{model} is known"));
        assert_eq!(gib(shape.weights(bits)), weights, "{model}");
    }
    for (model, quantization, dtype) in [
        ("Qwen/Qwen2.5-VL-7B-Instruct", None, None),
        ("somebody/Qwen3-8B-abliterated", None, None),
        ("Qwen/Qwen3-8B", Some("gguf"), None),
        ("Qwen/Qwen3-8B", Some("compressed-tensors"), None),
        ("Qwen/Qwen3-8B", None, Some("float64")),
    ] {
        assert_eq!(shape(model, quantization, dtype), None, "{model}");
    }
}

#[test]
fn what_does_not_fit_is_told_with_what_does() {
    let small = Vllm {
        max_model_len: Some(8192),
        ..server("Qwen/Qwen2.5-7B-Instruct-AWQ")
    };
    let found = on(&small, &[CARD]).unwrap();
    assert_eq!(found.warning("spec", &small.model), None);
    // 28 layers of 4 heads of 128, two bytes for key and value each.
    assert_eq!(found.cache, Some(8192.0 * 57_344.0));
    let long = Vllm {
        max_model_len: Some(131_072),
        gpu_memory_utilization: Some(0.5),
        ..small.clone()
    };
    let found = on(&long, &[CARD]).unwrap();
    assert_eq!(
        found.warning("spec", &long.model).unwrap(),
        "spec.vllm.maxModelLen: 131072 tokens of Qwen/Qwen2.5-7B-Instruct-AWQ may not fit: its weights take about 5.3 GiB of each GPU, working memory 1.5 GiB, and the server may take 8.0 GiB; their KV cache takes 7.0 GiB: 22672 is about the most that fits"
    );
    // What is called the most that fits, fits; a block more does not.
    let longest = found.longest.unwrap() as i64;
    let with = |tokens: i64| Vllm {
        max_model_len: Some(tokens),
        ..long.clone()
    };
    assert_eq!(on(&with(longest), &[CARD]).unwrap().warning("spec", "m"), None);
    assert!(on(&with(longest + 16), &[CARD]).unwrap().warning("spec", "m").is_some());
    let large = server("Qwen/Qwen2.5-32B-Instruct");
    let words = on(&large, &[CARD]).unwrap().warning("spec.lxc", &large.model).unwrap();
    assert!(
        words
            .starts_with("spec.lxc.vllm.model: Qwen/Qwen2.5-32B-Instruct may not fit: its weights take about 61.0 GiB"),
        "{words}"
    );
    // Without a length, only the weights are judged.
    assert_eq!(
        on(&server("Qwen/Qwen3-8B-AWQ"), &[CARD]).unwrap().warning("spec", "m"),
        None
    );
}

#[test]
fn several_gpus_share_weights_and_heads_and_the_smallest_counts() {
    let one = server("Qwen/Qwen3-32B-AWQ");
    let two = Vllm {
        tensor_parallel_size: Some(2),
        ..one.clone()
    };
    let (alone, pair) = (on(&one, &[CARD]).unwrap(), on(&two, &[CARD, CARD]).unwrap());
    assert_eq!(alone.longest, None);
    assert_eq!(pair.weights * 2.0, alone.weights);
    assert!(pair.longest.is_some());
    let mixed = on(&two, &[CARD, 12_288]).unwrap();
    assert!(mixed.budget < pair.budget);
    // Eight heads on sixteen GPUs: each has one.
    let many = |gpus| Vllm {
        tensor_parallel_size: Some(gpus),
        max_model_len: Some(1024),
        ..one.clone()
    };
    let cache = |gpus| on(&many(gpus), &[CARD]).unwrap().cache;
    assert_eq!(cache(8), cache(16));
}

#[test]
fn layers_with_a_window_keep_no_more_than_that() {
    let server = |tokens| Vllm {
        max_model_len: Some(tokens),
        ..server("google/gemma-3-12b-it")
    };
    let cache = |tokens| on(&server(tokens), &[CARD]).unwrap().cache.unwrap();
    // 8 of 48 layers see everything.
    assert_eq!(cache(101_024) - cache(1024), 100_000.0 * 8.0 * 2.0 * 8.0 * 256.0 * 2.0);
    assert_eq!(cache(512) * 2.0, cache(1024));
}

#[test]
fn nothing_is_said_where_an_option_changes_everything() {
    let with = |words: &[&str]| Vllm {
        max_model_len: Some(8192),
        extra_args: Some(words.iter().map(ToString::to_string).collect()),
        ..server("Qwen/Qwen3-8B-AWQ")
    };
    let plain = on(&with(&[]), &[CARD]).unwrap().cache.unwrap();
    for words in [
        &["--kv-cache-dtype", "fp8"][..],
        &["--kv_cache_dtype=fp8_e5m2"],
        &["--enforce-eager", "--kv-cache-dtype", "fp8"],
    ] {
        assert_eq!(on(&with(words), &[CARD]).unwrap().cache, Some(plain / 2.0), "{words:?}");
    }
    for words in [
        &["--cpu-offload-gb", "8"][..],
        &["--max_model_len=4096"],
        &["--max-model", "4096"],
        &["-tp", "2"],
        &["--speculative-config.method", "ngram"],
        &["--kv-cache-dtype", "int3"],
    ] {
        assert_eq!(on(&with(words), &[CARD]), None, "{words:?}");
    }
    assert_eq!(estimate(&with(&[]), &[Some(CARD), None]), None);
    assert_eq!(estimate(&with(&[]), &[]), None);
    let embeds = Vllm {
        model_type: Some(VllmModelType::Embedding),
        ..with(&[])
    };
    assert_eq!(on(&embeds, &[CARD]), None);
}
