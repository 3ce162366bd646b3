//! The scripts around a vLLM server, run here with stand-ins for systemctl, journalctl, curl and sleep.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::vllm_server::server;
use phoenix::crd::PhoenixHypervisor;
use phoenix::desired::scripts::scripts;
use serde_json::json;

/// A folder in place of the guest's root, with stand-ins in its `bin`.
struct Guest(tempfile::TempDir);

impl Guest {
    fn new(stand_ins: &[(&str, &str)]) -> Guest {
        let guest = Guest(tempfile::tempdir().unwrap());
        fs::create_dir_all(guest.root().join("bin")).unwrap();
        for (name, text) in stand_ins {
            let path = guest.root().join("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}\n", guest.root().display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        guest
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root().join(name), text).unwrap();
    }

    /// What a script prints; the paths it uses are below the folder.
    fn run(&self, words: &[String]) -> String {
        let here = |word: &String| {
            ["/run/phoenix", "/proc/uptime", "/etc/systemd", "/etc/phoenix"]
                .iter()
                .fold(word.clone(), |text, path| {
                    text.replace(path, &format!("{}{path}", self.root().display()))
                })
        };
        let path = format!("{}/bin:{}", self.root().display(), std::env::var("PATH").unwrap());
        let words: Vec<String> = words.iter().map(here).collect();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn pauses_grow_and_begin_anew() {
    let (object, objects) = server(json!({"model": "m"}));
    let all = scripts(&object, &PhoenixHypervisor::default(), &objects).unwrap();
    let script = all.iter().find(|s| s.id == "vllm").unwrap();
    let pause = script.files.iter().find(|f| f.path.ends_with("/vllm-pause")).unwrap();
    let guest = Guest::new(&[
        ("systemctl", "echo NRestarts=$(cat restarts)"),
        (
            "sleep",
            "IFS=. read -r up rest < proc/uptime; echo $((up + $1)).0 > proc/uptime; echo $1 > slept",
        ),
    ]);
    fs::create_dir(guest.root().join("proc")).unwrap();
    guest.write("proc/uptime", "5000.12 9999.99\n");
    // Seconds that the last start lasted, automatic restarts as systemd counts them, and what is slept.
    for (at, (lasted, restarts, wanted)) in [
        (0, 0, 0),
        (30, 1, 0),
        (30, 2, 10),
        (30, 3, 30),
        (30, 4, 70),
        (30, 5, 150),
        (30, 6, 290),
        (30, 7, 290),
        (599, 8, 290),
        // It ran: the first pause is RestartSec= alone again.
        (600, 9, 0),
        (30, 10, 10),
        (30, 11, 30),
        // Started by hand: systemd counts from 0, or stays where it was when nothing ran.
        (30, 0, 0),
        (30, 1, 0),
        (30, 2, 10),
        (30, 2, 0),
        (30, 3, 0),
        (30, 4, 10),
    ]
    .into_iter()
    .enumerate()
    {
        let uptime = fs::read_to_string(guest.root().join("proc/uptime")).unwrap();
        let up: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        guest.write("proc/uptime", &format!("{}.99 9999.99\n", up + lasted));
        guest.write("restarts", &restarts.to_string());
        guest.write("slept", "0");
        let said = guest.run(&["/bin/sh".into(), "-c".into(), pause.content.clone()]);
        let slept = fs::read_to_string(guest.root().join("slept")).unwrap();
        assert_eq!(slept.trim(), wanted.to_string(), "{at}: {said}");
        assert_eq!(
            said.contains(&format!("started in {wanted} seconds")),
            wanted > 0,
            "{at}: {said}"
        );
    }
}

/// What the probe prints for a server in this state whose journal has these lines, and that answers nothing yet.
fn probed(state: &str, journal: &str) -> String {
    let (object, objects) = server(json!({"model": "m"}));
    let health = phoenix::desired::scripts::health(&object, &PhoenixHypervisor::default(), &objects);
    let probe = health.readiness.unwrap();
    let guest = Guest::new(&[
        ("systemctl", "cat state"),
        ("journalctl", "cat journal"),
        ("curl", "printf 000; exit 7"),
    ]);
    guest.write("state", state);
    guest.write("journal", journal);
    guest.run(&probe.exec.unwrap().command)
}

/// Lines as vLLM 0.15.1 and the libraries that it comes with (transformers 4.57, huggingface_hub 0.36) say them, shortened.
#[test]
fn how_far_loading_is() {
    let state = "ActiveState=active\nSubState=running\nNRestarts=0\n";
    let engine = "(EngineCore_DP0 pid=812)";
    let info = format!("{engine} INFO 02-05 10:11:12");
    for (line, wanted) in [
        (
            "(APIServer pid=7) INFO 02-05 10:11:12 [utils.py:263] non-default args: {'host': '0.0.0.0'}".to_string(),
            "",
        ),
        (
            format!("{info} [core.py:97] Initializing a V1 LLM engine (v0.15.1) with config: compilation_config={{}}"),
            "",
        ),
        (
            format!("{info} [gpu_model_runner.py:4034] Starting to load model Qwen/Qwen3-8B..."),
            ": Starting to load model Qwen/Qwen3-8B...",
        ),
        (
            format!("{info} [weight_utils.py:527] Time spent downloading weights for Qwen/Qwen3-8B: 61.250000 seconds"),
            ": Time spent downloading weights for Qwen/Qwen3-8B: 61.250000 seconds",
        ),
        (
            format!("{engine} \rLoading safetensors checkpoint shards:  75% Completed | 3/4 [00:03<00:01,  1.00s/it]"),
            ": Loading safetensors checkpoint shards:  75% Completed | 3/4",
        ),
        (
            format!("{info} [default_loader.py:291] Loading weights took 3.21 seconds"),
            ": Loading weights took 3.21 seconds",
        ),
        (
            format!("{info} [gpu_model_runner.py:4130] Model loading took 15.27 GiB memory and 66.123456 seconds"),
            ": Model loading took 15.27 GiB memory and 66.123456 seconds",
        ),
        (
            format!("{info} [monitor.py:34] torch.compile takes 21.50 s in total"),
            ": torch.compile takes 21.50 s in total",
        ),
        (
            format!("{info} [gpu_worker.py:356] Available KV cache memory: 3.01 GiB"),
            ": Available KV cache memory: 3.01 GiB",
        ),
        (
            format!("{engine} \rCapturing CUDA graphs (decode, FULL):  43%|████▎     | 3/7 [00:00<00:00,  8.11it/s]"),
            ": Capturing CUDA graphs (decode, FULL):  43% 3/7",
        ),
        (
            format!("{info} [gpu_model_runner.py:5064] Graph capturing finished in 4 secs, took 0.61 GiB"),
            ": Graph capturing finished in 4 secs, took 0.61 GiB",
        ),
    ] {
        let journal = format!("Started vllm.service - vLLM model server.\n{line}\nsomething else\n");
        assert_eq!(
            probed(state, &journal),
            format!("ModelLoading: the server loads its model{wanted}\n"),
            "{line}"
        );
    }
}

#[test]
fn what_ended_a_server() {
    let state = "ActiveState=activating\nSubState=auto-restart\nNRestarts=3\n";
    for (lines, wanted) in [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.03 GiB.",
            "GPU's memory does not suffice",
        ),
        (
            "torch.AcceleratorError: CUDA error: out of memory",
            "GPU's memory does not suffice",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
            "raise gpuMemoryUtilization",
        ),
        (
            "ValueError: To serve at least one request with the models's max seq len (40960), (5.62 GiB KV cache is needed, \
             which is larger than the available KV cache memory (3.01 GiB). Based on the available memory,",
            "lower maxModelLen",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.2/23.6 GiB) on startup is less than desired GPU memory utilization \
             (0.9, 21.24 GiB). Decrease GPU memory",
            "lower gpuMemoryUtilization",
        ),
        (
            "User-specified max_model_len (999999) is greater than the derived max_model_len (max_position_embeddings=40960",
            "lower maxModelLen to what the model allows",
        ),
        (
            "ValueError: World size (2) is larger than the number of available GPUs (1) in this node. If this is",
            "tensorParallelSize does not fit",
        ),
        (
            "Value error, Total number of attention heads (28) must be divisible by tensor parallel size (3).",
            "tensorParallelSize does not fit",
        ),
        // The hub answers 401 for what does not exist too.
        (
            "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.\n\nRepository Not Found for url: https://hub/x.\n\
             If you are trying to access a private or gated repo, make sure you are authenticated.\n\
             OSError: x/y is not a local folder and is not a valid model identifier listed on the hub",
            "there is no such model, or it is private",
        ),
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
            "there is no such model",
        ),
        (
            "Value error, Invalid repository ID or local directory specified: '/models/gone'.",
            "there is no such model",
        ),
        (
            "huggingface_hub.errors.GatedRepoError: 403 Client Error.\n\nCannot access gated repo for url https://hub/x.\n\
             OSError: You are trying to access a gated repo.\n\
             Value error, Invalid repository ID or local directory specified: 'x/y'.",
            "accept the terms of the model",
        ),
        (
            "Value error, The repository x/y contains custom code which must be executed to correctly load the model.\n\
             Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
            "set trustRemoteCode",
        ),
        (
            "Value error, Quantization method specified in the model config (awq) does not match the quantization method \
             specified in the `quantization` argument (gptq).",
            "quantization does not fit",
        ),
        (
            "Value error, Unknown quantization method: foo. Must be one of ['awq', 'fp8'].",
            "quantization does not fit",
        ),
        (
            "Value error, The quantization method fp8 is not supported for the current GPU. Minimum capability: 75.",
            "quantization does not fit",
        ),
        (
            "Value error, awq quantization is currently not supported in rocm.",
            "quantization does not fit",
        ),
        (
            "Value error, torch.bfloat16 is not supported for quantization method gptq. Supported dtypes: [torch.float16]",
            "quantization does not fit",
        ),
        (
            "'The quantization method %s is deprecated. To bypass, set `--allow-deprecated-quantization`.', 'fp_quant'",
            "quantization does not fit",
        ),
        (
            "vllm: error: unrecognized arguments: --max-model-length 4096",
            "does not know an argument",
        ),
        (
            "vllm serve: error: argument --runner: invalid choice: 'x' (choose from 'auto')",
            "does not know an argument",
        ),
        (
            "vllm serve: error: argument --max-num-seqs: expected one argument",
            "does not know an argument",
        ),
        (
            "vllm serve: error: ambiguous option: --max could match --max-num-seqs",
            "does not know an argument",
        ),
        (
            "vllm serve: error: argument --enforce-eager/--no-enforce-eager: ignored explicit argument 'true'",
            "does not know an argument",
        ),
        (
            "RuntimeError: Failed to infer device type, please set the environment variable",
            "no GPU can be used",
        ),
        (
            "OSError: We couldn't connect to 'https://hub' to load the files, and couldn't find them in the cached files.\n\
             Value error, Invalid repository ID or local directory specified: 'x/y'.",
            "the model cannot be fetched",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "OSError: [Errno 98] Address already in use",
            "something else listens on port 8000",
        ),
        (
            "KeyError: 'layers.0.weight'\nRuntimeError: Engine core initialization failed. See root cause above. Failed core \
             proc(s): {}",
            "the server ends by itself (KeyError: 'layers.0.weight')",
        ),
        ("Killed", "see journalctl -u vllm.service"),
    ] {
        let journal: String = lines
            .lines()
            .map(|l| {
                format!(
                    "(EngineCore_DP0 pid=8) ERROR 02-05 10:11:12 [core.py:936] {}\n",
                    l.trim()
                )
            })
            .collect();
        let said = probed(state, &journal);
        assert!(
            said.starts_with("ModelServerFailed: ") && said.contains(wanted),
            "{lines}: {said}"
        );
        // Within a pause and while it loads after one, the same is said.
        for state in [
            "ActiveState=activating\nSubState=start-pre\nNRestarts=3\n",
            "ActiveState=active\nSubState=running\nNRestarts=3\n",
            "ActiveState=failed\nSubState=failed\nNRestarts=0\n",
        ] {
            assert_eq!(probed(state, &journal), said, "{state}");
        }
    }
    let said = probed("ActiveState=inactive\nSubState=dead\nNRestarts=0\n", "");
    assert!(said.contains("vllm.service is not started: systemctl start"), "{said}");
}

