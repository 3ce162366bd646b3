//! Containers of Ollama and llama.cpp: their blocks, as far as the files and scripts tell the models.

use crate::crd::Ollama;

use super::features;
use super::guests::Guest;
use super::values;
use super::writer::Writer;

/// Maps a container that runs Ollama or llama.cpp to its block. `script` is the text of its application script. Nothing
/// tells the model of llama.cpp in a way that could be read, so that it gets no block.
pub fn ollama(w: &mut Writer, guest: &Guest, script: Option<&str>) -> Option<Ollama> {
    let name = guest.legacy_name.as_deref().unwrap_or_default().to_ascii_lowercase();
    let llamacpp = ["llamacpp", "llama.cpp", "llama-cpp"]
        .iter()
        .any(|word| name.contains(word));
    if features::named(guest).iter().any(|feature| feature == "ollama") {
        let models = script.map(pulled).unwrap_or_default();
        match (guest.at.get("application_script"), models.is_empty()) {
            (Some(at), false) => {
                w.mapped(&at, "ollama.models", "the models that the script pulls");
                return Some(Ollama {
                    models,
                    ..Ollama::default()
                });
            }
            _ => w.warn(
                &guest.at,
                "it runs Ollama, and no file names its models: the feature serves what is there",
                "name them in spec.ollama.models, which has them pulled and the server watched",
            ),
        }
    } else if llamacpp || script.is_some_and(|text| code(text).any(|line| line.contains("llama-server "))) {
        w.warn(
            &guest.at,
            "it runs llama.cpp by its application script, which Phoenix does not watch",
            "write spec.llamacpp with its model and the feature llamacpp, and drop application",
        );
    }
    None
}

/// Lines of a script that are no comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#'))
}

/// Models that the script pulls by name, in this order.
fn pulled(text: &str) -> Vec<String> {
    let mut models: Vec<String> = Vec::new();
    for line in code(text) {
        let words: Vec<&str> = line
            .split([' ', '\t', ';', '&', '|'])
            .filter(|w| !w.is_empty())
            .collect();
        for three in words.windows(3) {
            let [program, verb, model] = three else { continue };
            let pulls = program.rsplit('/').next() == Some("ollama") && *verb == "pull";
            let model = model.trim_matches(['"', '\'']);
            let name = values::at_most(256)(model).filter(|m| is_model(m) && !models.contains(m) && models.len() < 64);
            models.extend(name.filter(|_| pulls));
        }
    }
    models
}

/// Whether Ollama has models of such names; what a shell fills in is none.
fn is_model(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:/-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_those_that_are_pulled_by_name() {
        let script = "# ollama pull no\nollama pull qwen3:8b && /usr/local/bin/ollama pull \"org/m\"\nollama pull $MODEL\nollama list x\n";
        assert_eq!(pulled(script), ["qwen3:8b", "org/m"]);
    }
}
