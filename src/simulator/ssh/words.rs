//! Reading a command line as a shell would, as far as quoting goes. Anything that would need a real shell is refused.

/// The words of `line`, or what in it is not understood.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("an open quote".into()),
                    }
                }
            }
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().ok_or("a lone backslash")?),
            '"' | '$' | '`' | '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?' | '#' | '!' => {
                return Err(format!("{c:?} outside single quotes"));
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_understood_and_a_shell_is_not() {
        let words = split(r"pct set 100 --description 'it'\''s $(x)' ''").unwrap();
        assert_eq!(words, ["pct", "set", "100", "--description", "it's $(x)", ""]);
        for bad in ["a; b", "a $(b)", "a | b", "'open", "a > b", "a\\"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