/// curl that notes its arguments, answers 401 to who shows no key, and else what a server answers.
const ASKED: &str = r#"
printf '%s\n' "$*" >> arguments
shown=
case " $* " in *" -K - "*) shown=$(cat) ;; esac
case "$*" in
  */health*) printf 200 ;;
  *) [ "$shown" = 'header = "Authorization: Bearer sk-one"' ] || { printf '{"error": "Unauthorized"}'; exit 0; } ;;
esac
case "$*" in
  */v1/models*) printf '{"data": [{"id": "m"}]}' ;;
  */v1/completions*) printf '{"choices": []}' ;;
esac"#;

#[test]
fn the_probe_shows_the_key_and_no_process_list_does() {
    let (object, objects) = server(json!({"model": "m"}));
    let health = phoenix::desired::scripts::health(&object, &PhoenixHypervisor::default(), &objects);
    let probe = health.readiness.unwrap().exec.unwrap().command;
    let guest = Guest::new(&[
        ("systemctl", "echo InvocationID=1"),
        ("journalctl", ""),
        ("curl", ASKED),
    ]);
    assert!(
        guest.run(&probe).contains("does not list the model m"),
        "a server that asks for a key"
    );
    fs::create_dir_all(guest.root().join("etc/phoenix")).unwrap();
    guest.write(
        "etc/phoenix/vllm.env",
        "# words\nHF_HOME=\"/models\"\nVLLM_API_KEY=\"sk-one\"\n",
    );
    assert_eq!(guest.run(&probe), "", "all three are answered");
    let arguments = fs::read_to_string(guest.root().join("arguments")).unwrap();
    assert!(
        arguments.contains("/v1/completions") && !arguments.contains("sk-one"),
        "{arguments}"
    );
}

