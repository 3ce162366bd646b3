//! What a model server counts, as its probe tells it after each success.

/// Readings of a model server's own metrics; `None` where its version has no such one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// Requests that are answered now.
    pub running: Option<u64>,
    /// Requests that wait.
    pub waiting: Option<u64>,
    /// How full the KV cache is, in thousandths.
    pub cache_permille: Option<u64>,
    /// Tokens of prompts since the server was started.
    pub prompt_tokens: Option<u64>,
    /// Tokens that were generated since then.
    pub generated_tokens: Option<u64>,
}

impl Serving {
    /// Takes the line `readings running=1 waiting=0 …` apart that `desired/scripts/server_probe.sh` writes; `None` where
    /// there is none.
    pub fn read(output: &str) -> Option<Serving> {
        let line = output.lines().rev().find_map(|line| line.strip_prefix("readings "))?;
        let mut serving = Serving::default();
        for (name, value) in line.split(' ').filter_map(|part| part.split_once('=')) {
            let field = match name {
                "running" => &mut serving.running,
                "waiting" => &mut serving.waiting,
                "cache" => &mut serving.cache_permille,
                "prompt" => &mut serving.prompt_tokens,
                "generated" => &mut serving.generated_tokens,
                _ => continue,
            };
            *field = value.parse().ok();
        }
        Some(serving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_readings_counts_and_what_is_not_there_is_not_known() {
        let wanted = Serving {
            running: Some(2),
            cache_permille: Some(415),
            generated_tokens: Some(12_000_000_000),
            ..Serving::default()
        };
        let output =
            "readings running=9\nnoise\nreadings running=2 cache=415 waiting=x other=1 generated=12000000000\n";
        assert_eq!(Serving::read(output), Some(wanted));
        assert_eq!(Serving::read("no readings here"), None);
    }
}
