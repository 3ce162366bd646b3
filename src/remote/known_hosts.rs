//! The host keys that are trusted, from the text of a `known_hosts` file.

use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{HashAlg, PublicKey};
use sha1::{Digest, Sha1};

use super::Node;

/// The keys listed for any of `names` (a host may stand under its name or its address) at `port`; revoked ones are
/// not among them. Lines that cannot be read are skipped, as OpenSSH does.
pub(super) fn keys_of(known_hosts: &str, names: &[&str], port: u16) -> Vec<PublicKey> {
    let wanted: Vec<String> = names.iter().flat_map(|name| spellings(name, port)).collect();
    let entries: Vec<Entry> = known_hosts
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.parse().ok())
        .filter(|entry: &Entry| wanted.iter().any(|name| matches(entry.host_patterns(), name)))
        .collect();
    let revoked = |key: &PublicKey| {
        let is_revoked = |e: &&Entry| matches!(e.marker(), Some(Marker::Revoked));
        entries
            .iter()
            .filter(is_revoked)
            .any(|e| e.public_key().key_data() == key.key_data())
    };
    // Certificate authorities are not hosts' keys; host certificates are not asked for.
    let plain = entries
        .iter()
        .filter(|e| e.marker().is_none())
        .map(|e| e.public_key().clone());
    plain.filter(|key| !revoked(key)).collect()
}

/// Whether a key of a node is known, by its address or its name.
pub fn is_pinned(known_hosts: &str, node: &Node) -> bool {
    !keys_of(known_hosts, &[&node.host, &node.name], node.port).is_empty()
}

/// How a host is written: with the port in brackets unless it is 22, when either will do.
fn spellings(name: &str, port: u16) -> Vec<String> {
    let name = name.to_ascii_lowercase();
    let bracketed = format!("[{name}]:{port}");
    if port == 22 {
        vec![name, bracketed]
    } else {
        vec![bracketed]
    }
}

fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => hmac_sha1(salt, name.as_bytes()) == *hash,
        HostPatterns::Patterns(list) => {
            let hit = |pattern: &str| wildcard(&pattern.to_ascii_lowercase(), name);
            let negated = list.iter().filter_map(|p| p.strip_prefix('!')).any(hit);
            !negated && list.iter().filter(|p| !p.starts_with('!')).any(|p| hit(p))
        }
    }
}

/// `*` stands for anything, `?` for one character.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                // The star takes one more character.
                Some((sp, st)) => (p, t, star) = (sp + 1, st + 1, Some((sp, st + 1))),
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// HMAC (RFC 2104) with SHA-1, which hashed host names use.
fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..20].copy_from_slice(&Sha1::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |byte: u8| block.map(|b| b ^ byte);
    let inner = Sha1::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha1::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

/// The fingerprint as OpenSSH shows it.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    const ED: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn found(text: &str, names: &[&str], port: u16) -> usize {
        keys_of(text, names, port).len()
    }

    #[test]
    fn hosts_are_found_under_every_spelling() {
        let text =
            format!("# comment\nnonsense\npve1,10.0.0.1 {ED} root@pve1\n[pve2]:2222 {ED}\n*.lan,!bad.lan {OTHER}\n");
        assert_eq!(found(&text, &["PVE1"], 22), 1);
        assert_eq!(found(&text, &["other", "10.0.0.1"], 22), 1);
        assert_eq!(found(&text, &["pve1"], 2222), 0);
        assert_eq!(found(&text, &["pve2"], 2222), 1);
        assert_eq!(found(&text, &["a.lan"], 22), 1);
        assert_eq!(found(&text, &["bad.lan"], 22), 0);
        assert_eq!(found(&text, &["lan"], 22), 0);
    }

    #[test]
    fn revoked_keys_and_authorities_are_not_trusted() {
        let text = format!("pve1 {ED}\n@revoked * {ED}\n@cert-authority pve1 {OTHER}\n");
        assert_eq!(found(&text, &["pve1"], 22), 0);
    }

    #[test]
    fn hashed_names_are_found() {
        // RFC 2202, test case 1.
        let mac = hmac_sha1(&[0x0b; 20], b"Hi There");
        assert_eq!(mac[..4], [0xb6, 0x17, 0x31, 0x86]);
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let salt = [7u8; 20];
        let text = format!("|1|{}|{} {ED}\n", encode(&salt), encode(&hmac_sha1(&salt, b"pve1")));
        assert_eq!(found(&text, &["pve1"], 22), 1);
        assert_eq!(found(&text, &["pve2"], 22), 0);
    }
}