/// Lines as vLLM 0.15 has them, of two engines.
const METRICS: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 1.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.4153
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2345678e+07
vllm:generation_tokens_total{engine="0",model_name="m with {braces}"} 42.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
"#;

#[test]
fn what_a_server_counts_is_told_after_a_success() {
    let (object, objects) = server(json!({"model": "m"}));
    let health = phoenix::desired::scripts::health(&object, &PhoenixHypervisor::default(), &objects);
    let probe = health.readiness.unwrap().exec.unwrap().command;
    let answers = "for last; do :; done\ncase $last in */metrics) cat metrics ;; */health) printf 200 ;; \
                   */v1/models) echo '{\"data\": [{\"id\": \"m\"}]}' ;; *) echo '{\"choices\": []}' ;; esac";
    let guest = Guest::new(&[
        ("systemctl", "echo InvocationID=1"),
        ("journalctl", ""),
        ("curl", answers),
    ]);
    guest.write("metrics", METRICS);
    for _ in 0..2 {
        let said = guest.run(&probe);
        let mut words: Vec<&str> = said.split_whitespace().collect();
        words.sort_unstable();
        let wanted = [
            "cache=415",
            "generated=42",
            "prompt=12345678",
            "readings",
            "running=3",
            "waiting=0",
        ];
        assert_eq!(words, wanted);
    }
    guest.write("metrics", "");
    assert_eq!(guest.run(&probe), "", "nothing where it counts nothing");
}
